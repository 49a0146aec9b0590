"""An edit that won a conflict is asked for again, in as many ways as wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.config import ConflictConfig, DataConfig
from fleke_flwr.data.augmentation import AUGMENTATIONS, known_templates, not_judging
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.types import EditRequest, EvalCase

REQUEST = EditRequest("7", "{} lives in", "Ada Karst", "Arlen", "Dorum", "home")
KNOWN = {
    "home": ("The home of {} is", "{} lives in", "Letters reach {} in"),
    "trade": ("{} works as a",),
}


def augmented(
    name: str, count: int, known: Mapping[str, tuple[str, ...]] | None = None
) -> list[EditRequest]:
    return AUGMENTATIONS.get(name)().augment(REQUEST, KNOWN if known is None else known, count)


def prompts(requests: list[EditRequest]) -> list[str]:
    return [request.prompt for request in requests]


@pytest.mark.parametrize("name", ["paraphrase", "related", "repeat"])
@given(
    count=st.integers(0, 40),
    templates=st.lists(st.sampled_from(["{} is in", "{} lives in", "Look for {} in"]), unique=True),
)
def test_everyone_gives_what_is_wanted_for_the_same_edit(
    name: str, count: int, templates: list[str]
) -> None:
    found = augmented(name, count, {"home": tuple(templates)})
    assert [request.case_id for request in found] == [f"7-more{n}" for n in range(1, count + 1)]
    for request in found:
        assert replace(request, case_id="7", prompt=REQUEST.prompt) == REQUEST
        assert request.text.count("Ada Karst") == 1
        assert "Arlen" not in request.text


def test_paraphrases_come_in_their_order_and_again() -> None:
    assert prompts(augmented("paraphrase", 3)) == [
        "The home of {} is",
        "Letters reach {} in",
        "The home of {} is",
    ]


@pytest.mark.parametrize("known", [{}, {"home": ("{} lives in",)}, {"trade": ("{} works as a",)}])
def test_without_other_phrasings_the_request_is_repeated(
    known: dict[str, tuple[str, ...]],
) -> None:
    assert prompts(augmented("paraphrase", 2, known)) == ["{} lives in"] * 2
    assert prompts(augmented("repeat", 2, known)) == ["{} lives in"] * 2


def test_related_requests_stand_behind_sentences_without_facts() -> None:
    found = prompts(augmented("related", 15))
    assert len(set(found)) == 15  # five sentences before three templates
    assert {text.split(". ", 1)[1] for text in found} == set(KNOWN["home"])
    assert {text.split(". ", 1)[0] for text in found[:3]} == {found[0].split(". ", 1)[0]}
    assert found[0].endswith(". {} lives in")
    assert prompts(augmented("related", 16))[15] == found[0]


def test_names_of_the_configuration_are_known() -> None:
    assert set(AUGMENTATIONS.names()) >= {"paraphrase", "related", "repeat"}
    AUGMENTATIONS.get(ConflictConfig().augmentation)
    with pytest.raises(ConfigError, match=r"unknown augmentation 'paraphrases'\. Did you mean"):
        AUGMENTATIONS.get("paraphrases")
    with pytest.raises(ConfigError, match="not a subclass of Augmentation"):
        AUGMENTATIONS.get("fleke_flwr.types:EditRequest")


def test_known_templates_are_the_requests_own(tmp_path: Path) -> None:
    other = replace(REQUEST, prompt="The home of {} is", subject="Bo")
    requests = [REQUEST, other, replace(REQUEST, subject="Cora"), replace(REQUEST, relation="")]
    assert known_templates("", requests) == {"home": ("{} lives in", "The home of {} is")}
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"home": ["Look for {} in"]}))
    assert known_templates(str(path), requests) == {"home": ("Look for {} in",)}
    with pytest.raises(DataError, match="no such file"):
        known_templates(str(tmp_path / "none.json"), requests)


def test_what_judges_an_edit_does_not_strengthen_it() -> None:
    case = EvalCase(REQUEST, paraphrases=("It rained. Letters reach Ada Karst in",))
    assert not_judging(KNOWN, case) == {"home": ("The home of {} is", "{} lives in")}
    assert not_judging({}, case) == {"home": ()}


def test_phrasings_of_the_embedded_world_would_judge_without_the_filter() -> None:
    cases = load_cases(DataConfig(edits=200)).cases[:200]
    known = known_templates("", (case.request for case in cases))
    strengthen = AUGMENTATIONS.get("paraphrase")().augment
    leaks = dict.fromkeys((True, False), 0)
    for case in cases:
        probes = "\n".join(case.paraphrases)
        for filtered in leaks:
            templates = not_judging(known, case) if filtered else known
            found = strengthen(case.request, templates, 7)
            leaks[filtered] += any(request.text in probes for request in found)
    assert leaks[True] == 0
    assert leaks[False] > 150


def test_the_published_templates_strengthen_the_published_conflicts(shared_data: Path) -> None:
    folder = shared_data / "collabedit"
    cases = load_cases(DataConfig(path=str(folder / "easy_conflict_1000_p1.jsonl.gz"))).cases
    known = known_templates(str(folder / "round_prompts.json"), ())
    for case in cases:
        found = AUGMENTATIONS.get("paraphrase")().augment(case.request, known, 10)
        assert len({request.text for request in found}) == 10
        assert not {request.text for request in found} & {case.request.text, *case.paraphrases}
