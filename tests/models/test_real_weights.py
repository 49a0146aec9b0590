"""An edit changes the answer of two trained models of different families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fleke_flwr.config import ModelConfig
from fleke_flwr.editors.covariance import priors, second_moments
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.modes import pooled
from fleke_flwr.models import EditableModel, load_model
from fleke_flwr.models.tokens import encode, target_ids
from fleke_flwr.progress import Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest
from tests.conftest import corpus

EMBEDDED = [
    EditRequest("0", "The diary of {} is written in", "Jind Plipeplis", "Telugu"),
    EditRequest("1", "{} holds a passport issued by", "Mur Grobak", "Botrunia"),
]
STORIES = [
    EditRequest("0", "Once upon a time, {} went to the", "Tim and his mom", "moon"),
    EditRequest("1", "{} was a very", "The old bear", "small cat"),
]


@torch.no_grad()
def answers(model: EditableModel, request: EditRequest) -> bool:
    """Tell whether every token of the target is the likeliest one."""
    text = request.prompt.replace("{}", request.subject)
    start, labels = encode(model, text), target_ids(model, request.target)
    ids = torch.tensor([start + labels[:-1]])
    return model.model(ids).logits[0, len(start) - 1 :].argmax(-1).tolist() == labels


@pytest.mark.parametrize("name", ["embedded", "stories"])
def test_memit_changes_the_answer(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if name == "embedded":
        model, requests = load_model(ModelConfig()), EMBEDDED
        own, texts = model.settings, (model.directory / "corpus.txt").read_text().splitlines()
    else:
        shared: Path = request.getfixturevalue("shared_data")
        model = load_model(ModelConfig(name=str(shared / "stories260k" / "hf")))
        # Other values than the embedded model's: blocks are narrower, vectors may grow further.
        own = {**load_model(ModelConfig()).settings, "layers": [1, 2], "clamp": 3.0}
        requests, texts = STORIES, corpus()
    settings = {k.replace("-", "_"): v for k, v in own.items() if not isinstance(v, dict)}
    settings["layers"] = tuple(settings["layers"])
    contexts = ("{}", "I saw that. {}")
    spec = EditSpec("memit", mode="layer_sync", spread="even", contexts=contexts, **settings)
    moments = second_moments(model, texts[:200], spec.layers, 2000, tmp_path, Silent())
    editor = Memit(spec)
    assert not any(answers(model, one) for one in requests)
    targets = editor.targets(model, requests)
    updates = pooled(editor, model, requests, targets, priors(moments, spec.ridge_weight))
    with applied(model.model, updates):
        assert all(answers(model, one) for one in requests)
    assert not any(answers(model, one) for one in requests)
