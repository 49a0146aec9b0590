"""What is shipped: one set of defaults, a wheel that works elsewhere, a bundle without surplus."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import fleke_flwr
from fleke_flwr.apps.runner import CLIENT_APP, SERVER_APP
from fleke_flwr.config import RunConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
APP = PROJECT["tool"]["flwr"]["app"]


def _flat(nested: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a clone holds, so that building leaves no trace in the checkout."""
    target = tmp_path_factory.mktemp("clone") / "fleke-flwr"
    unwanted = shutil.ignore_patterns(
        ".git", ".venv*", "outputs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, target, symlinks=True, ignore=unwanted)
    return target


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(source)],
        check=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an empty environment, as one without this checkout would have it.

    Dependencies are borrowed from the environment of the tests through a path file. Path files
    that lie there are not read, so the link of an editable install to the checkout is none here.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    options = ["--no-deps", "--no-index", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = "\n".join(sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    (site / "borrowed.pth").write_text(borrowed + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Return a folder with packages that are called as ours are in the checkout."""
    for name in ("strategies", "apps", "configs", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the wrong {name}')\n")
    return tmp_path


def _without_checkout(workplace: Path) -> dict[str, str]:
    """Return an environment in which the working directory is searched before all else."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**own, "PYTHONPATH": str(workplace)}


def test_the_defaults_of_the_app_are_those_of_the_code() -> None:
    assert _flat(APP["config"]) == RunConfig().to_flat()


def test_the_app_names_the_components_that_the_runner_starts() -> None:
    assert APP["components"] == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}


def test_the_version_is_one() -> None:
    assert PROJECT["project"]["version"] == fleke_flwr.__version__
    assert f"## [{fleke_flwr.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {fleke_flwr.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_every_package_is_listed() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    roots = {"fleke_flwr": "", "apps": "fleke_flwr.", "strategies": "fleke_flwr."}
    found = {
        prefix + ".".join(path.parent.relative_to(ROOT).parts)
        for root, prefix in roots.items()
        for path in (ROOT / root).rglob("__init__.py")
    }
    assert found | {"fleke_flwr.configs"} == listed


def test_every_dependency_is_pinned() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(text for e in extras.values() for text in e)]
    names = {text.split("[")[0].split(">")[0].split("=")[0].strip().lower() for text in wanted}
    assert names - {"fleke-flwr"} <= pinned


@pytest.fixture(scope="module")
def bundle(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    flwr = Path(sys.executable).parent / "flwr"
    environment = {**os.environ, "FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [str(flwr), "build", "--app", str(source)]
    subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
    return next(folder.glob("*.fab"))


@pytest.mark.slow
def test_the_bundle_holds_the_sources_and_nothing_else(source: Path, bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        held = {name for name in archive.namelist() if not name.startswith(".info")}
    wanted = {"pyproject.toml", "README.md", "LICENSE"}
    for folder, ending in (
        ("fleke_flwr", "py"),
        ("strategies", "py"),
        ("apps", "py"),
        ("configs", "toml"),
    ):
        for path in (source / folder).rglob(f"*.{ending}"):
            if not any(parent.is_symlink() for parent in path.parents):
                wanted.add(path.relative_to(source).as_posix())
    assert held == wanted
    assert bundle.stat().st_size < 10 * 2**20


@pytest.mark.slow
def test_the_wheel_holds_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    tops = {name.split("/")[0] for name in held if ".dist-info/" not in name}
    assert tops == {"fleke_flwr"}
    for wanted in (
        "py.typed",
        "apps/cli.py",
        "strategies/collabedit.py",
        "configs/experiments/demo.toml",
        "world/model/config.json",
        "world/model/model.safetensors",
    ):
        assert f"fleke_flwr/{wanted}" in held
    assert [name for name in held if "test" in name.lower()] == ["fleke_flwr/testing.py"]


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(elsewhere: Path, workplace: Path) -> None:
    code = (
        "import fleke_flwr, fleke_flwr.apps.preflight as preflight, sys\n"
        "from fleke_flwr.strategies import STRATEGIES\n"
        "from fleke_flwr.world import embedded_directory\n"
        "site, checkout = sys.argv[1:]\n"
        "assert fleke_flwr.__file__.startswith(site), fleke_flwr.__file__\n"
        "assert len(fleke_flwr.__path__) == 1, fleke_flwr.__path__\n"
        "assert preflight.__file__.startswith(site), preflight.__file__\n"
        "assert str(embedded_directory()).startswith(site)\n"
        "assert 'collabedit' in STRATEGIES.names()\n"
        "preflight.check(preflight.read_config('demo', []))\n"
        "ours = [m for n, m in sys.modules.items() if n.split('.')[0] == 'fleke_flwr']\n"
        "assert len(ours) > 30\n"
        "assert all(m.__file__.startswith(site) for m in ours if m.__file__)\n"
        "assert checkout not in sys.path, sys.path\n"
    )
    subprocess.run(
        [str(elsewhere / "bin" / "python"), "-c", code, str(elsewhere), str(ROOT)],
        check=True,
        cwd=workplace,
        env=_without_checkout(workplace),
    )


@pytest.mark.slow
def test_the_command_line_answers_at_once(elsewhere: Path, workplace: Path) -> None:
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(
            [str(elsewhere / "bin" / "fleke"), "--help"],
            check=True,
            cwd=workplace,
            env=_without_checkout(workplace),
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "compare" in result.stdout
    # Seconds of the processor, which a busy machine does not stretch as it does those of the clock.
    assert min(spent) < 2.0, spent


@pytest.mark.slow
def test_a_run_from_the_wheel_ends_with_a_report(elsewhere: Path, workplace: Path) -> None:
    """Mark the installed copy, so that the manifest tells whether every process ran it."""
    (package,) = elsewhere.glob("lib/python*/site-packages/fleke_flwr/__init__.py")
    text = package.read_text(encoding="utf-8")
    ours, marked = (f'__version__ = "{fleke_flwr.__version__}{mark}"' for mark in ("", "+wheel"))
    assert ours in text
    package.write_text(text.replace(ours, marked), encoding="utf-8")
    settings = ["clients=2", "data.edits=6", "edit.steps=3", "evaluation.every=0"]
    cheap = ["covariance.tokens=2000", f"cache-dir={workplace / 'cache'}"]
    result = subprocess.run(
        [str(elsewhere / "bin" / "fleke"), "run", "collabedit", *settings, *cheap, "-o", "out"],
        cwd=workplace,
        env=_without_checkout(workplace),
        capture_output=True,
        text=True,
    )
    package.write_text(text, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("metrics.json", "manifest.json", "edits.safetensors", "report.html", "done.json"):
        assert (workplace / "out" / name).is_file(), name
    manifest = json.loads((workplace / "out" / "manifest.json").read_text(encoding="utf-8"))
    marked_version = f"{fleke_flwr.__version__}+wheel"
    versions = [manifest["versions"]["fleke-flwr"], *(c["version"] for c in manifest["clients"])]
    assert versions == [marked_version] * 3


@pytest.mark.slow
def test_the_bundle_finds_the_model_that_it_cannot_carry(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    code = (
        "import fleke_flwr, sys\n"
        "from fleke_flwr.world import embedded_directory\n"
        "assert fleke_flwr.__file__.startswith(sys.argv[1]), fleke_flwr.__file__\n"
        "assert (embedded_directory() / 'model.safetensors').is_file(), embedded_directory()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
