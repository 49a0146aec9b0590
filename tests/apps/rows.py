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


def made_row(strategy: str, edits: int = 40, rounds: int = 1, **final: Any) -> dict[str, Any]:
    """Build one row; keywords replace measurements."""
    intervals = {f"{metric}_ci95": 1.25 for metric in QUALITY}
    quality = {**QUALITY, **intervals, **final}
    return {
        "schema": 1,
        "strategy": strategy,
        "editor": "memit",
        "mode": "joint",
        "encoding": "factors",
        "model": "embedded",
        "dataset": "embedded",
        "clients": 2,
        "rounds": rounds,
        "edits": edits,
        "base": {**dict.fromkeys(QUALITY, 0.0), "neighborhood": 100.0},
        "final": quality,
        "per_client": [
            {"client": client, "edits": edits // 2, **quality, "score": 90.0 + client}
            for client in range(2)
        ],
        "payload": {"up_bytes": 2_097_152, "down_bytes": 1000, "up_bytes_paper": 20_000_000},
        "seconds": {
            "total": 12.3,
            "targets": 9.0,
            "statistics": 1.0,
            "aggregate": 0.5,
            "evaluate": 1.5,
        },
        "peak_rss_mb": 800.0,
        "history": [{"round": number + 1, "quality": quality} for number in range(rounds)],
    }


def write_comparison(directory: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a finished comparison."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"schema": 1, "rows": rows})
    (directory / "comparison.json").write_text(content, encoding="utf-8")
    return directory
