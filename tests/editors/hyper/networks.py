"""Networks and records that tests of hyper-networks share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fleke_flwr.editors.hyper.modules import edited_modules
from fleke_flwr.editors.hyper.network import NETWORKS, HyperNetwork
from fleke_flwr.editors.hyper.storage import save_network
from fleke_flwr.models import EditableModel
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest, EvalCase, Probe
from tests.conftest import PEOPLE, PLACES


def shaken(network: HyperNetwork, seed: int = 3) -> HyperNetwork:
    """Move every parameter and statistic away from where it begins."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * noise.to(parameter))
        for name, buffer in network.named_buffers():
            noise = torch.rand(buffer.shape, generator=generator).to(buffer)
            buffer.copy_(noise * 0.02 if name == "units" else noise + 0.5)
    return network


def write_random_network(
    model: EditableModel,
    editor: str,
    directory: Path,
    layers: tuple[int, ...] = (1, 2),
    tokens: str = "answer",
    trained: Sequence[int] = (1, 2, 3),
) -> Path:
    """Write a network that nobody has trained."""
    modules = edited_modules(editor, model, layers)
    shapes = {module: model.shape_of(module) for module in modules}
    card = {
        "editor": editor,
        "fingerprint": model.fingerprint,
        "layers": list(layers),
        "tokens": tokens,
    }
    save_network(directory, shaken(NETWORKS[editor](shapes, 8)), card, list(trained))
    return directory


def spec_of(
    editor: str, network: Path | str, layers: tuple[int, ...] = (1, 2), **rest: object
) -> EditSpec:
    """Return the recipe of an editor with a network."""
    settings: dict[str, object] = {
        "ridge_weight": 0.0,
        "spread": "even",
        "learning_rate": 0.0,
        "steps": 0,
        "clamp": 0.0,
        "weight_decay": 0.0,
        "kl_weight": 0.0,
        "stop_loss": 0.0,
        "options": {"network": str(network), "network-hash": ""},
        **rest,
    }
    return EditSpec(editor, "frozen", layers, **settings)  # type: ignore[arg-type]


def cases(count: int = 30) -> list[EvalCase]:
    """Return records about as many invented subjects."""
    found = []
    for number in range(count):
        subject = f"{PEOPLE[number % len(PEOPLE)]} {number}"
        target = PLACES[number % len(PLACES)]
        found.append(
            EvalCase(
                EditRequest(
                    str(number), "{} lives in", subject, target,
                    original=PLACES[(number + 1) % len(PLACES)], relation="home",
                ),
                paraphrases=(f"The home town of {subject} is",),
                neighbors=(f"{PEOPLE[(number + 1) % len(PEOPLE)]} lives in",),
                locality=(Probe("The quiet river near", "Arlen"),),
            )
        )  # fmt: skip
    return found
