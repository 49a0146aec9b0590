"""Importing has no effect, and nothing reaches for the top-level folder names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fleke_flwr", "strategies", "apps")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
_IMPORT_EVERYTHING = """
import logging, os, random, sys
import datasets, flwr.clientapp, flwr.serverapp, matplotlib
import numpy, ray, sklearn, torch, transformers
def state():
    root = logging.getLogger()
    return {
        "random": random.getstate(), "numpy": float(numpy.random.get_state()[1].sum()),
        "seed": torch.initial_seed(), "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(), "dtype": torch.get_default_dtype(),
        "handlers": len(root.handlers), "level": root.level, "cwd": os.getcwd(),
        **{"env " + key: value for key, value in os.environ.items()},
    }
before = state()
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
changed = {key for key in before | after if before.get(key) != after.get(key)}
assert not changed, sorted(changed)
"""


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd="/"
    )


def _module(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "fleke_flwr":
        parts.insert(0, "fleke_flwr")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_package_alone_loads_nothing_heavy() -> None:
    result = _run(
        "import sys, fleke_flwr, fleke_flwr.apps\n"
        "assert 'EditStrategy' in dir(fleke_flwr)\n"
        "heavy = {'torch', 'flwr', 'transformers', 'numpy', 'ray'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    assert result.returncode == 0, result.stderr


def test_public_names_appear_on_first_use() -> None:
    result = _run(
        "import sys, fleke_flwr\n"
        "assert 'torch' not in sys.modules\n"
        "for name in fleke_flwr.__all__: assert getattr(fleke_flwr, name) is not None, name\n"
        "try: fleke_flwr.nonsense\n"
        "except AttributeError as error: assert 'nonsense' in str(error)\n"
        "else: sys.exit('no AttributeError')"
    )
    assert result.returncode == 0, result.stderr


def test_importing_every_module_changes_nothing() -> None:
    modules = sorted({_module(path) for path in SOURCES})
    assert len(modules) > 30
    result = _run(_IMPORT_EVERYTHING, *modules)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_nothing_imports_the_top_level_folders(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & {"apps", "strategies", "tests"}


def test_a_folder_called_strategies_in_the_working_directory_is_no_obstacle(
    tmp_path: Path,
) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    code = "import fleke_flwr.strategies as s; print(s.STRATEGIES.names())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "collabedit" in result.stdout, result.stderr
