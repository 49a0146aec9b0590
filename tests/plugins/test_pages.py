"""The two plug-in pages, word for word: installed from outside, found by name, run, checked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fleke_flwr import EDITORS, STRATEGIES, Registry
from fleke_flwr.artifacts import read_json
from tests.apps.federation import federation, run_config, write_records
from tests.contracts import test_matrix as contract
from tests.plugins.pages import files, install


@dataclass(frozen=True)
class Plugin:
    """One page: what it registers where, and the settings that use it."""

    page: str
    name: str
    place: str
    registry: Registry[Any]
    key: str


PLUGINS = [
    Plugin("write-a-strategy.md", "clipped_sum", "clipped_sum:ClippedSum", STRATEGIES, "strategy"),
    Plugin("write-an-editor.md", "same_norm", "same_norm:SameNorm", EDITORS, "editor"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    return {
        plugin.name: install(plugin.page, tmp_path_factory.mktemp(plugin.name))
        for plugin in PLUGINS
    }


@pytest.fixture
def installed(
    packages: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Put the packages where Python finds them, for one test."""
    for _, site in packages.values():
        monkeypatch.syspath_prepend(str(site))
    yield packages
    for plugin in PLUGINS:
        sys.modules.pop(plugin.name, None)


each = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)


@each
def test_the_plugin_is_short(plugin: Plugin) -> None:
    code = files(plugin.page)[f"{plugin.name}.py"]
    assert code.count("\n") < 60
    assert max(map(len, code.splitlines())) <= 100


@each
def test_the_plugin_is_found_by_its_name(plugin: Plugin, installed: object) -> None:
    assert plugin.name in plugin.registry.names()
    by_name, by_place = plugin.registry.get(plugin.name), plugin.registry.get(plugin.place)
    assert by_name is by_place
    assert by_name.__module__ == plugin.name


@each
def test_without_its_package_the_name_is_unknown(plugin: Plugin) -> None:
    assert plugin.name not in plugin.registry.names()


@each
@pytest.mark.parametrize("form", ["name", "place"])
@pytest.mark.parametrize("mode", ["joint", "layer_sync"])
def test_the_plugin_runs_in_a_federation(
    plugin: Plugin, form: str, mode: str, installed: object, tiny_gpt2: Path, tmp_path: Path
) -> None:
    records = write_records(tmp_path / "records.jsonl", [3, 2])
    given: dict[str, Any] = {plugin.key: getattr(plugin, form)}
    config = run_config(tiny_gpt2, records, tmp_path, clients=2, rounds=2, mode=mode, **given)
    experiment, _ = federation(config)
    experiment.run()
    row = read_json(Path(config.output_dir) / "metrics.json")
    assert (row[plugin.key], row["edits"]) == (getattr(plugin, form), 5)


@each
@pytest.mark.parametrize("mode", ["anticipated", "layer_sync"])
def test_the_plugin_keeps_the_contract(
    plugin: Plugin, mode: str, installed: object, tiny_llama: Path, tmp_path: Path
) -> None:
    given = {"editor": "memit", "strategy": "collabedit", plugin.key: plugin.name}
    contract.assert_runs(tiny_llama, tmp_path, **given, mode=mode)


def test_the_strategy_keeps_what_the_contract_says_of_strategies(
    installed: object, tiny_gpt2: Path, tmp_path: Path
) -> None:
    (tmp_path / "bits").mkdir()
    contract.test_the_same_command_gives_the_same_bits("clipped_sum", tiny_gpt2, tmp_path / "bits")
    contract.test_one_client_alone_gets_the_central_edit("clipped_sum", tiny_gpt2, tmp_path)


def test_the_option_of_the_page_changes_the_result(
    installed: object, tiny_gpt2: Path, tmp_path: Path
) -> None:
    states = [
        contract.run(tiny_gpt2, tmp_path / str(scale), [3, 1], strategy="clipped_sum", **given)[1]
        for scale, given in enumerate([{"merge__scale": 0.1}, {"merge__scale": 10.0}])
    ]
    norms = [
        torch.stack([update.dense().norm() for update in state.updates.values()]).norm()
        for state in states
    ]
    assert float(norms[1]) > 2 * float(norms[0])


@pytest.mark.slow
@each
def test_the_tests_of_the_page_pass(
    plugin: Plugin, packages: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    source, site = packages[plugin.name]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         f"--rootdir={source}", "-c", str(source / "pyproject.toml"),
         str(source / f"test_{plugin.name}.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout


@pytest.mark.slow
def test_fleke_runs_both_together(packages: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    path = os.pathsep.join(str(site) for _, site in packages.values())
    settings = ["clients=2", "data.edits=8", "edit.steps=3", "covariance.tokens=2000"]
    chosen = ["strategy=clipped_sum", "editor=same_norm", f"cache-dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-c", "from fleke_flwr.apps.cli import main; main()"]
    result = subprocess.run(
        [*command, "run", "collabedit", *settings, *chosen, "-o", str(tmp_path / "out")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    row = read_json(tmp_path / "out" / "metrics.json")
    assert (row["strategy"], row["editor"]) == ("clipped_sum", "same_norm")
