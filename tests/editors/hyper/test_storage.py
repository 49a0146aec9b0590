from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fleke_flwr.editors.hyper.storage import (
    CARD,
    TENSORS,
    cached_network,
    content_hash,
    find_network,
    load_network,
)
from fleke_flwr.errors import ConfigError, DataError
from tests.conftest import LoadTiny
from tests.editors.hyper.networks import write_random_network


def test_a_network_comes_back_as_it_was(
    load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    write_random_network(model, "malmen", tmp_path / "one")
    write_random_network(model, "malmen", tmp_path / "two")
    one, two = (load_network(tmp_path / name, "malmen", model) for name in ("one", "two"))
    assert one.content_hash == two.content_hash == content_hash(tmp_path / "one")
    assert one.trained == {1, 2, 3}
    states = one.network.state_dict(), two.network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(parameter.requires_grad for parameter in one.network.parameters())


@pytest.mark.parametrize("name", [CARD, TENSORS])
def test_a_missing_file_is_named_with_the_command(
    name: str, load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    write_random_network(model, "malmen", tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name}.*fleke train-editor"):
        load_network(tmp_path, "malmen", model)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (TENSORS, b"half", "broken off"),
        (CARD, b"{", "not valid JSON"),
        (CARD, b"[]", "not the card"),
        (CARD, b'{"schema": 1}', "missing: editor"),
    ],
)
def test_a_half_written_file_is_refused(  # every way in which a file can be half there
    name: str, content: bytes, said: str, load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    write_random_network(model, "malmen", tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_network(tmp_path, "malmen", model)


def test_tensors_of_another_card_are_refused(
    load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    write_random_network(model, "malmen", tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    card["rank"] = 3
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(DataError, match="do not fit"):
        load_network(tmp_path, "malmen", model)


def test_another_models_and_another_editors_network_are_refused(
    load_tiny: LoadTiny, tiny_gpt2: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    write_random_network(model, "malmen", tmp_path)
    with pytest.raises(ConfigError, match=r"fleke train-editor .* --editor malmen"):
        load_network(tmp_path, "malmen", load_tiny(tiny_llama))
    with pytest.raises(ConfigError, match="the editor is mend"):
        load_network(tmp_path, "mend", model)


def test_networks_are_looked_for_in_order(
    load_tiny: LoadTiny, tiny_gpt2: Path, tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    with pytest.raises(ConfigError, match="fleke train-editor"):
        find_network("malmen", model, "", tmp_path)
    kept = write_random_network(model, "malmen", cached_network("malmen", model, tmp_path))
    assert find_network("malmen", model, "", tmp_path) == kept.resolve()
    assert find_network("malmen", model, str(tmp_path), tmp_path) == tmp_path.resolve()
