"""Made-up rows of results, in the shape of ``metrics.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUALITY = {
    "efficacy": 98.0,
    "paraphrase": 95.5,
    "neighborhood": 97.0,
    "score": 96.8,
    "efficacy_top1": 97.0,
    "paraphrase_top1": 93.0,
    "neighborhood_top1": 84.0,
    "same_subject": 89.0,
}
TOKENS = {
    "efficacy_tokens": 92.9,
    "paraphrase_tokens": 87.3,
    "neighborhood_tokens": 26.9,
    "score_tokens": 50.5,
}
SECONDS = {"targets": 9.0, "statistics": 1.0, "reedit": 0.0, "aggregate": 0.5, "evaluate": 1.5}


def made_row(
    strategy: str,
    edits: int = 40,
    rounds: int = 1,
    *,
    editor: str = "memit",
    settings: dict[str, Any] | None = None,
    **final: Any,
) -> dict[str, Any]:
    """Build one row; keywords replace measurements."""
    intervals = {f"{metric}_ci95": 1.25 for metric in QUALITY}
    quality = {**QUALITY, **intervals, **final}
    return {
        "schema": 1,
        "strategy": strategy,
        "editor": editor,
        "mode": "joint",
        "encoding": "factors",
        "model": "embedded",
        "dataset": "embedded",
        "settings": settings or {},
        "clients": 2,
        "rounds": rounds,
        "edits": edits,
        "base": {**dict.fromkeys(QUALITY, 0.0), "neighborhood": 100.0},
        "final": quality,
        "final_all": quality,
        "final_received": None,
        "per_client": [
            {"client": client, "edits": edits // 2, **quality, "score": 90.0 + client}
            for client in range(2)
        ],
        "payload": {"up_bytes": 2_097_152, "down_bytes": 1000, "up_bytes_paper": 20_000_000},
        "seconds": {"total": 12.3, **SECONDS},
        "peak_rss_mb": 800.0,
        "history": [
            {"round": number + 1, "seconds": SECONDS, "quality": quality}
            for number in range(rounds)
        ],
    }


def personal_row(
    strategy: str = "fededit",
    everybody: float | None = 60.0,
    selected: int = 30,
    **rest: Any,
) -> dict[str, Any]:
    """Build a row of clients with models of their own; ``everybody`` is their score on all."""
    row = made_row(strategy, **rest)
    row["final_all"] = row["final_received"] = None
    if everybody is not None:
        score = {key: everybody for key in ("score", "score_tokens") if row["final"].get(key)}
        row["final_all"] = {**row["final"], **score}
        row["final_received"] = {**row["final"], "score": 55.5}
    row["exchange"] = {
        "received": 40,
        "selected": selected,
        "overlap": 3,
        "optimizations_saved": selected,
        "seconds_per_optimization": 0.25,
        "seconds_saved": 0.25 * selected,
        "seconds_spent": 1.5,
        "bytes_per_saved": 2048 if selected else None,
        "seconds_per_saved": 1.5 / selected if selected else None,
    }
    return row


def remembering(row: dict[str, Any], memory: str, first: dict[int, float | None]) -> dict[str, Any]:
    """Let a row have been asked for the records of round 1, with these scores by round."""
    row["memory"] = memory
    for entry in row["history"]:
        score = first.get(entry["round"])
        quality = {"score": score, "score_ci95": None if score is None else 4.0}
        entry["first"] = {**entry["quality"], **quality}
    row["final_first"] = row["history"][-1]["first"]
    return row


def overlapping(
    row: dict[str, Any], shared: list[list[float | None]], known: list[int], skipped: int = 0
) -> dict[str, Any]:
    """Let a row's clients have looked for edits that are known, ``known`` in each round."""
    row["overlap"] = {
        "threshold": 0.1,
        "looked_at": 40,
        "residual": 0.0526,
        "predicted_residual": None,
        "known": sum(known),
        "skipped": skipped,
        "clients": list(range(len(shared))),
        "shared": shared,
    }
    for entry, count in zip(row["history"], known, strict=True):
        entry["counts"] = {"known": count, "skipped": 0}
    return row


def conflicting(row: dict[str, Any], **counts: Any) -> dict[str, Any]:
    """Let a row have settled twenty conflicts, with the margins of CollabEdit's table 4."""
    unrelated = {"score": 80.0, "score_ci95": 2.5}
    row["conflicts"] = {
        "policy": "latest",
        "losers": 1040,
        "disputed": 20,
        "withdrawn": 19,
        "strengthened": 18,
        "before": {
            "pairs": 20,
            "margin": -18.1,
            "pair_success": 37.0,
            "top1_success": 30.0,
            "unrelated": unrelated,
        },
        "after": {
            "pairs": 20,
            "margin": 17.6,
            "pair_success": 77.6,
            "top1_success": 70.0,
            "unrelated": {**unrelated, "score": 79.0},
        },
        **counts,
    }
    return row


def drifting(row: dict[str, Any], after: float | None = 5.093) -> dict[str, Any]:
    """Let a row say how far its model has moved; beyond measure without a perplexity."""
    change = None if after is None else 100 * (after / 4.963 - 1)
    row["drift"] = {
        "perplexity": {
            "text": "heldout.txt",
            "tokens": 4096,
            "before": 4.963,
            "after": after,
            "change": change,
            "change_ci95": None if change is None else 0.9,
        },
        "weights": {
            f"transformer.h.{layer}.mlp.c_proj": {
                "update": 2.0,
                "weight": 8.0,
                "relative": 0.25 * layer,
            }
            for layer in (3, 4)
        },
        "seconds": 0.8,
    }
    return row


def failing(row: dict[str, Any], failed: int) -> dict[str, Any]:
    """Let so many edits of each client of a row not have taken; name its variant."""
    row["variant"] = f"{row['strategy']} {row['editor']}"
    for entry in row["per_client"]:
        entry["efficacy_top1"] = 100 * (1 - failed / entry["edits"])
    return row


def write_answers(directory: Path, variant: str, client: int, **texts: Any) -> Path:
    """Write what a client keeps of one failed edit."""
    folder = directory / "answers" / variant
    folder.mkdir(parents=True, exist_ok=True)
    failure = {
        "client": client,
        "round": 1,
        "case_id": "7",
        "prompt": "At home Ada talks in",
        "subject": "Ada",
        "wanted": "Khmer",
        "probability": 0.0451,
        "now": "Urdu. The",
        "before": "Zulu. The",
        **texts,
    }
    path = folder / f"client-{client}.jsonl"
    path.write_text(json.dumps(failure) + "\n", encoding="utf-8")
    return directory


def zsre(row: dict[str, Any], **tokens: Any) -> dict[str, Any]:
    """Let a row have what zsRE records allow: its measurements by token."""
    known = {**dict.fromkeys(QUALITY), **TOKENS, "score_tokens_ci95": 0.5, **tokens}
    for place in ("base", "final", "final_all", "final_received"):
        if row[place] is not None:
            row[place] = {**dict.fromkeys(row[place]), **known}
    for record in (*row["per_client"], *(line["quality"] for line in row["history"])):
        record.update(known)
    return row


def write_comparison(directory: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a finished comparison."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"schema": 1, "rows": rows})
    (directory / "comparison.json").write_text(content, encoding="utf-8")
    return directory
