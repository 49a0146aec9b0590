from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fleke_flwr.apps.train_editor import EditorTraining, train_editor
from fleke_flwr.config import DataConfig, EditConfig, ModelConfig, RunConfig
from fleke_flwr.editors.hyper.storage import CARD, cached_network, load_network
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.models import load_model
from tests.editors.hyper.networks import cases

FEW = "rank=4,edits=4,judged=2,check-every=2,validated=4,train-share=0.5,validation-share=0.2"


@pytest.fixture
def config(tmp_path: Path, tiny_gpt2: Path) -> RunConfig:
    records = tmp_path / "records.jsonl"
    rows = [
        {
            "subject": case.request.subject,
            "prompt": case.request.prompt,
            "target": case.request.target,
            "original": case.request.original,
            "relation": "home",
            "paraphrases": list(case.paraphrases),
        }
        for case in cases(60)
    ]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return RunConfig(
        model=ModelConfig(name=str(tiny_gpt2)),
        data=DataConfig(path=str(records)),
        cache_dir=str(tmp_path / "cache"),
    )


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def test_a_network_lies_in_the_cache_of_its_model(config: RunConfig) -> None:
    console = quiet()
    trained = train_editor(config, EditorTraining("malmen", steps=2, settings=FEW), console)
    model = load_model(config.model)
    assert trained.directory == cached_network("malmen", model, Path(config.cache_dir))
    card = json.loads((trained.directory / CARD).read_text())
    assert card["layers"] == [0, 1, 2]
    assert card["data"]["path"] == config.data.path
    assert card["split"]["subjects"]["train"] > card["split"]["subjects"]["validation"] > 0
    assert [point["step"] for point in card["curve"]] == [0, 2]
    assert load_network(trained.directory, "malmen", model).trained
    assert isinstance(console.file, StringIO)
    assert f"edit.options=network={trained.directory}" in console.file.getvalue()


def test_training_goes_on_and_never_overwrites(config: RunConfig, tmp_path: Path) -> None:
    order = EditorTraining("mend", tmp_path / "net", steps=2, settings=FEW)
    train_editor(config, order, quiet())
    with pytest.raises(ConfigError, match="--resume"):
        train_editor(config, order, quiet())
    more = EditorTraining("mend", tmp_path / "net", steps=4, resume=True, settings=FEW)
    assert train_editor(config, more, quiet()).card["steps"] == 4


def test_layers_are_those_of_the_config(config: RunConfig, tmp_path: Path) -> None:
    chosen = RunConfig(
        model=config.model, data=config.data, edit=EditConfig(layers="1,3"), cache_dir="unused"
    )
    order = EditorTraining("malmen", tmp_path / "net", steps=1, settings=FEW)
    assert train_editor(chosen, order, quiet()).card["layers"] == [1, 3]


def test_layers_may_be_a_preset_s(config: RunConfig, tmp_path: Path) -> None:
    preset = tmp_path / "own.toml"
    preset.write_text("layers = [0]\n[malmen]\nlayers = [2, 3]\n", encoding="utf-8")
    chosen = replace(config, edit=EditConfig(preset=str(preset)))
    order = EditorTraining("malmen", tmp_path / "net", steps=1, settings=FEW)
    assert train_editor(chosen, order, quiet()).card["layers"] == [2, 3]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (EditorTraining("memit"), "malmen"),
        (EditorTraining("malmen", settings="rnak=3"), "rank"),
        (EditorTraining("malmen", settings="rank"), "name=value"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    order: EditorTraining, said: str, config: RunConfig
) -> None:
    with pytest.raises(ConfigError, match=said):
        train_editor(config, order, quiet())


def test_nothing_to_resume_is_refused(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without --resume"):
        train_editor(config, EditorTraining("malmen", tmp_path, resume=True, settings=FEW), quiet())
