"""What the report says of the run, of failed edits, of drift and of the payload."""

from __future__ import annotations

import json
import re
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fleke_flwr.apps.report import render
from fleke_flwr.apps.reporting.clients import score_by_client
from fleke_flwr.apps.reporting.drift import drift
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import DataError
from tests.apps.pages import cells_of
from tests.apps.rows import (
    drifting,
    failing,
    made_row,
    personal_row,
    write_answers,
    write_comparison,
)

DASH = "–"  # noqa: RUF001  # a dash stands for "not measured"


def page_of(directory: Path, rows: list[dict[str, Any]], **facts: Any) -> str:
    write_comparison(directory, rows)
    if facts:
        (directory / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
    return render(directory).read_text(encoding="utf-8")


def summary_of(page: str) -> str:
    found = re.search(r'<p class="summary">(.*?)</p>', page, re.DOTALL)
    assert found
    return unescape(found[1])


def test_a_comparison_is_said_in_sentences(tmp_path: Path) -> None:
    rows = [made_row("ties", score=50.0), drifting(made_row("collabedit")), made_row("global")]
    assert summary_of(page_of(tmp_path, rows)) == (
        "3 ways of editing were compared: each put 40 edits, held by 2 clients, into the model "
        "embedded in 1 round. collabedit has the highest Score, 96.8 ± 1.2 of 100 (0.0 before "
        "editing), 100.0 % of editing all records at one place. Each client sent 1.0 MiB, 10 times "
        "less than the CollabEdit paper's payload. Perplexity on text that nobody edited went from "
        "4.963 to 5.093 (+2.6 ± 0.9 percent)."
    )


def test_a_run_and_a_sweep_are_said_in_sentences(tmp_path: Path) -> None:
    row = made_row("fededit", rounds=3)
    row["payload"]["up_bytes_paper"] = 0
    row["base"]["score"] = 12.5
    assert summary_of(page_of(tmp_path / "run", [row])) == (
        "fededit put 40 edits, held by 2 clients, into the model embedded in 3 rounds. "
        "Score is 96.8 ± 1.2 of 100 (12.5 before editing). Each client sent 1.0 MiB."
    )
    rows = [made_row("ties", settings={"merge.scale": scale}) for scale in (0.2, 0.4)]
    text = summary_of(page_of(tmp_path / "sweep", rows))
    assert text.startswith("ties put 40 edits, held by 2 clients,")
    assert "in 1 round, for 2 values of merge.scale." in text
    assert ", merge.scale = 0.4." in text


def test_who_was_left_out_and_why_stands_on_top(tmp_path: Path) -> None:
    row = made_row("collabedit", rounds=2)
    row["history"][1]["left_out"] = {"1": "evaluation: <no> reply within 5 s"}
    page = page_of(tmp_path, [row], refused=["client 3: holds another base model"])
    assert "Left out at least once: 2 clients." in summary_of(page)
    cells = cells_of(page)
    assert [DASH, DASH, DASH, "refused at the start: client 3: holds another base model"] in cells
    assert ["1", "collabedit", "2", "evaluation: <no> reply within 5 s"] in cells
    assert "<no>" not in page
    assert "No client was left out." in page_of(tmp_path / "all", [made_row("collabedit")])


def test_settings_that_differ_are_listed_and_no_others(tmp_path: Path) -> None:
    config = {**RunConfig(name="mine", rounds=3, output_dir="/x").to_flat(), "edit.steps": 9}
    facts = {"config": config, "versions": {"torch": "9.9"}, "revision": "abc"}
    page = page_of(tmp_path, [made_row("collabedit")], **facts)
    cells = cells_of(page)
    assert "Settings that differ from the defaults (2)" in page
    place = cells.index(["setting", "value", "default"])
    assert cells[place + 1 : place + 3] == [["rounds", "3", "1"], ["edit.steps", "9", "not set"]]
    assert ["torch", "9.9"] in cells
    assert ["git revision", "abc"] in cells


def test_every_section_is_linked_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    page = page_of(tmp_path, [drifting(made_row("collabedit", rounds=2)), made_row("global")])
    titled = dict(re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', page))
    linked = dict(re.findall(r'<a href="#([^"]+)">([^<]+)</a>', page))
    assert titled == linked
    assert list(titled.values()) == [
        "What was run", "Results", "Score against the bound", "Score after each round", "Clients",
        "Failed edits", "Drift", "Payload", "Time",
    ]  # fmt: skip


def test_the_page_can_be_heard_and_used_without_a_mouse(tmp_path: Path) -> None:
    page = page_of(tmp_path, [drifting(made_row("collabedit")), personal_row()])
    levels = [int(level) for level in re.findall(r"<h(\d)[ >]", page)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    alternatives = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert alternatives
    assert all(len(text) > 30 for text in alternatives)
    tables = re.findall(r"<table[^>]*>(<caption>.*?</caption>)?", page)
    assert tables
    assert all(tables)
    assert page.count("<div class=wide tabindex=0") == page.count("<div class=wide")
    assert len(re.findall(r"<th(?! scope)", page)) == page.count("<thead>")


def test_numbers_stand_behind_every_picture(tmp_path: Path) -> None:
    page = page_of(tmp_path, [made_row("collabedit"), made_row("global")])
    assert page.count("<summary>Numbers</summary>") == page.count("<figure>")
    assert ["collabedit", "0", "20", "90", "1.25"] in cells_of(page)


def test_failed_edits_are_shown_where_their_files_are(tmp_path: Path) -> None:
    rows = [failing(made_row("collabedit"), 1), failing(made_row("ties"), 20)]
    write_answers(write_comparison(tmp_path, rows), "collabedit_memit", 1, prompt="<b>At home")
    page = render(tmp_path).read_text(encoding="utf-8")
    cells = cells_of(page)
    assert ["collabedit", "2", "40", "5.0", "1"] in cells
    assert ["ties", "40", "40", "100.0", DASH] in cells
    assert ["1", "<b>At home", "Khmer", "4.5 %", "Urdu. The", "Zulu. The"] in cells
    assert "<b>" not in page
    assert "fleke report RUN --answers DIR" in page


def test_a_client_adds_its_own_files(tmp_path: Path) -> None:
    run = write_comparison(tmp_path / "run", [failing(made_row("collabedit"), 1)])
    node = write_answers(tmp_path / "node", "collabedit_memit", 0)
    expected = ["0", "At home Ada talks in", "Khmer", "4.5 %", "Urdu. The", "Zulu. The"]
    assert expected not in cells_of(render(run).read_text(encoding="utf-8"))
    for place in (node, node / "answers"):
        assert expected in cells_of(render(run, place).read_text(encoding="utf-8"))


def test_nothing_failed_needs_no_file(tmp_path: Path) -> None:
    page = page_of(tmp_path, [failing(made_row("collabedit"), 0)])
    assert ["collabedit", "0", "40", "0.0", DASH] in cells_of(page)
    assert "--answers" not in page


def test_a_damaged_file_of_failed_edits_is_named(tmp_path: Path) -> None:
    write_answers(write_comparison(tmp_path, [made_row("ties")]), "ties_memit", 0, probability="x")
    with pytest.raises(DataError, match=r"client-0\.jsonl, line 1: not a failed edit"):
        render(tmp_path)


def test_drift_is_shown_by_layer(tmp_path: Path) -> None:
    rows = [drifting(made_row("collabedit")), drifting(made_row("ties"), None), made_row("global")]
    cells = cells_of(page_of(tmp_path, rows))
    place = next(i for i, row in enumerate(cells) if row[1:2] == ["perplexity before"])
    assert cells[place : place + 3] == [
        ["strategy", "perplexity before", "after", "change", "update, layer 3", "update, layer 4"],
        ["collabedit", "4.963", "5.093", "+2.6 ± 0.9 %", "0.75", "1"],
        ["ties", "4.963", "no finite number", "beyond measure", "0.75", "1"],
    ]


def test_drift_of_models_of_the_clients_own(tmp_path: Path) -> None:
    row = drifting(personal_row())
    row["drift"]["perplexity"] |= {"text": None, "clients": 2, "tokens": 8192}
    del row["drift"]["perplexity"]["change_ci95"]
    markup = drift([row])
    assert "mean over clients" in markup
    assert "each client&#x27;s text, 4,096 tokens" in markup
    row["drift"]["perplexity"] = None
    assert "No perplexity" in drift([row])


def test_the_payload_is_set_against_what_else_could_travel(tmp_path: Path) -> None:
    rows = [made_row("collabedit"), made_row("global")]
    rows[0]["payload"]["up_bytes_weights"] = 4_194_304
    cells = cells_of(page_of(tmp_path, rows))
    assert [
        "collabedit", "1.0 MiB", "500 B", "10.5 % of 9.5 MiB", "50.0 % of 2.0 MiB",
    ] in cells  # fmt: skip
    assert ["global (bound)", DASH, DASH, DASH, DASH] in cells


def test_clients_are_drawn_where_there_are_several() -> None:
    rows = [made_row("collabedit"), made_row("global")]
    picture = score_by_client(rows)
    assert picture is not None
    assert [(item["client"], item["score"]) for item in picture.data[:2]] == [(0, 90.0), (1, 91.0)]
    for row in rows:
        row["per_client"] = row["per_client"][:1]
    assert score_by_client(rows) is None
