from __future__ import annotations

from fleke_flwr.editors.hyper.lessons import LessonSize, draw_lesson, examples_of
from tests.editors.hyper.networks import cases


def test_a_lesson_asks_about_its_edits_and_keeps_what_it_does_not_edit() -> None:
    examples = examples_of(cases(20))
    lesson = draw_lesson(examples, LessonSize(8, 3, 0.5), "seed")
    prompts = [edit.prompt for edit in lesson.edits]
    assert len(set(prompts)) == 8
    asked = [probe.answer for _, probe in lesson.asked]
    assert [kind for kind, _ in lesson.asked] == ["own", "paraphrase"] * 3
    assert asked[::2] == asked[1::2] == [edit.answer for edit in lesson.edits[:3]]
    assert len(lesson.kept) == 6
    assert not {probe.prompt for probe in lesson.kept} & set(prompts)


def test_a_lesson_depends_on_its_seed_alone() -> None:
    examples, size = examples_of(cases(20)), LessonSize(8, 3, 0.5)
    assert draw_lesson(examples, size, "a") == draw_lesson(examples, size, "a")
    assert draw_lesson(examples, size, "a") != draw_lesson(examples, size, "b")


def test_alternative_targets_come_from_the_same_relation_and_are_news() -> None:
    records = cases(20)
    for case, example in zip(records, examples_of(records), strict=True):
        assert example.targets[0] == case.request.target
        assert len(example.targets) > 1
        assert case.request.original not in example.targets


def test_a_lesson_may_be_smaller_than_asked() -> None:
    lesson = draw_lesson(examples_of(cases(4)), LessonSize(64, 24, 0.0), "seed")
    assert len(lesson.edits) == 4
    assert [edit.answer for edit in lesson.edits] == [
        probe.answer for kind, probe in lesson.asked if kind == "own"
    ]


def test_lessons_of_any_size_are_as_likely_by_ratio() -> None:
    examples, size = examples_of(cases(40)), LessonSize(32, 4, 0.0, fewest=1)
    counts = [len(draw_lesson(examples, size, str(seed)).edits) for seed in range(200)]
    assert min(counts) == 1
    assert 16 < max(counts) <= 32
    # Half of them below the geometric middle.
    assert 80 <= sum(count < 5.66 for count in counts) <= 120
