"""A run finds the networks of its editors, and leaves out what they were trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fleke_flwr.apps.networks import (
    editable_cases,
    left_out_note,
    trained_subjects,
    with_network,
    with_own_network,
)
from fleke_flwr.config import DataConfig, EditConfig, ModelConfig, RunConfig
from fleke_flwr.editors.hyper.storage import cached_network, content_hash
from fleke_flwr.editors.hyper.subjects import subject_digest
from fleke_flwr.editors.malmen import Malmen
from fleke_flwr.errors import ConfigError
from fleke_flwr.models import EditableModel, load_model
from tests.editors.hyper.networks import spec_of, write_random_network


@pytest.fixture
def config(tmp_path: Path, tiny_gpt2: Path) -> RunConfig:
    return RunConfig(
        editor="malmen", model=ModelConfig(name=str(tiny_gpt2)), cache_dir=str(tmp_path / "cache")
    )


@pytest.fixture
def model(config: RunConfig) -> EditableModel:
    return load_model(config.model)


def test_the_cached_network_is_found_and_named_with_its_hash(
    config: RunConfig, model: EditableModel
) -> None:
    with pytest.raises(ConfigError, match="fleke train-editor"):
        with_network(spec_of("malmen", ""), config, model)
    kept = cached_network("malmen", model, Path(config.cache_dir))
    write_random_network(model, "malmen", kept)
    found = with_network(spec_of("malmen", ""), config, model)
    assert found.options == {"network": str(kept), "network-hash": content_hash(kept)}
    Malmen(found).check(model)
    assert trained_subjects(config, model) == {1, 2, 3}


def test_a_node_uses_its_own_copy_but_no_other_network(
    config: RunConfig, model: EditableModel, tmp_path: Path
) -> None:
    write_random_network(model, "malmen", tmp_path / "copy")
    write_random_network(model, "malmen", tmp_path / "other", tokens="all")
    options = {"network": "/on/the/server", "network-hash": content_hash(tmp_path / "copy")}
    theirs = spec_of("malmen", "", options=options)
    Malmen(with_own_network(theirs, config, model, str(tmp_path / "copy"))).check(model)
    other = Malmen(with_own_network(theirs, config, model, str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="network-path"):
        other.check(model)
    with pytest.raises(ConfigError, match="fleke train-editor"):
        with_own_network(theirs, config, model, "")


def test_a_node_finds_what_its_run_was_trained_on_where_it_has_it(
    config: RunConfig, model: EditableModel
) -> None:
    kept = cached_network("malmen", model, Path(config.cache_dir))
    write_random_network(model, "malmen", kept)
    elsewhere = replace(config, edit=EditConfig(options="network=/on/the/server"))
    assert trained_subjects(elsewhere, model) == {1, 2, 3}


def test_a_preset_may_name_the_network(
    config: RunConfig, model: EditableModel, tmp_path: Path
) -> None:
    network = write_random_network(model, "malmen", tmp_path / "named")
    preset = tmp_path / "own.toml"
    preset.write_text(f'[malmen]\nlayers = [1, 2]\nnetwork = "{network}"\n', encoding="utf-8")
    chosen = replace(config, edit=EditConfig(preset=str(preset)))
    assert trained_subjects(chosen, model) == {1, 2, 3}


def test_editors_without_a_network_need_none(config: RunConfig, model: EditableModel) -> None:
    plain = RunConfig(model=config.model)
    assert trained_subjects(plain, model) == frozenset()
    spec = spec_of("memit", "")
    assert with_network(spec, plain, model) is spec
    assert with_own_network(spec, plain, model, "") is spec


def test_subjects_of_all_editors_of_a_comparison_count(
    model: EditableModel, tmp_path: Path, config: RunConfig
) -> None:
    network = write_random_network(model, "malmen", tmp_path / "named")
    both = RunConfig(
        editors="memit,malmen",
        model=config.model,
        edit=EditConfig(options=f"network={network}"),
    )
    assert trained_subjects(both, model) == {1, 2, 3}


def test_records_about_trained_subjects_are_left_out_and_counted(
    config: RunConfig, model: EditableModel, tmp_path: Path
) -> None:
    names = ["Mira Tolen", "Jonas Feld", "Ada Karst"]
    rows = [{"subject": name, "prompt": "{} lives in", "target": "Arlen"} for name in names]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = replace(config, data=DataConfig(path=str(path)))
    write_random_network(
        model,
        "malmen",
        cached_network("malmen", model, Path(config.cache_dir)),
        trained=[subject_digest("jonas feld")],
    )
    left = editable_cases(config, model)
    assert [case.request.subject for case in left] == ["Mira Tolen", "Ada Karst"]
    assert left_out_note(config, model).startswith("1 of 3 records left out")
    plain = replace(config, editor="memit")
    assert len(editable_cases(plain, model)) == 3
    assert left_out_note(plain, model) == ""
