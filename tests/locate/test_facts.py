"""Where the subject lies among the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleke_flwr.errors import RequestError
from fleke_flwr.locate.facts import Fact, prompt_of
from tests.conftest import LoadTiny
from tests.models.test_families import poor_directory


@pytest.mark.parametrize("family", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("template", ["{} lives in", "The home town of {} is", "He met {}"])
def test_the_subjects_tokens_are_its_characters(
    family: str, template: str, load_tiny: LoadTiny, request: pytest.FixtureRequest
) -> None:
    model = load_tiny(request.getfixturevalue(family))
    prompt = prompt_of(model, Fact("1", template, "Jonas Feld"))
    assert "".join(prompt.tokens[prompt.start : prompt.stop]).strip() == "Jonas Feld"
    assert len(prompt.tokens) == len(prompt.ids)
    before = "".join(prompt.tokens[: prompt.start]).removeprefix("<|endoftext|>")
    assert before.strip() == template.split("{}")[0].strip()


def test_a_beginning_of_text_token_is_never_the_subject(
    load_tiny: LoadTiny, tiny_llama: object
) -> None:
    prompt = prompt_of(load_tiny(tiny_llama), Fact("1", "{} lives in", "Ada Karst"))
    assert prompt.tokens[0] == "<|endoftext|>"
    assert prompt.start == 1


@pytest.mark.parametrize(
    ("template", "subject", "said"),
    [
        ("{} and {}", "Ada", "exactly one slot"),
        ("nobody", "Ada", "exactly one slot"),
        ("{} lives in", " ", "subject is empty"),
        ("{} lives in", "Ada " * 200, "longer than"),
    ],
)
def test_what_cannot_be_traced_is_refused(
    template: str, subject: str, said: str, load_tiny: LoadTiny, tiny_gpt2: object
) -> None:
    with pytest.raises(RequestError, match=said):
        prompt_of(load_tiny(tiny_gpt2), Fact("1", template, subject))


def test_a_subject_that_the_tokenizer_drops_is_refused(load_tiny: LoadTiny, tmp_path: Path) -> None:
    model = load_tiny(poor_directory(tmp_path, unknown=False))
    with pytest.raises(RequestError, match="no token of the subject '日本'"):
        prompt_of(model, Fact("1", "The home of {} is", "日本"))
