"""A share of the records is contradicted, where and by whom the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.config import DataConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.data.rivals import Dealt, contradiction, with_rivals
from fleke_flwr.data.slots import deal
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.types import EditRequest, EvalCase, Probe

TOWNS = ("Arlen", "Borvik", "Castra", "Dorum")


def cases_of(count: int, relation: str = "home") -> list[EvalCase]:
    return [
        EvalCase(
            EditRequest(
                str(number),
                "{} lives in",
                f"Person {number}",
                TOWNS[number % 4],
                TOWNS[(number + 1) % 4],
                relation,
            ),
            paraphrases=(f"The home of Person {number} is",),
            neighbors=("Lena Voss lives in",),
            attributes=("Ada Karst lives in",),
            references=("Ada Karst lives in Arlen.",),
            same_subject=(Probe("x", "y"),),
            owner="north",
        )
        for number in range(count)
    ]


def dealt_to(cases: Sequence[EvalCase], clients: int, rounds: int) -> Dealt:
    return [deal(cases[client::clients], rounds) for client in range(clients)]


def contradicted(dealt: Dealt, cases: Sequence[EvalCase], seed: int = 0, **settings: Any) -> Dealt:
    return with_rivals(dealt, DataConfig(**settings), cases, seed)


def where(dealt: Dealt) -> dict[str, tuple[int, int]]:
    return {
        case.request.case_id: (client, number)
        for client, part in enumerate(dealt)
        for number, records in enumerate(part)
        for case in records
    }


def test_a_contradiction_asks_the_same_for_another_answer() -> None:
    case = replace(cases_of(1)[0], rival="Dorum")
    rival = contradiction(case, "Dorum")
    assert rival.request == replace(case.request, case_id="0-rival", target="Dorum")
    assert (rival.request.original, rival.rival) == ("Borvik", "Arlen")
    kept = ("paraphrases", "neighbors", "generations", "same_subject", "locality")
    assert all(getattr(rival, name) == getattr(case, name) for name in kept)
    assert (rival.attributes, rival.references, rival.owner) == ((), (), "")


@pytest.mark.parametrize(("place", "step"), [("same", (1, 0)), ("next", (1, 1)), ("own", (0, 0))])
@given(share=st.floats(0, 1), clients=st.integers(1, 4), seed=st.integers(0, 5))
def test_the_share_is_contradicted_in_its_place(
    place: str, step: tuple[int, int], share: float, clients: int, seed: int
) -> None:
    cases = cases_of(17)
    dealt = dealt_to(cases, clients, 3)
    result = contradicted(dealt, cases, seed, rivals=share, rival_place=place)
    before, after = where(dealt), where(result)
    assert {name: after[name] for name in before} == before
    rivals = {name: at for name, at in after.items() if name not in before}
    eligible = [name for name, (_, number) in before.items() if place != "next" or number < 2]
    assert len(rivals) == round(share * len(eligible))
    for name, at in rivals.items():
        client, number = before[name.removesuffix("-rival")]
        assert at == ((client + step[0]) % clients, number + step[1])


def test_both_sides_name_each_other_and_others_nobody() -> None:
    cases = cases_of(12)
    result = contradicted(dealt_to(cases, 2, 2), cases, rivals=0.5)
    found = {case.request.case_id: case for part in result for slot in part for case in slot}
    rivals = {name for name in found if name.endswith("-rival")}
    assert len(rivals) == 6
    for name in rivals:
        rival, case = found[name], found[name.removesuffix("-rival")]
        assert (case.rival, rival.rival) == (rival.request.target, case.request.target)
        assert rival.request.target in TOWNS
        assert rival.request.target not in (case.request.target, case.request.original)
    assert sum(bool(case.rival) for case in found.values()) == 12


def test_equal_seeds_draw_the_same_and_others_not() -> None:
    cases = cases_of(30)
    dealt = dealt_to(cases, 3, 2)
    first = contradicted(dealt, cases, 0, rivals=0.4)
    assert first == contradicted(dealt, list(reversed(cases)), 0, rivals=0.4)
    assert first != contradicted(dealt, cases, 1, rivals=0.4)


def test_no_share_leaves_everything() -> None:
    dealt = dealt_to(cases_of(5), 2, 1)
    assert contradicted(dealt, [], rivals=0.0, rival_place="next") == dealt


def test_a_record_that_names_its_rival_gets_that_one() -> None:
    cases = [replace(case, rival=f"Town {case.request.case_id}") for case in cases_of(4, "")]
    (part,) = contradicted([[cases]], cases, rivals=1.0, rival_place="own")
    targets = [case.request.target for case in part[0][4:]]
    assert targets == ["Town 0", "Town 1", "Town 2", "Town 3"]


def test_what_cannot_be_contradicted_is_passed_over_until_too_little_is_left() -> None:
    able, unable = cases_of(4), cases_of(6, "")
    dealt: Dealt = [[able, unable]]
    (part,) = contradicted(dealt, able + unable, rivals=0.4)
    assert [len(records) for records in part] == [8, 6]
    with pytest.raises(DataError, match=r"5 of 10 records .* but only 4 can be"):
        contradicted(dealt, able + unable, rivals=0.5)


def test_an_answer_that_differs_in_case_only_is_no_contradiction() -> None:
    case = EvalCase(EditRequest("1", "{} is", "Ada", "Arlen", "Dorum", "home"))
    other = EvalCase(EditRequest("2", "{} is", "Bo", "ARLEN", "dorum", "home"))
    with pytest.raises(DataError, match="only 0 can be"):
        contradicted([[[case]]], [case, other], rivals=1.0)
    with pytest.raises(DataError, match="only 0 can be"):
        contradicted([[[replace(case, rival="arlen")]]], [case], rivals=1.0)


def test_a_round_later_needs_one() -> None:
    cases = cases_of(4)
    with pytest.raises(ConfigError, match=r"data\.rival-place = 'next' needs a round after"):
        contradicted(dealt_to(cases, 2, 1), cases, rivals=0.5, rival_place="next")
    with pytest.raises(ConfigError, match=r"data\.rival-place.*nxt"):
        contradicted(dealt_to(cases, 2, 1), cases, rivals=0.5, rival_place="nxt")


def test_all_embedded_records_can_be_contradicted() -> None:
    cases = load_cases(DataConfig()).cases
    result = contradicted(dealt_to(cases, 4, 2), cases, rivals=1.0)
    assert sum(len(records) for part in result for records in part) == 2 * len(cases)
