"""Which edit stays when clients contradict each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.strategies.conflict import settle
from fleke_flwr.wire import Claim


def verdicts(
    claims: Mapping[int, Sequence[Claim]], policy: str
) -> dict[int, tuple[list[str], list[str]]]:
    return {
        client: ([c.tag for c in verdict.withdraw], [c.tag for c in verdict.strengthen])
        for client, verdict in settle(claims, policy).items()
    }


def test_the_round_decides_before_the_clients_number() -> None:
    claims = {0: [Claim(2, 0, "q:late")], 1: [Claim(1, 5, "q:early")]}
    assert verdicts(claims, "first-come") == {0: (["q:late"], []), 1: ([], ["q:early"])}
    assert verdicts(claims, "latest") == {0: ([], ["q:late"]), 1: (["q:early"], [])}


def test_inside_a_client_the_place_decides() -> None:
    claims = {3: [Claim(1, 4, "q:b"), Claim(1, 2, "q:a")]}
    assert verdicts(claims, "first-come") == {3: (["q:b"], ["q:a"])}
    assert verdicts(claims, "latest") == {3: (["q:a"], ["q:b"])}


def test_who_agrees_with_the_winner_keeps_the_edit() -> None:
    claims = {0: [Claim(1, 0, "q:a")], 1: [Claim(1, 0, "q:b")], 2: [Claim(1, 0, "q:a")]}
    assert verdicts(claims, "first-come") == {0: ([], ["q:a"]), 1: (["q:b"], [])}
    assert verdicts(claims, "latest") == {1: (["q:b"], []), 2: ([], ["q:a"])}


@pytest.mark.parametrize("policy", ["first-come", "latest"])
def test_one_answer_is_no_conflict(policy: str) -> None:
    claims = {0: [Claim(1, 0, "q:a"), Claim(1, 1, "p:x")], 1: [Claim(2, 0, "q:a")]}
    assert settle(claims, policy) == {}


_CLAIMS = st.dictionaries(
    st.integers(0, 4),
    st.lists(
        st.builds(
            Claim, st.integers(1, 3), st.integers(0, 9), st.sampled_from(["q:a", "q:b", "p:a"])
        ),
        max_size=4,
    ),
)


@given(_CLAIMS, st.sampled_from(["first-come", "latest"]))
def test_every_disputed_question_keeps_one_answer(
    claims: dict[int, list[Claim]], policy: str
) -> None:
    found = settle(claims, policy)
    for question in ("q", "p"):
        signed = {
            c.tag for made in claims.values() for c in made if c.tag.startswith(f"{question}:")
        }
        fallen = {
            c.tag for v in found.values() for c in v.withdraw if c.tag.startswith(f"{question}:")
        }
        won = [
            c.tag for v in found.values() for c in v.strengthen if c.tag.startswith(f"{question}:")
        ]
        if len(signed) > 1:
            assert len(won) == 1
            assert fallen == signed - set(won)
        else:
            assert not won
            assert not fallen
