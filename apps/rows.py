"""One run as one row: the contract of ``metrics.json``."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any

from fleke_flwr import wire
from fleke_flwr.apps.drift import DRIFT, personal_drift
from fleke_flwr.config import RunConfig
from fleke_flwr.evaluation.quality import summarize
from fleke_flwr.strategies.federated import FederatedStrategy
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.values import Scalar

_PHASES = ("overlap", "targets", "statistics", "reedit", "aggregate", "evaluate")


def metrics_row(
    config: RunConfig,
    strategy: FederatedStrategy,
    name: str,
    base: RoundRecord,
    seconds: float,
    drift: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the row of one finished strategy; percentages, bytes, seconds, MiB.

    Parameters
    ----------
    config : RunConfig
        Of this variant.
    strategy : FederatedStrategy
        After its last round.
    name : str
        As it was asked for.
    base : RoundRecord
        Measurements before editing.
    seconds : float
        How long all rounds have taken.
    drift : Mapping, optional
        What :func:`~fleke_flwr.apps.drift.measure_drift` says of a shared model; that of personal
        models has come with their measurements.
    """
    plan, last = strategy.plan, strategy.history[-1]
    records = strategy.history
    edits = sum(record.edits for record in records)
    return {
        "schema": 1,
        "strategy": name,
        # Names the folder of what clients keep for themselves.
        "variant": f"{strategy.label} {plan.spec.editor}",
        "editor": plan.spec.editor,
        "mode": plan.spec.mode,
        "memory": plan.memory,
        "sweeps": plan.sweeps,
        "messages": strategy.exchanges,
        "encoding": plan.encoding,
        "model": config.model.name,
        "dataset": config.data.path,
        "settings": dict(plan.settings),
        "clients": len(last.clients),
        "rounds": plan.rounds,
        "edits": edits,
        "judged": config.evaluation.records,
        "base": summary(base),
        "final": summary(last),
        **_groups(strategy, last),
        "per_client": [
            {"client": client, "edits": _count(sums), **summarize(sums)}
            for client, sums in sorted(last.clients.items())
        ],
        "payload": {
            "up_bytes": sum(record.up_bytes for record in records),
            "down_bytes": sum(record.down_bytes for record in records),
            "up_bytes_paper": _paper_bytes(plan, len(last.clients)) * len(records),
            "up_bytes_weights": _weight_bytes(plan, len(last.clients)) * len(records),
        },
        "targets": {
            "optimized": sum(record.optimized for record in records),
            "reused": sum(record.reused for record in records),
        },
        **_exchange(strategy),
        **_overlap(strategy),
        **_conflicts(strategy),
        DRIFT: personal_drift(last.groups.get(DRIFT, {})) if strategy.personal else drift,
        "seconds": {
            "total": round(seconds, 3),
            **{
                phase: round(sum(record.seconds.get(phase, 0.0) for record in records), 3)
                for phase in _PHASES
            },
        },
        "peak_rss_mb": round(max(_own_peak(), *(record.peak_rss_mb for record in records)), 1),
        "history": [round_line(record) for record in records],
    }


def _groups(strategy: FederatedStrategy, last: RoundRecord) -> dict[str, Any]:
    """Say what models know of everybody's records; a shared model has been asked them already."""
    if not strategy.personal:
        first = (
            {"final_first": _pooled(last.groups[wire.FIRST])} if wire.FIRST in last.groups else {}
        )
        return {"final_all": summary(last), "final_received": None, **first}
    return {
        f"final_{group}": _pooled(last.groups[group]) if group in last.groups else None
        for group in (wire.ALL, wire.RECEIVED)
    }


def _exchange(strategy: FederatedStrategy) -> dict[str, Any]:
    """Say what re-using vectors has saved, and what it has cost.

    One optimisation is saved for every edit that a client takes over. It is valued at the mean
    seconds that the optimisations of this run took, whenever they were made.
    """
    if not strategy.personal:
        return {}
    records = strategy.history
    counts = {name: _total(records, name) for name in ("received", "selected", "overlap")}
    edits = sum(record.edits for record in records)
    each = _total(records, "worth") / edits if edits else 0.0
    saved = counts["selected"]
    seconds = sum(record.seconds.get("reedit", 0.0) for record in records)
    sent = sum(record.up_bytes + record.down_bytes for record in records)
    return {
        "exchange": {
            **{name: int(value) for name, value in counts.items()},
            "optimizations_saved": int(saved),
            "seconds_per_optimization": round(each, 5),
            "seconds_saved": round(saved * each, 3),
            "seconds_spent": round(seconds, 3),
            "bytes_per_saved": round(sent / saved) if saved else None,
            "seconds_per_saved": round(seconds / saved, 6) if saved else None,
        }
    }


def _overlap(strategy: FederatedStrategy) -> dict[str, Any]:
    """Say which edits were known, and how much key spaces had in common in the last round."""
    plan, records = strategy.plan, strategy.history
    if not plan.watches_overlap:
        return {}
    looked = _total(records, "looked-at")
    return {
        "overlap": {
            "threshold": plan.overlap.threshold,
            "looked_at": int(looked),
            "known": int(_total(records, "known")),
            "skipped": int(_total(records, "skipped")),
            "residual": _total(records, "residual") / looked if looked else None,
            "predicted_residual": _total(records, "predicted-residual") / looked
            if looked
            else None,
            "clients": records[-1].contributors,
            "shared": records[-1].overlap,
        }
    }


def _conflicts(strategy: FederatedStrategy) -> dict[str, Any]:
    """Say how contradictions were settled, over all rounds."""
    policy, records = strategy.plan.conflict.policy, strategy.history
    if not policy or strategy.pooled:
        return {}
    counts = ("losers", "disputed", "withdrawn", "strengthened", "losers_after")
    found: dict[str, Any] = {
        "policy": policy,
        **{name: sum(record.conflicts.get(name, 0) for record in records) for name in counts},
    }
    for when in ("before", "after"):
        judged = [record.judged[when] for record in records if when in record.judged]
        pairs = wire.add_sums([groups[wire.PAIRS] for groups in judged])
        means = {name: 100 * total / count for name, (total, _, count) in pairs.items() if count}
        found[when] = {
            "pairs": pairs["top1_success"][2] if "top1_success" in pairs else 0,
            **{name: means.get(name) for name in ("margin", "pair_success", "top1_success")},
            "unrelated": summarize(wire.add_sums([groups[wire.UNRELATED] for groups in judged])),
        }
    return {"conflicts": found}


def _total(records: Sequence[RoundRecord], name: str) -> float:
    return sum(record.counts.get(name, 0) for record in records)


def round_line(record: RoundRecord) -> dict[str, Any]:
    """Describe one round as one JSON line."""
    return {
        "round": record.round,
        "edits": record.edits,
        "up_bytes": record.up_bytes,
        "down_bytes": record.down_bytes,
        "seconds": {phase: round(value, 3) for phase, value in sorted(record.seconds.items())},
        "update_norm": None if record.update_norm is None else round(record.update_norm, 6),
        "counts": {name: round(value, 3) for name, value in sorted(record.counts.items())},
        "left_out": {str(client): why for client, why in sorted(record.left_out.items())},
        "quality": summary(record),
        **({"first": _pooled(record.groups[wire.FIRST])} if wire.FIRST in record.groups else {}),
        **({"conflicts": record.conflicts} if record.conflicts else {}),
    }


def summary(record: RoundRecord) -> dict[str, float | None]:
    """Summarise the measurements of all clients, pooled record by record."""
    return _pooled(record.clients)


def _pooled(clients: Mapping[int, wire.Sums]) -> dict[str, float | None]:
    return summarize(wire.add_sums([clients[client] for client in sorted(clients)]))


def variant_name(
    config: RunConfig, strategy: str, editor: str, settings: Mapping[str, Scalar]
) -> str:
    """Return the directory name of one variant of a comparison."""
    parts = [strategy]
    if config.editors:
        parts.append(editor)
    parts += [str(value) for value in settings.values()]
    return "-".join(part.replace(":", "_").replace("/", "_") for part in parts)


def spoken_line(row: Mapping[str, Any], record: RoundRecord) -> str:
    """Say one round in one line."""
    quality = summary(record)
    variant = "".join(f" {key}={value}" for key, value in row["settings"].items())
    parts = [f"{row['strategy']}{variant}, round {record.round}", f"{record.edits} edits"]
    score = "score_tokens" if quality["score"] is None else "score"
    for label, metric in (("score", score), ("same subject", "same_subject")):
        if quality[metric] is not None:
            parts.append(f"{label} {quality[metric]:.1f}")
    if record.update_norm is not None:
        parts.append(f"|update| {record.update_norm:.3g}")
    if "selected" in record.counts:
        parts.append(f"took {record.counts['selected']:.0f} of {record.counts['received']:.0f}")
    parts.append(f"{record.up_bytes / 2**20:.1f} MiB up")
    return " | ".join(parts)


def _count(sums: wire.Sums) -> int:
    return sums["efficacy_tokens"][2] if "efficacy_tokens" in sums else 0


def _paper_bytes(plan: Plan, clients: int) -> int:
    """Bytes of ``(Delta_i, K_i K_i^T)`` in float32 for every edited layer, as in the paper."""
    per_client = sum(width * width + width * plan.d_out for width in plan.widths.values())
    return 4 * per_client * clients


def _weight_bytes(plan: Plan, clients: int) -> int:
    """Bytes of every edited weight in float32, as federated averaging would send it."""
    return 4 * clients * sum(width * plan.d_out for width in plan.widths.values())


def _own_peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
