"""Withdraw a client's edits, or single ones, from a finished run (the right to be forgotten).

Statistics of the base model are sums over edits, so what is withdrawn is left out of the sums and
the rest is solved again. In ``layer_sync`` the walk through the layers is made again with the
remaining edits' kept target vectors. No target is ever optimised again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fleke_flwr.apps.finished import Finished, Held
from fleke_flwr.apps.forgetting import measured
from fleke_flwr.apps.kept_sums import read_sums, write_sums
from fleke_flwr.apps.kept_targets import POOLED, KeptTargets, joined
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.tables import percent
from fleke_flwr.apps.withdrawal import Withdrawal, check_client, of_client, of_file
from fleke_flwr.artifacts import read_json, write_json
from fleke_flwr.editors.base import Targets
from fleke_flwr.editors.modes import exchange_statistics, pooled, solve_groups
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.linalg import Prior
from fleke_flwr.progress import Progress, Silent
from fleke_flwr.state import EditState
from fleke_flwr.strategies.kept_sums import KeptSums
from fleke_flwr.types import LayerStatistics, LayerUpdate

# How far two solutions of the same float32 sums may be apart, relative to the update.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Revocation:
    """What was withdrawn from a run, and what it changed.

    Parameters
    ----------
    folder : Path
        Where the model's files are.
    client : int or None
        Whose edits; ``None`` for single ones.
    edits : int
        How many.
    keys : tuple[str, ...]
        Hashes that name them; empty for a client's.
    before, after : str
        Fingerprints of the edited model.
    seconds : float
        Until the new model was solved, without loading and measuring.
    measured : dict or None
        See :func:`~fleke_flwr.apps.forgetting.measured`; ``None`` where no records are at hand.
    """

    folder: Path
    client: int | None
    edits: int
    keys: tuple[str, ...]
    before: str
    after: str
    seconds: float
    measured: dict[str, Any] | None

    def entry(self, variant: str) -> dict[str, Any]:
        """Return the line for the run's manifest; it holds no text of what was withdrawn."""
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "variant": variant,
            "client": self.client,
            "edits": self.edits,
            "keys": list(self.keys),
            "before": self.before,
            "after": self.after,
            "seconds": round(self.seconds, 3),
        }


def revoke(run: Path, client: int | None, edits: Path | None, progress: Progress) -> Revocation:
    """Replace a run's model by the one that it would be without a client, or without some edits.

    The withdrawn parts of the kept sums and the withdrawn target vectors are removed from the run's
    directory; its manifest says what was done, ``revocation.json`` what it changed.
    ``metrics.json`` stays what the run measured. Other variants of a comparison keep their models
    but share the target vectors.

    Parameters
    ----------
    run : Path
        Directory of a finished run, or ``RUN/variants/NAME`` of a comparison.
    client : int or None
        Whose edits go.
    edits : Path or None
        A file of the edits that go, in any schema that records are read in.
    progress : Progress
        Told of the measuring.

    Raises
    ------
    ConfigError
        If not exactly one of ``client`` and ``edits`` is given, or there is no such client.
    DataError
        If records, sums or target vectors are missing, or an edit is not one of the model's.
    ModelError
        If the base model is another one now.
    RunError
        If the run's settings do not allow it; the message names those that do.
    """
    if (client is None) == (edits is None):
        raise ConfigError("name either --client N or --edits FILE")
    finished = Finished.open(run)
    finished.check()
    if client is not None:
        check_client(finished, client)
    kept = None if finished.replays else read_sums(finished.folder, finished.state)
    withdrawal = _withdrawal(finished, kept, client, edits)
    priors = _priors(finished)
    if kept is not None:
        _check_solution(finished, kept, priors)
    started = time.perf_counter()
    sums = None if kept is None else _reduced(finished, kept, client, withdrawal)
    if sums is None:
        assert withdrawal is not None  # a replay always has records
        updates = _replayed(finished, withdrawal.rest, priors)
    else:
        updates = solve_groups(sums.groups, priors, finished.spec.mode)
    state = _narrowed(finished.state, updates)
    seconds = time.perf_counter() - started
    done = Revocation(
        folder=finished.folder,
        client=client,
        edits=_edits(kept, client, withdrawal),
        keys=() if client is not None or withdrawal is None else _keys(withdrawal.withdrawn),
        before=finished.state.fingerprint,
        after=state.fingerprint,
        seconds=seconds,
        measured=None if withdrawal is None else measured(finished, withdrawal, state, progress),
    )
    _write(finished, done, state, sums)
    _forget_targets(finished, client, withdrawal)
    return done


def show_revocation(revocation: Revocation, console: Console) -> None:
    """Print what was withdrawn and what it changed."""
    whose = "" if revocation.client is None else f" of client {revocation.client}"
    console.print(
        f"{revocation.edits} edits{whose} withdrawn in {revocation.seconds:.2f} s; "
        f"model {revocation.before} is now {revocation.after}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if revocation.measured is None:
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("in %", no_wrap=True)
    for title in ("base", "before", "after"):
        table.add_column(title, justify="right", no_wrap=True, min_width=6)
    for title, figures in _lines(revocation.measured):
        table.add_row(title, *figures)
    console.print(table)


def _lines(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    gone, rest = found["withdrawn"], found["remaining"]
    score = "score_tokens" if rest["after"]["score"] is None else "score"
    asked = {
        "withdrawn facts: probability of the target": (gone, "probability"),
        "withdrawn facts: on paraphrases": (gone, "probability_paraphrase"),
        "withdrawn facts: efficacy": (gone, "efficacy"),
        "remaining facts: efficacy": (rest, "efficacy"),
        "remaining facts: Score": (rest, score),
    }
    return [
        (title, [percent(group.get(when, {}).get(metric)) for when in ("base", "before", "after")])
        for title, (group, metric) in asked.items()
    ]


def _withdrawal(
    finished: Finished, sums: KeptSums | None, client: int | None, edits: Path | None
) -> Withdrawal | None:
    """Find the records; a whole client's part of kept factors can be found without them."""
    if client is not None and sums is not None and sums.is_factored and not finished.has_targets:
        return None
    held = finished.held
    if sums is not None:
        merged = [sums.merged(item.round, item.client) for item in held]
        held = [
            replace(item, round=round_)
            for item, round_ in zip(held, merged, strict=True)
            if round_ is not None
        ]
    if client is not None:
        return of_client(held, client)
    assert edits is not None  # one of the two, by the caller's check
    return of_file(finished, held, edits)


def _edits(kept: KeptSums | None, client: int | None, withdrawal: Withdrawal | None) -> int:
    if withdrawal is not None:
        return len(withdrawal.withdrawn)
    assert kept is not None  # without records there are sums
    return sum(share.edits for share in kept.shares if share.client == client)


def _reduced(
    finished: Finished, sums: KeptSums, client: int | None, withdrawal: Withdrawal | None
) -> KeptSums:
    """Return the sums without what is withdrawn; a share that loses a part is read again."""
    if withdrawal is None:
        for share in sums.shares:
            if share.client == client:
                sums = sums.without(share.round, share.client)
        return sums
    for place in withdrawal.places:
        gone, rest = _at(place, withdrawal.withdrawn), _at(place, withdrawal.rest)
        if not sums.is_factored:
            sums = sums.minus(*place, _statistics(finished, gone))
            continue
        sums = sums.without(*place)
        if rest:
            sums = sums.plus(*place, _statistics(finished, rest))
    return sums


def _at(place: tuple[int, int], items: Sequence[Held]) -> list[Held]:
    return [item for item in items if (item.round, item.client) == place]


def _statistics(finished: Finished, items: Sequence[Held]) -> dict[str, LayerStatistics]:
    """Read statistics on the base model, as the client did."""
    requests = [item.case.request for item in items]
    return exchange_statistics(
        finished.editor, finished.model, requests, _targets(finished, items), 0
    )


def _targets(finished: Finished, items: Sequence[Held]) -> Targets:
    parts = []
    for client, own in groupby(items, key=lambda item: item.client):
        parts.append(KeptTargets(finished.root, client).of(_keys(list(own))))
    return joined(parts)


def _keys(items: Sequence[Held]) -> tuple[str, ...]:
    return tuple(item.key for item in items)


def _check_solution(finished: Finished, kept: KeptSums, priors: Mapping[str, Prior]) -> None:
    """Refuse to go on where sums and priors do not give the model that the run made of them."""
    solved = solve_groups(kept.groups, priors, finished.spec.mode)
    for module, update in finished.state.updates.items():
        wanted = update.dense().double()
        difference = float((solved[module].dense() - wanted).norm())
        if difference > _ROUNDING * float(wanted.norm()):
            raise DataError(
                f"{finished.folder}: its sums, solved here, give another update of {module} than "
                "edits.safetensors holds; the covariance is another one now (other text, or other "
                "versions): run again"
            )


def _priors(finished: Finished) -> Mapping[str, Prior]:
    return known_priors(finished.config, finished.model, finished.weighted_spec, Silent())


def _replayed(
    finished: Finished, rest: Sequence[Held], priors: Mapping[str, Prior]
) -> Mapping[str, LayerUpdate]:
    """Walk through the layers with the remaining edits."""
    if not rest:
        return {}
    requests = [item.case.request for item in rest]
    return pooled(finished.editor, finished.model, requests, _targets(finished, rest), priors)


def _narrowed(before: EditState, updates: Mapping[str, LayerUpdate]) -> EditState:
    """Return the new state in the precision of the old one."""
    dtype = next((update.left.dtype for update in before.updates.values()), torch.float64)
    narrowed = {module: update.compact().to(dtype) for module, update in updates.items()}
    return EditState(before.base, before.round, narrowed)


def _write(finished: Finished, done: Revocation, state: EditState, sums: KeptSums | None) -> None:
    """Write sums, model and audit; sums of another state than the model's are refused later."""
    if sums is not None:
        write_sums(finished.folder, sums, state)
    state.save(finished.folder / "edits.safetensors")
    entry = done.entry(finished.variant)
    manifest = finished.manifest
    manifest["revocations"] = [*manifest.get("revocations", []), entry]
    write_json(finished.root / "manifest.json", manifest)
    path = finished.folder / "revocation.json"
    known = read_json(path)["revocations"] if path.is_file() else []
    figures = {**entry, **(done.measured or {})}
    write_json(path, {"schema": 1, "revocations": [*known, figures]})


def _forget_targets(finished: Finished, client: int | None, withdrawal: Withdrawal | None) -> None:
    """Remove the withdrawn target vectors, also those of the bound, from the run's directory."""
    if client is not None:
        KeptTargets(finished.root, client).remove()
    if withdrawal is None:
        return
    for holder in {item.client for item in withdrawal.withdrawn} - {client}:
        gone = {item.key for item in withdrawal.withdrawn if item.client == holder}
        KeptTargets(finished.root, holder).drop(gone)
    KeptTargets(finished.root, POOLED).drop({item.key for item in withdrawal.forgotten})
