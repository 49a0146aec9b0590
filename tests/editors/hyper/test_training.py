from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fleke_flwr.artifacts import read_json, read_tensors
from fleke_flwr.editors.hyper.checkpoint import CHECKPOINT
from fleke_flwr.editors.hyper.settings import TrainingSettings
from fleke_flwr.editors.hyper.storage import CARD, TENSORS, load_network
from fleke_flwr.editors.hyper.subjects import subject_digest
from fleke_flwr.editors.hyper.training import TrainingOrder, train_network
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent
from tests.conftest import LoadTiny
from tests.editors.hyper.networks import cases

SETTINGS = TrainingSettings(
    rank=8, edits=6, judged=4, check_every=4, validated=6, learning_rate=1e-2, scalar_rate=5e-2,
    train_share=0.5, validation_share=0.2,
)  # fmt: skip


def order_of(editor: str, steps: int, settings: TrainingSettings = SETTINGS) -> TrainingOrder:
    return TrainingOrder(editor, (1, 2), settings, {"path": "made up"}, steps)


def train(
    model: EditableModel, order: TrainingOrder, directory: Path, resume: bool = False
) -> dict[str, object]:
    return dict(train_network(model, cases(60), order, (directory, resume), Silent()))


@pytest.fixture
def model(load_tiny: LoadTiny, tiny_gpt2: Path) -> EditableModel:
    return load_tiny(tiny_gpt2, "float32")


@pytest.mark.parametrize("editor", ["malmen", "mend"])
def test_training_lowers_the_loss_on_held_out_subjects(
    editor: str, model: EditableModel, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    train(model, order_of(editor, 24), tmp_path)
    curve = read_json(tmp_path / CARD)["curve"]
    first, best = (point["validation"] for point in (curve[0], min(curve, key=_loss)))
    assert best["loss"] < 0.9 * first["loss"]
    assert best["own"] > first["own"]
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())
    stored = load_network(tmp_path, editor, model)
    left = [
        case for case in cases(60) if subject_digest(case.request.subject) not in stored.trained
    ]
    assert 0 < len(left) < 60 - len(stored.trained) + 1


def _loss(point: dict[str, dict[str, float]]) -> float:
    return point["validation"]["loss"]


@pytest.mark.parametrize("editor", ["malmen", "mend"])
def test_a_training_that_goes_on_ends_with_the_same_bits(
    editor: str, model: EditableModel, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, alternatives=0.5)
    train(model, order_of(editor, 8, settings), tmp_path / "whole")
    train(model, order_of(editor, 4, settings), tmp_path / "parts")
    train(model, order_of(editor, 8, settings), tmp_path / "parts", resume=True)
    whole, parts = (read_tensors(tmp_path / name / TENSORS)[0] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    whole, parts = (read_tensors(tmp_path / name / CHECKPOINT)[0] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_it_stops_when_nothing_gets_better(model: EditableModel, tmp_path: Path) -> None:
    settings = replace(SETTINGS, learning_rate=1e-12, scalar_rate=1e-12, patience=2)
    card = train(model, order_of("malmen", 400, settings), tmp_path)
    assert card["steps"] < 60


def test_a_time_limit_keeps_what_was_reached(model: EditableModel, tmp_path: Path) -> None:
    order = replace(order_of("malmen", 400), minutes=1e-6)
    assert train(model, order, tmp_path)["steps"] == 1
    assert load_network(tmp_path, "malmen", model).card["steps"] == 1


def test_resuming_needs_the_same_training(model: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without --resume"):
        train(model, order_of("malmen", 8), tmp_path, resume=True)
    train(model, order_of("malmen", 4), tmp_path)
    other = order_of("malmen", 8, replace(SETTINGS, seed=1))
    with pytest.raises(ConfigError, match="other settings"):
        train(model, other, tmp_path, resume=True)


def test_too_few_subjects_are_refused(model: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"records for (training|validation)"):
        train_network(model, cases(6), order_of("malmen", 4), (tmp_path, False), Silent())


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"rnak": "3"}, "rank"),
        ({"tokens": "some"}, "answer"),
        ({"edits": "0"}, "1 and more"),
        ({"train-share": "0.95"}, "at most 1 together"),
    ],
)
def test_impossible_settings_are_refused(texts: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainingSettings().with_texts(texts)


def test_settings_are_read_from_texts() -> None:
    found = TrainingSettings().with_texts({"learning-rate": "1e-5", "rank": "4", "tokens": "all"})
    assert (found.learning_rate, found.rank, found.tokens) == (1e-5, 4, "all")


@pytest.mark.parametrize("editor", ["malmen", "mend"])
def test_what_was_best_is_kept_when_the_loss_is_lost(
    editor: str, model: EditableModel, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, learning_rate=1e30, scalar_rate=1e30)
    watching = Noting()
    place = (tmp_path, False)
    card = train_network(model, cases(60), order_of(editor, 8, settings), place, watching)
    assert card["steps"] < 8
    assert "lower --set learning-rate" in watching.lines[-1]
    found = load_network(tmp_path, editor, model)
    assert all(bool(value.isfinite().all()) for value in found.network.state_dict().values())


class Noting(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
