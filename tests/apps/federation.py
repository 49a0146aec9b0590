"""Small federations for tests: records, run configs, and an experiment over the in-memory grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fleke_flwr.apps.client_app import app
from fleke_flwr.apps.experiment import Experiment
from fleke_flwr.config import RunConfig
from fleke_flwr.state import EditState
from tests.strategies.memory_grid import MemoryGrid


def write_records(path: Path, sizes: list[int]) -> Path:
    """Write user records: relation ``r0`` with ``sizes[0]`` of them, and so on."""
    templates = ["{} works as a", "The home of {} is", "{} plays the", "The colour of {} is"]
    objects = ["baker", "harbor", "violin", "green", "miner", "valley", "flute", "red"]
    lines = []
    for relation, size in enumerate(sizes):
        for index in range(size):
            record = {
                "case_id": f"{relation}-{index}",
                "prompt": templates[relation % len(templates)],
                "subject": f"Person{relation} Number{index}",
                "target": objects[(relation + index) % len(objects)],
                "original": objects[(relation + index + 3) % len(objects)],
                "relation": f"r{relation}",
                "paraphrases": [f"It was late. Person{relation} Number{index} is a"],
                "neighbors": [f"Person{relation} Other{index} works as a"],
            }
            lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_config(model: Path, records: Path, directory: Path, **settings: Any) -> RunConfig:
    """Return a configuration for a tiny model in float64."""
    flat: dict[str, Any] = {
        "model.name": str(model),
        "model.dtype": "float64",
        "data.path": str(records),
        "mode": "joint",
        "data.partition": "relation",
        "clients": 3,
        "covariance.tokens": 2000,
        "cache-dir": str(directory / "cache"),
        "output-dir": str(directory / "run"),
        "edit.steps": 4,
        # A random model's edits change more than a trained one's.
        "bound.change": 1.0,
        "timeout": 5.0,
    }
    for key, value in settings.items():
        flat[key.replace("__", ".").replace("_", "-")] = value
    return RunConfig.from_flat(flat)


def federation(config: RunConfig, **grid_options: Any) -> tuple[Experiment, MemoryGrid]:
    """Return an experiment over the in-memory grid that drives the real ClientApp."""
    grid = MemoryGrid(app, config.to_flat(), [{} for _ in range(config.clients)], **grid_options)
    return Experiment(config, grid, Path(config.output_dir)), grid


def states(config: RunConfig) -> dict[str, EditState]:
    """Return the final state of every strategy of a finished comparison."""
    folder = Path(config.output_dir) / "variants"
    return {path.name: EditState.load(path / "edits.safetensors") for path in folder.iterdir()}
