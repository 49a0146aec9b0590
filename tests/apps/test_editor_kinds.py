"""Editors without target vectors in real federations: statistics at once, updates alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fleke_flwr import (
    EditableModel,
    EditRequest,
    EditState,
    LayerStatistics,
    LayerUpdate,
    Prior,
    Progress,
    RunConfig,
    Silent,
    StatisticsEditor,
    UpdateEditor,
)
from fleke_flwr.apps import preflight
from fleke_flwr.apps.central import EditSequence, edit
from fleke_flwr.apps.experiment import check_editors
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.artifacts import read_json
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.editors.base import EDITORS, Moments
from fleke_flwr.editors.direct import located
from fleke_flwr.errors import ConfigError
from fleke_flwr.linalg import compress
from fleke_flwr.models.loading import load_model
from fleke_flwr.strategies import STRATEGIES
from fleke_flwr.values import Scalar
from tests.apps.federation import federation, run_config, write_records

SILENT = Silent()
HERE = "tests.apps.test_editor_kinds"


def _noise(request: EditRequest, size: int, place: int) -> Tensor:
    """Return numbers that belong to a request alone."""
    seed = sum(request.subject.encode()) * 31 + sum(request.target.encode()) + 1000 * place
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, dtype=torch.float64, generator=generator)


class Tokens(StatisticsEditor):
    """Two invented key and residual rows for every request; the prior is a unit matrix."""

    measured = False

    def statistics(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress = SILENT
    ) -> dict[str, LayerStatistics]:
        found = {}
        for place, module in enumerate(self.modules(model)):
            d_out, d_in = model.shape_of(module)
            rows = [(request, 10 * place + copy) for request in requests for copy in range(2)]
            keys = [_noise(request, d_in, number) for request, number in rows]
            residuals = [_noise(request, d_out, number + 5) for request, number in rows]
            found[module] = compress(
                torch.stack(keys, 1) if keys else torch.zeros(d_in, 0),
                torch.stack(residuals, 1) if residuals else torch.zeros(d_out, 0),
                len(requests),
            )
        return found

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        widths = {module: model.shape_of(module)[1] for module in self.modules(model)}
        return {m: Prior([torch.eye(d, dtype=torch.float64)], [0.0]) for m, d in widths.items()}


class Push(UpdateEditor):
    """Pushes both matrices of an MLP, whose outputs are not equally wide, by a fixed amount."""

    settings = ()
    options: ClassVar[Mapping[str, Scalar]] = {"size": 0.5}
    measured = False

    def check(self, model: EditableModel) -> None:
        if self.number("size") <= 0:
            raise ConfigError(f"size = {self.number('size')}: need a number above 0")

    def modules(self, model: EditableModel) -> tuple[str, ...]:
        layer = self.spec.layers[0]
        return (f"transformer.h.{layer}.mlp.c_fc", f"transformer.h.{layer}.mlp.c_proj")

    def priors(self, model: EditableModel, moments: Moments) -> Mapping[str, Prior]:
        return {}

    def updates(
        self,
        model: EditableModel,
        requests: Sequence[EditRequest],
        priors: Mapping[str, Prior],
        progress: Progress = SILENT,
    ) -> dict[str, LayerUpdate]:
        size = self.number("size") * len(requests)
        return {
            module: LayerUpdate(torch.full(model.shape_of(module), size, dtype=torch.float64))
            for module in self.modules(model)
        }


@pytest.fixture
def settings(tiny_gpt2: Path, tmp_path: Path) -> dict[str, Any]:
    """Return model, records of three clients of unequal size, and a directory."""
    records = write_records(tmp_path / "records.jsonl", [4, 1, 3])
    return {"model": tiny_gpt2, "records": records, "directory": tmp_path}


def run(settings: dict[str, Any], name: str, **changes: Any) -> tuple[EditState, dict[str, Any]]:
    directory = settings["directory"] / name
    directory.mkdir()
    config = run_config(settings["model"], settings["records"], directory, **changes)
    federation(config)[0].run()
    output = Path(config.output_dir)
    return EditState.load(output / "edits.safetensors"), read_json(output / "metrics.json")


@pytest.mark.parametrize("encoding", ["factors", "dense"])
def test_statistics_of_an_editor_without_targets_merge_exactly(
    settings: dict[str, Any], encoding: str
) -> None:
    both = {"editor": f"{HERE}:Tokens", "encoding": encoding, "payload_dtype": "float64"}
    merged, row = run(settings, "merged", strategy="collabedit", **both)
    pooled, _ = run(settings, "pooled", strategy="global", **both)
    for module, update in pooled.updates.items():
        wanted = update.dense()
        gap = (merged.updates[module].dense() - wanted).norm() / wanted.norm()
        assert float(gap) < 1e-8
    assert (row["mode"], row["edits"], row["messages"]) == ("frozen", 8, 1)


@pytest.mark.parametrize("strategy", ["simple_average", "edit_avg", "task_arithmetic", "ties"])
@pytest.mark.parametrize("editor", ["Tokens", "Push"])
def test_updates_of_editors_without_targets_are_averaged(
    settings: dict[str, Any], editor: str, strategy: str
) -> None:
    state, row = run(settings, "run", editor=f"{HERE}:{editor}", strategy=strategy)
    assert all(bool(update.dense().any()) for update in state.updates.values())
    assert row["edits"] == 8


def test_an_update_is_averaged_by_hand(settings: dict[str, Any]) -> None:
    state, row = run(
        settings, "run", editor=f"{HERE}:Push", strategy="edit_avg", edit__options="size=0.25"
    )
    # Clients of 4, 1 and 3 edits push by a quarter for each: (16 + 1 + 9) / 8 / 4.
    module = "transformer.h.0.mlp.c_fc"
    assert state.updates[module].shape == (64, 32)
    assert torch.allclose(state.updates[module].dense(), torch.tensor(26 / 32).double())
    assert row["mode"] == "local_sequential"


def test_the_bound_of_an_update_editor_is_one_update_for_all(settings: dict[str, Any]) -> None:
    state, row = run(settings, "run", editor=f"{HERE}:Push", strategy="global")
    assert torch.allclose(
        state.updates["transformer.h.0.mlp.c_proj"].dense(), torch.tensor(4.0).double()
    )
    assert (row["edits"], row["editor"]) == (8, f"{HERE}:Push")


def test_a_second_round_adds_to_the_first(settings: dict[str, Any]) -> None:
    state, _ = run(settings, "run", editor=f"{HERE}:Push", strategy="global", rounds=2)
    assert state.round == 2
    assert torch.allclose(
        state.updates["transformer.h.0.mlp.c_proj"].dense(), torch.tensor(4.0).double()
    )


@pytest.mark.parametrize(
    ("editor", "changes", "said"),
    [
        ("Push", {"strategy": "collabedit"}, "no statistics that add up"),
        ("Push", {"strategy": "fededit"}, "no target vectors"),
        ("Tokens", {"strategy": "fededit"}, "no target vectors"),
        ("Tokens", {"sweeps": 2}, "sweeps = 2 looks at target vectors"),
        ("Tokens", {"conflict__policy": "latest"}, "conflict.policy"),
        ("Tokens", {"overlap__threshold": 0.1}, "overlap.threshold"),
        ("Push", {"strategy": "global", "memory": "dynamic"}, "memory = 'dynamic'"),
        ("Push", {"strategy": "ties", "edit__options": "sise=1"}, "Did you mean 'size'"),
        ("Push", {"strategy": "ties", "edit__options": "size=-1"}, "above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_is_asked(
    settings: dict[str, Any], editor: str, changes: dict[str, Any], said: str
) -> None:
    directory = settings["directory"]
    config = run_config(
        settings["model"],
        settings["records"],
        directory,
        **{"editor": f"{HERE}:{editor}", **changes},
    )
    experiment, grid = federation(config)
    with pytest.raises(ConfigError, match=said):
        experiment.run()
    assert not grid.sent


def test_the_preflight_refuses_it_as_well(settings: dict[str, Any]) -> None:
    config = run_config(
        settings["model"], settings["records"], settings["directory"], editor=f"{HERE}:Push"
    )
    with pytest.raises(ConfigError, match="choose simple_average"):
        preflight.check(config)


def test_every_built_in_editor_fits_some_strategy() -> None:
    kinds = {name: STRATEGIES.get(name) for name in ("simple_average", "ties", "global")}
    for name in EDITORS.names():
        check_editors(kinds, RunConfig(editor=name))


class Watching(Silent):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("editor", ["memit", f"{HERE}:Push", f"{HERE}:Tokens"])
def test_batches_are_edited_one_after_the_other(settings: dict[str, Any], editor: str) -> None:
    directory = settings["directory"]
    config = run_config(settings["model"], settings["records"], directory, editor=editor, clients=1)
    row = edit(config, directory, Watching(), batch=3)
    state = EditState.load(directory / "edits.safetensors")
    assert (row["rounds"], row["edits"], state.round) == (3, 8, 3)
    work = _sequence(config)
    requests = [case.request for case in load_cases(config.data).cases]
    for number, start in enumerate(range(0, 8, 3), start=1):
        work.edit(requests[start : start + 3], number)
    for module, update in work.state.updates.items():
        torch.testing.assert_close(state.updates[module].dense(), update.dense())


def test_a_memory_protects_what_earlier_batches_wrote(settings: dict[str, Any]) -> None:
    directory = settings["directory"]
    both = [
        run_config(
            settings["model"],
            settings["records"],
            directory,
            clients=1,
            mode="frozen",
            memory=memory,
            merge__beta1=1e6,
        )
        for memory in ("none", "dynamic")
    ]
    moved = []
    for config in both:
        work = _sequence(config)
        requests = [case.request for case in load_cases(config.data).cases]
        work.edit(requests[:4], 1)
        first = work.state
        with first.applied(work.model.model):
            keys = located(work.editor).readings(work.model, requests[:4], [0]).keys[0]
        work.edit(requests[4:], 2)
        module = work.model.module_name(0)
        change = work.state.updates[module].dense() - first.updates[module].dense()
        moved.append(float((change @ keys).norm() / change.norm()))
    assert moved[1] < moved[0] / 10


def test_editing_in_batches_refuses_what_is_one_batch(settings: dict[str, Any]) -> None:
    directory = settings["directory"]
    config = run_config(settings["model"], settings["records"], directory, memory="statistics")
    with pytest.raises(ConfigError, match="which is one batch"):
        edit(config, directory, Silent(), batch=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"editor": f"{HERE}:Tokens"}, "target vectors only"), ({"merge__beta0": 2.0}, "beta0 = 2")],
)
def test_a_memory_that_is_not_kept_here_is_refused(
    settings: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    directory = settings["directory"]
    config = run_config(
        settings["model"], settings["records"], directory, memory="dynamic", **changes
    )
    with pytest.raises(ConfigError, match=said):
        edit(config, directory, Silent(), batch=2)


def _sequence(config: RunConfig) -> EditSequence:
    model = load_model(config.model)
    spec = resolve_recipe(config, model)
    priors = known_priors(config, model, spec, Silent())
    return EditSequence(config, EDITORS.get(config.editor)(spec), model, priors, Silent())
