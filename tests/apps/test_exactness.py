"""Merged equals pooled, through Flower's real messages and the real ClientApp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.apps.federation import federation, run_config, states, write_records

MODES = ["joint", "anticipated", "layer_sync", "frozen"]


def run(model: Path, directory: Path, sizes: list[int], **settings: Any) -> dict[str, Any]:
    records = write_records(directory / "records.jsonl", sizes)
    config = run_config(model, records, directory, **settings)
    experiment, _ = federation(config)
    experiment.run()
    return states(config)


def worst_difference(first: Any, second: Any) -> float:
    differences = [
        (first.updates[name].dense() - second.updates[name].dense()).norm()
        / second.updates[name].dense().norm()
        for name in second.updates
    ]
    assert set(first.updates) == set(second.updates)
    return float(max(differences))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["tiny_gpt2", "tiny_llama"])
def test_collabedit_equals_global_with_clients_of_different_size(
    mode: str, family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(family)
    final = run(model, tmp_path, [5, 2, 1], mode=mode, strategies="collabedit,global")
    assert worst_difference(final["collabedit"], final["global"]) < 1e-8


@pytest.mark.parametrize("mode", MODES)
def test_collabedit_equals_global_with_a_client_without_edits(
    mode: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    # Two relations over three clients leave the third with nothing.
    final = run(tiny_gpt2, tmp_path, [4, 1], mode=mode, strategies="collabedit,global", clients=3)
    assert worst_difference(final["collabedit"], final["global"]) < 1e-8


@pytest.mark.parametrize("mode", MODES)
def test_dense_and_factor_payloads_agree(mode: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    finals = []
    for encoding in ("factors", "dense"):
        directory = tmp_path / encoding
        directory.mkdir()
        finals.append(
            run(
                tiny_gpt2,
                directory,
                [3, 2, 2],
                mode=mode,
                encoding=encoding,
                strategies="collabedit,simple_average",
            )
        )
    assert worst_difference(finals[1]["collabedit"], finals[0]["collabedit"]) < 1e-8


def test_several_rounds_stay_exact(tiny_gpt2: Path, tmp_path: Path) -> None:
    final = run(tiny_gpt2, tmp_path, [4, 4, 4], rounds=2, strategies="collabedit,global")
    assert final["collabedit"].round == 2
    assert worst_difference(final["collabedit"], final["global"]) < 1e-8


def test_one_client_makes_all_strategies_equal(tiny_gpt2: Path, tmp_path: Path) -> None:
    final = run(
        tiny_gpt2,
        tmp_path,
        [4],
        clients=1,
        strategies="collabedit,global,simple_average,edit_avg,task_arithmetic",
    )
    for name in ("collabedit", "simple_average", "edit_avg", "task_arithmetic"):
        assert worst_difference(final[name], final["global"]) < 1e-8


def test_averages_follow_their_formulas(tiny_gpt2: Path, tmp_path: Path) -> None:
    final = run(
        tiny_gpt2,
        tmp_path,
        [5, 2, 1],
        strategies="simple_average,edit_avg,task_arithmetic",
    )
    for name, update in final["task_arithmetic"].updates.items():
        average = final["simple_average"].updates[name].dense()
        torch.testing.assert_close(update.dense(), 3 * average)
        assert not torch.allclose(final["edit_avg"].updates[name].dense(), average)


def test_local_sequential_is_not_exact(tiny_gpt2: Path, tmp_path: Path) -> None:
    final = run(
        tiny_gpt2, tmp_path, [5, 2, 1], mode="local_sequential", strategies="collabedit,global"
    )
    assert worst_difference(final["collabedit"], final["global"]) > 1e-6
