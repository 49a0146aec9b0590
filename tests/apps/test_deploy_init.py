"""``fleke deploy init``: everything in its place, for whom it concerns, never overwritten."""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from fleke_flwr.apps.deploying.init import Layout, init, read_nodes
from fleke_flwr.errors import ConfigError

NODES = ("hospital-1", "hospital-2")


def made(root: Path, host: str = "127.0.0.1", port: int = 8443) -> tuple[Layout, str]:
    layout = Layout(root, NODES, host, port)
    buffer = io.StringIO()
    init(layout, Console(file=buffer, width=40))
    return layout, buffer.getvalue()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_keys_are_readable_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        layout, _ = made(tmp_path / "clinics")
    finally:
        os.umask(before)
    keys = sorted(str(path.relative_to(layout.root)) for path in layout.root.rglob("*.key"))
    assert keys == ["ca.key", "hospital-1/node.key", "hospital-2/node.key", "superlink/server.key"]
    assert {mode(layout.root / key) for key in keys} == {0o600}


def test_a_node_gets_nothing_that_is_another_s(tmp_path: Path) -> None:
    layout, _ = made(tmp_path / "clinics")
    folder = layout.node("hospital-1")
    assert sorted(path.name for path in folder.iterdir()) == [
        "ca.crt", "node.key", "node.pub", "supernode.sh",
    ]  # fmt: skip
    assert (folder / "ca.crt").read_bytes() == layout.authority.read_bytes()
    assert str(layout.root) not in (folder / "supernode.sh").read_text()


def test_flower_finds_the_connection(tmp_path: Path) -> None:
    layout, _ = made(tmp_path / "our clinics", host="fleke.example.org", port=443)
    content = tomllib.loads((layout.root / "flower" / "config.toml").read_text())
    assert content["superlink"] == {
        "default": "our-clinics",
        "our-clinics": {
            "address": "fleke.example.org:443",
            "root-certificates": str(tmp_path / "our clinics" / "ca.crt"),
        },
    }


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    layout, _ = made(tmp_path / "clinics")
    before = {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"holds keys already \(ca\.key, hospital-1/node\.key"):
        made(layout.root)
    assert {path: path.read_bytes() for path in before} == before


def test_a_single_key_is_reason_enough_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds keys already \(ca\.key\)"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ca.key"]


@pytest.mark.parametrize("host", ["https://here", "here:80", "here ", "", "two words", "-x"])
def test_a_host_that_is_none_is_refused_before_anything_is_made(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--host"):
        made(tmp_path / "clinics", host=host)
    assert not (tmp_path / "clinics").exists()


def test_an_address_of_the_sixth_version_is_written_as_flower_reads_it(tmp_path: Path) -> None:
    layout, _ = made(tmp_path / "clinics", host="::1")
    assert layout.address == "[::1]:8443"
    assert "--superlink [::1]:8443" in (layout.node("hospital-1") / "supernode.sh").read_text()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("", "no name"),
        ("a,b,a", "'a' stands twice"),
        ("a,../b", "'../b' cannot be"),
        ("superlink", "'superlink' cannot be"),
        ("ca.key", "'ca.key' cannot be"),
        ("a b", "'a b' cannot be"),
    ],
)
def test_names_that_are_no_folders_are_refused(names: str, found: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(found)):
        read_nodes(names)


def test_names_keep_their_order() -> None:
    assert read_nodes("zeta, alpha,m_1") == ("zeta", "alpha", "m_1")


def test_the_commands_to_type_are_whole_lines(tmp_path: Path) -> None:
    layout, text = made(tmp_path / "our clinics")
    root = f"'{layout.root}'"
    assert f"  {root}/superlink.sh\n" in text
    assert f"  {root}/hospital-2/supernode.sh EDITS.jsonl MODEL_DIRECTORY RESULTS_DIR" in text
    assert f"  FLWR_HOME={root}/flower fleke run CONFIG --federation our-clinics clients=2" in text


@pytest.fixture
def fakes(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose Flower commands print how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("flower-superlink", "flower-supernode", "flwr"):
        path = folder / name
        path.write_text('#!/bin/sh\necho "$(basename "$0") in $FLWR_HOME"\nprintf "[%s]" "$@"\n')
        path.chmod(0o755)
    return {"PATH": f"{folder}:{os.defpath}"}


def called(script: Path, fakes: dict[str, str], *arguments: str, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [str(script), *arguments], env=fakes, cwd=cwd, capture_output=True, text=True, check=True
    )
    return result.stdout


def test_the_superlink_listens_on_loopback_unless_it_is_for_others(
    tmp_path: Path, fakes: dict[str, str]
) -> None:
    near, _ = made(tmp_path / "near by")
    text = called(near.root / "superlink.sh", fakes)
    assert text.startswith(f"flower-superlink in {near.root}/flower\n")
    assert "[--host][127.0.0.1][--port][8443]" in text
    assert f"[--ssl-certfile][{near.root}/superlink/server.crt]" in text
    assert "[--enable-supernode-auth][--disable-runtime-dependency-installation]" in text
    assert "--database" not in text
    far, _ = made(tmp_path / "far", host="fleke.example.org")
    assert "[--host][0.0.0.0]" in called(far.root / "superlink.sh", fakes)
    kept = {**fakes, "DATABASE": "the state.db", "BIND": "192.0.2.7"}
    text = called(far.root / "superlink.sh", kept)
    assert "[--host][192.0.2.7]" in text
    assert text.endswith("[--database][the state.db]")


def test_every_node_is_registered_by_its_public_key(tmp_path: Path, fakes: dict[str, str]) -> None:
    layout, _ = made(tmp_path / "near by")
    text = called(layout.root / "register.sh", fakes)
    for name in NODES:
        key = layout.node(name) / "node.pub"
        assert f"[supernode][register][{key}][near-by][--name][{name}]" in text


def test_a_node_is_started_with_its_own_files(tmp_path: Path, fakes: dict[str, str]) -> None:
    layout, _ = made(tmp_path / "near by")
    folder = layout.node("hospital-2")
    work = tmp_path / "a ward"
    (work / "model").mkdir(parents=True)
    (work / "edits.jsonl").touch()
    (work / "tag.key").write_text("c0ffee\n")
    given = {**fakes, "TAG_KEY": str(work / "tag.key"), "PORT": "9000"}
    arguments = ("edits.jsonl", "model", "results")
    text = called(folder / "supernode.sh", given, *arguments, cwd=work)
    assert (
        "[--node-config][partition-id=1 num-partitions=2 "
        f"data-path='{work}/edits.jsonl' model-path='{work}/model' "
        f"results-path='{work}/results' tag-key='c0ffee']"
    ) in text
    assert f"[--auth-supernode-private-key][{folder}/node.key][--port][9000]" in text
    assert "[--port][9095]" in called(folder / "supernode.sh", fakes, *arguments, cwd=work)


def test_a_node_script_without_arguments_says_what_it_needs(tmp_path: Path) -> None:
    layout, _ = made(tmp_path / "clinics")
    result = subprocess.run(
        [str(layout.node("hospital-1") / "supernode.sh")], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "EDITS.jsonl MODEL_DIRECTORY RESULTS_DIRECTORY" in result.stderr
