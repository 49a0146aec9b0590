"""What ``fleke check`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fleke_flwr.apps.results import BOUND
from fleke_flwr.apps.tables import amount

_LISTED = 10


def show(content: Mapping[str, Any], console: Console) -> None:
    """Print what :func:`~fleke_flwr.apps.check.examine` found, the verdict last."""
    for title, lines in _sections(content):
        console.print(Text(title, style="bold"))
        for line in lines:
            if isinstance(line, str) and not console.is_terminal:
                console.print(Text(f"  {line}"), soft_wrap=True)
            else:
                shown = Text(line) if isinstance(line, str) else line
                console.print(Padding(shown, (0, 0, 0, 2)))
    reasons = content["reasons"]
    if content["would_start"]:
        console.print(Text("A run would start.", style="bold green"))
        return
    console.print(Text(f"A run would be refused, for {len(reasons)} reason(s):", style="bold red"))
    for line in _listed(reasons):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _sections(content: Mapping[str, Any]) -> Iterable[tuple[str, Sequence[str | Table]]]:
    yield f"records of {content['source']}", _records(content["records"])
    if "tokens" not in content:
        return
    yield f"model {content['model']} ({content['fingerprint']})", _model(content)
    if content["shares"]:
        yield "clients", [_shares(content["shares"]), *_equal_keys(content["shares"])]
    yield "payload", _payload(content["payload"])
    yield "memory", _memory(content["memory"])
    yield "covariance", _covariance(content["covariance"])


def _records(records: Mapping[str, Any]) -> list[str]:
    schemas = ", ".join(f"{count} {name}" for name, count in records["schemas"].items())
    lines = [f"{records['read']} read ({schemas or 'none'}), {records['usable']} usable"]
    for reason, places in records["left_out"].items():
        lines.append(f"{len(places)} left out, {reason}: {_places(places)}")
    for kind in ("duplicates", "conflicts"):
        found = [
            f"  {item['place']} repeats {item['first']}: {item['question']!r} -> {item['target']!r}"
            + (f", there {item['first_target']!r}" if kind == "conflicts" else "")
            for item in records[kind]
        ]
        lines += _listed(found)
    if records["wrong"]:
        lines.append(f"{len(records['wrong'])} wrong; see the reasons below")
    return lines


def _model(content: Mapping[str, Any]) -> list[str]:
    tokens, room = content["tokens"], content["capacity"]
    lengths = ", ".join(f"{size}: {count}" for size, count in tokens["target_tokens"].items())
    lines = [
        f"{tokens['asked']} records asked for; targets by their number of tokens: {lengths or '-'}",
        f"already the model's answer: {len(tokens['known'])}" + _behind(tokens["known"]),
    ]
    inside = tokens["subject_ends_inside_a_token"]
    if inside:
        lines.append(
            f"subject ends inside a token, so that its key is read behind it: {len(inside)}"
            + _behind(inside)
        )
    if tokens["refused"]:
        lines.append(f"cannot be edited with: {len(tokens['refused'])}; see the reasons below")
    verdict = "beyond what it holds: expect losses" if room["is_beyond"] else "fits"
    lines.append(
        f"capacity: {room['edits']} edits, about {room['most']} "
        f"(0.65 of inner width {room['inner_width']}) can be held: {verdict}"
    )
    return lines


def _shares(shares: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    encodings = list(shares[0]["bytes"])
    for title in ("client", "records by round", *(f"{name}, a round" for name in encodings)):
        table.add_column(title, justify="right" if title == "client" else "left")
    for share in shares:
        table.add_row(
            str(share["client"]),
            _run_lengths([str(count) for count in share["rounds"]]),
            *(_run_lengths([amount(size) for size in share["bytes"][name]]) for name in encodings),
        )
    return table


def _equal_keys(shares: Sequence[Mapping[str, Any]]) -> list[str]:
    equal = sum(share["equal_keys"] for share in shares)
    if not equal:
        return []
    return [
        f"{equal} records begin, up to the subject's last token, as another of their client's "
        "round does: their keys are equal, and factors may be smaller by so many columns"
    ]


def _payload(payload: Mapping[str, Any]) -> list[str]:
    if not payload["kind"] and payload["strategy"] == BOUND:
        return [f"{payload['strategy']} pools records; clients send no payload"]
    if not payload["kind"]:
        return [f"what clients send with editor {payload['editor']} is not foretold"]
    lines = [
        f"{payload['strategy']}, mode {payload['mode']}: {payload['kind']} as "
        f"{payload['encoding']}, {payload['dtype']}; without conflicts and overlap"
    ]
    lines += [f"{name}, numbers: {text}" for name, text in payload["numbers"].items()]
    return [*lines, payload["letters"]]


def _memory(memory: Mapping[str, int]) -> list[str]:
    return [
        f"model {amount(memory['model'])}",
        f"covariance, float64: {amount(memory['covariance_each'])} a layer, "
        f"{amount(memory['covariance_all'])} while all are computed",
        f"activations of one batch: about {amount(memory['activations'])}",
    ]


def _covariance(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    kept = [str(layer["layer"]) for layer in layers if layer["is_kept"]]
    missing = [str(layer["layer"]) for layer in layers if not layer["is_kept"]]
    lines = []
    if kept:
        lines.append(f"layers {', '.join(kept)}: kept, used if the text is the same")
    if missing:
        lines.append(
            f"layers {', '.join(missing)}: to be computed from {layers[0]['tokens']} tokens"
        )
    return lines


def _run_lengths(values: Sequence[str]) -> str:
    """Write a sequence with what comes several times in a row once: ``7, 3 x 6``."""
    runs: list[tuple[str, int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1] = (value, runs[-1][1] + 1)
        else:
            runs.append((value, 1))
    return ", ".join(f"{times} x {value}" if times > 1 else value for value, times in runs)


def _behind(places: Sequence[str]) -> str:
    return f" ({_places(places)})" if places else ""


def _places(places: Sequence[str]) -> str:
    more = len(places) - _LISTED
    return ", ".join(places[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _listed(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _LISTED
    return [*lines[:_LISTED], *([f"  and {more} more; see --output"] if more > 0 else [])]
