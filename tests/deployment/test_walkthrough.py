"""A newcomer can paste the documentation's walk-through, block after block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fleke_flwr.apps.flower import flower_environment, free_port
from fleke_flwr.apps.processes import ProcessGroup, ending
from fleke_flwr.artifacts import read_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
_SECONDS = 1000.0


def script() -> str:
    """Return the blocks to paste, with ports that are free here."""
    page = PAGE.read_text(encoding="utf-8")
    text = "\n".join(re.findall(r"<!-- run -->\n```sh\n(.*?)```", page, flags=re.DOTALL))
    changes = {
        "--nodes north,south": f"--nodes north,south --port {free_port()}",
        "clinics/north/supernode.sh": f"PORT={free_port()} clinics/north/supernode.sh",
        "clinics/south/supernode.sh": f"PORT={free_port()} clinics/south/supernode.sh",
    }
    for wanted, instead in changes.items():
        assert text.count(wanted) == 1
        text = text.replace(wanted, instead)
    return text


def test_the_walk_through_ends_with_the_table_and_the_report(tmp_path: Path) -> None:
    pasted = tmp_path / "pasted.sh"
    pasted.write_text(script(), encoding="utf-8")
    environment = {**flower_environment(), "OMP_NUM_THREADS": "1"}
    environment.pop("FLWR_HOME", None)
    log = tmp_path / "pasted.log"
    with ending(ProcessGroup(str(tmp_path), environment)) as group:
        shell = group.start(["bash", "-e", str(pasted)], log, tmp_path)
        code = shell.wait(_SECONDS)
    said = log.read_text(encoding="utf-8")
    assert code == 0, said
    assert f"report: {tmp_path / 'run' / 'report.html'}" in said
    assert "superlink/server.crt: OK" in said
    row = read_json(tmp_path / "run" / "metrics.json")
    assert (row["clients"], row["edits"]) == (2, 8)
    assert row["final"]["efficacy"] > row["base"]["efficacy"]
    assert list((tmp_path / "results-north" / "targets").iterdir())
