"""The priors of a run: computed once, kept on disk, factored when needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fleke_flwr.apps.priors import cache_directory, known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.config import RunConfig
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent


def config(tmp_path: Path, weight: float) -> RunConfig:
    flat = {
        "cache-dir": str(tmp_path),
        "covariance.tokens": 300,
        "edit.layers": "0,1",
        "edit.ridge-weight": weight,
    }
    return RunConfig.from_flat(flat)


def test_priors_are_known_after_the_first_call_and_share_the_files(
    tiny_gpt2: Path, load_tiny: Callable[..., EditableModel], tmp_path: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    found = [
        known_priors(chosen, model, resolve_recipe(chosen, model), Silent())
        for chosen in (config(tmp_path, 2.0), config(tmp_path, 2.0), config(tmp_path, 6.0))
    ]
    assert found[0] is found[1]
    assert set(found[0]) == {model.module_name(0), model.module_name(1)}
    assert len(list((cache_directory(config(tmp_path, 2.0)) / "covariance").iterdir())) == 2
    for module, prior in found[0].items():
        assert prior.sizes == (64,)
        torch.testing.assert_close(3 * prior.matrix(), found[2][module].matrix())
