"""Relations from the facts that templates share, and templates that are drawn but once."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fleke_flwr.world.phrasing import group_templates, pool_templates, share_out, split_prose

USES = st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abcdefgh")), max_size=20)


def test_templates_meet_by_facts_only() -> None:
    uses = [(1, "b"), (1, "c"), (2, "c"), (2, "a"), (3, "d"), (4, "d")]
    assert group_templates(uses) == {"a": "a", "b": "a", "c": "a", "d": "d"}
    assert pool_templates(group_templates(uses)) == {"a": ["a", "b", "c"], "d": ["d"]}


@given(USES)
def test_groups_are_the_connected_parts(uses: list[tuple[int, str]]) -> None:
    # Twin: merge the labels of every fact's templates until nothing changes.
    labels = {template: template for _, template in uses}
    for _ in range(len(uses)):
        for fact, template in uses:
            same = [labels[other] for number, other in uses if number == fact]
            labels[template] = min(same)
    assert group_templates(uses) == labels


@given(st.lists(st.text(), unique=True), st.integers(-2, 5), st.integers(0, 9))
def test_spare_templates_are_trained_or_hidden_never_both(
    spare: list[str], most: int, seed: int
) -> None:
    trained, hidden = share_out(random.Random(seed), spare, most)
    assert len(hidden) == min(1, len(spare))
    assert len(trained) == max(0, min(most, len(spare) - 1))
    assert len({*trained, *hidden}) == len(trained) + len(hidden)
    assert {*trained, *hidden} <= set(spare)


def test_prose_is_trained_or_unseen_and_in_no_paraphrase(tmp_path: Path) -> None:
    lines = [f"Sentence number {number} is here." for number in range(40)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    records = [{"paraphrase_prompts": [f"{lines[3]} Ada lives in"]}]
    trained, unseen = split_prose(random.Random(0), path, 30, records, ["It  rained.", ""])
    assert len(trained) == 28
    assert len(unseen) == 3
    assert not set(trained) & set(unseen)
    assert lines[3] not in trained + unseen
    assert "It rained." in trained
