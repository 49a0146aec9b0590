"""Where a run came from: configuration, versions, revision, fingerprints, seed."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fleke_flwr import __version__
from fleke_flwr.config import RunConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.spec import EditSpec
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.plan import Plan

_PACKAGES = ("flwr", "torch", "transformers", "datasets", "flwr-datasets", "numpy", "ray")


def manifest(
    config: RunConfig, model: EditableModel, plan: Plan, nodes: list[Node], refused: list[str]
) -> dict[str, Any]:
    """Collect what is needed to run the same thing again, and who took part or could not."""
    return {
        "schema": 1,
        "config": config.to_flat(),
        "recipe": _recipe(plan.spec),
        "jitter": {module: list(prior.jitters) for module, prior in plan.priors.items()},
        "model": {"name": config.model.name, "fingerprint": model.fingerprint},
        "data": _data(config, nodes),
        "clients": [
            {"client": node.partition, "edits": node.edits, "version": node.version}
            for node in nodes
        ],
        "refused": refused,
        "versions": {"fleke-flwr": __version__, "python": platform.python_version(), **_versions()},
        "revision": _revision(),
        "seed": config.seed,
    }


def _recipe(spec: EditSpec) -> dict[str, Any]:
    return dict(json.loads(spec.to_json()))


def _data(config: RunConfig, nodes: list[Node]) -> dict[str, Any]:
    """Describe the records, unless the clients have brought their own, which only they know."""
    if any(node.own_data for node in nodes):
        return {"name": "the clients' own", "fingerprint": "", "skipped": {}}
    cases = load_cases(config.data)
    return {"name": cases.name, "fingerprint": cases.fingerprint, "skipped": dict(cases.skipped)}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _revision() -> str:
    """Return the git revision of the checkout this code runs from; empty outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    answer = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()
