"""The public names are exactly these, documented and typed; docs/stability.md promises them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import fleke_flwr

ROOT = Path(__file__).parents[1]
ERRORS = {
    "ConfigError", "DataError", "FlekeError", "ModelError", "PayloadError", "RequestError",
    "RunError", "StatisticsError", "UnsupportedModelError", "WorldError",
}  # fmt: skip
PUBLIC = {
    "fleke_flwr": ERRORS | {
        "EDITORS", "STATISTICS", "STRATEGIES", "UPDATES", "__version__",
        "CaseSet", "EditMethod", "EditPayload", "EditRequest", "EditSpec", "EditState",
        "EditStrategy", "EditableModel", "Editor", "EvalCase", "FederatedStrategy",
        "LayerStatistics", "LayerUpdate", "MemoryVectors", "Node", "Plan", "Prior", "Probe",
        "Progress", "Readings",
        "Registry", "RoundRecord", "RunConfig", "Silent", "StatisticsEditor", "Targets",
        "UpdateEditor",
        "load_cases", "load_config", "load_model", "option", "solve",
    },
    "fleke_flwr.strategies": {
        "STRATEGIES", "CollabEdit", "EditAvg", "EditStrategy", "FedEdit", "FedEditNoCondition",
        "FederatedStrategy", "GlobalEdit", "Node", "Plan", "RoundRecord", "SimpleAverage",
        "TaskArithmetic", "Ties", "WeightedSum", "option",
    },
    "fleke_flwr.editors": {
        "EDITORS", "AdaPLE", "AlphaEdit", "EditMethod", "Editor", "Emmet", "FineTuning",
        "FineTuningW", "Malmen", "Memit", "Mend", "Pmet", "Readings", "Rome", "StatisticsEditor",
        "Targets", "UpdateEditor",
    },
    "fleke_flwr.testing": {
        "check_editor", "check_strategy", "example_payload", "example_plan", "example_spec",
    },
}  # fmt: skip
NAMES = sorted((module, name) for module, names in PUBLIC.items() for name in names)
CONSTANTS = {"EDITORS", "STATISTICS", "STRATEGIES", "UPDATES", "__version__"}
DOCUMENTED = [(module, name) for module, name in NAMES if name not in CONSTANTS]
API_PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))

CONSUMER = '''\
"""A strictly typed program on the public names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fleke_flwr import (
    EDITORS, STRATEGIES, UPDATES, EditableModel, EditMethod, EditPayload, EditRequest, EditSpec,
    EditState, EditStrategy, Editor, FlekeError, LayerStatistics, LayerUpdate, Node, Plan,
    Prior, Progress, Readings, RunConfig, Silent, Targets, load_cases, load_config, load_model,
    option, solve,
)
from fleke_flwr.editors import Memit
from fleke_flwr.testing import check_editor, check_strategy, example_plan


class First(EditStrategy):
    reply = UPDATES

    def __init__(
        self, plan: Plan, nodes: Sequence[Node] | None = None, scale: float = -1.0
    ) -> None:
        super().__init__(plan, nodes)
        self.scale: float = option("merge.scale", scale, default=1.0, low=0.0, high=2.0)

    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        return {name: update.scaled(self.scale) for name, update in payloads[0].updates.items()}


class Plain(Memit):
    def targets(
        self, model: EditableModel, requests: Sequence[EditRequest], progress: Progress = Silent()
    ) -> Targets:
        found: Targets = super().targets(model, requests, progress)
        return found.rows(range(len(requests)))


def residual(editor: Editor, model: EditableModel, requests: list[EditRequest]) -> float:
    spec: EditSpec = editor.spec
    found: Readings = editor.readings(model, requests, spec.layers)
    return float(editor.residuals(editor.targets(model, requests), found).norm())


def width(statistics: LayerStatistics, prior: Prior) -> tuple[int, int]:
    return solve(statistics, prior).shape


def main(path: Path) -> str:
    try:
        config: RunConfig = load_config(path, ["clients=2"])
    except FlekeError as error:
        return str(error)
    requests = [case.request for case in load_cases(config.data).cases]
    model = load_model(config.model)
    with EditState(model.fingerprint).applied(model.model):
        check_editor(Plain, model, requests[:2], steps=1)
    check_strategy(First, scale=0.5)
    editor: type[EditMethod] = EDITORS.get("memit")
    return f"{First(example_plan()).scale} {editor} {STRATEGIES.names()}"
'''


def _object(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


@pytest.mark.parametrize("module", PUBLIC)
def test_the_exported_names_are_exactly_these(module: str) -> None:
    found = import_module(module)
    assert sorted(found.__all__) == sorted(PUBLIC[module])
    assert set(dir(found)) >= PUBLIC[module]


@pytest.mark.parametrize(("module", "name"), DOCUMENTED, ids=lambda part: part)
def test_a_public_name_has_a_docstring(module: str, name: str) -> None:
    documented = _object(module, name)
    text = vars(documented).get("__doc__") if isinstance(documented, type) else documented.__doc__
    assert text, name
    # What @dataclass writes where nobody has written anything.
    assert not text.startswith(f"{name}("), name


def _members(module: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the functions behind a public name: itself, or the methods a class defines."""
    found = _object(module, name)
    if not isinstance(found, type):
        yield name, found
        return
    for own, value in vars(found).items():
        if own.startswith("_") and own != "__init__":
            continue
        function = value.fget if isinstance(value, property) else value
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function):
            yield f"{name}.{own}", function


@pytest.mark.parametrize(("module", "name"), DOCUMENTED, ids=lambda part: part)
def test_a_public_name_is_fully_annotated(module: str, name: str) -> None:
    for place, function in _members(module, name):
        if place.endswith(".__init__") and _is_made(module, name):
            continue
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, place
        for parameter in signature.parameters.values():
            if parameter.name in ("self", "cls"):
                continue
            assert parameter.annotation is not inspect.Parameter.empty, f"{place}: {parameter}"
            assert parameter.kind is parameter.VAR_KEYWORD or parameter.annotation != "Any", place
        assert function.__doc__ or place.endswith("__init__"), place


def _is_made(module: str, name: str) -> bool:
    """Tell whether a constructor is written by ``dataclasses`` or ``typing``."""
    found = _object(module, name)
    return hasattr(found, "__dataclass_fields__") or getattr(found, "_is_protocol", False)


def test_every_public_name_is_on_an_api_page() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in API_PAGES)
    shown = {line.removeprefix("::: ") for line in text.splitlines() if line.startswith("::: ")}
    named = {name.rpartition(".")[2] for name in shown}
    assert {name for _, name in NAMES} - {"__version__"} == named
    for place in shown:
        module, _, name = place.rpartition(".")
        assert name in PUBLIC[module], place


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="EditStrategi"):
        _ = fleke_flwr.EditStrategi


@pytest.mark.slow
def test_a_strictly_typed_program_checks(tmp_path: Path) -> None:
    """Check one that uses everything, with one misspelt name as the only mistake."""
    pytest.importorskip("mypy")
    mistake = "from fleke_flwr import EditStrategi\n"
    (tmp_path / "consumer.py").write_text(CONSUMER + mistake, encoding="utf-8")
    # As with an installed package, nothing is said of the package's own sources.
    options = ["--strict", "--python-version", "3.11", "--follow-imports", "silent"]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "consumer.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    *lines, _ = result.stdout.splitlines()
    line = CONSUMER.count("\n") + 1
    assert [text for text in lines if ": error: " in text] == [
        text for text in lines if text.startswith(f"consumer.py:{line}: error: ")
    ], result.stdout
    assert "EditStrategi" in result.stdout, result.stdout + result.stderr
