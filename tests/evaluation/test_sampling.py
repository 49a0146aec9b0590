"""Texts sampled together are those that are sampled one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from fleke_flwr.errors import RequestError
from fleke_flwr.evaluation import sampling
from fleke_flwr.evaluation.sampling import Draft, generate
from fleke_flwr.models import EditableModel

LoadTiny = Callable[..., EditableModel]

PROMPTS = [
    "Mira Tolen lives in",
    "Ada",
    "The quiet river near New Elster was cold. The mother tongue of Lena Voss is spoken in",
    "The home town of Pavel Orrin is",
    "Lena Voss lives in",
]
DRAFTS: list[Draft] = [(prompt, number) for prompt in PROMPTS for number in (0, 1)]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make texts end early, so that one of the prompts is already longer."""
    monkeypatch.setattr(sampling, "_TOTAL_TOKENS", 16)
    return 16


@torch.no_grad()
def alone(model: EditableModel, draft: Draft, seed: int, length: int) -> str:
    """Continue one prompt without a cache: the whole network reads the whole text each time."""
    ids: list[int] = model.tokenizer(draft[0])["input_ids"]
    chances = sampling._chances(draft, seed, length).tolist()
    while len(ids) < length:
        logits = model.model(torch.tensor([ids])).logits[0, -1]
        order = logits.argsort(descending=True)[:5]
        shares = logits[order].softmax(0).tolist()
        left, choice = chances[len(ids)], 0
        while choice < 4 and left >= shares[choice]:
            left -= shares[choice]
            choice += 1
        ids.append(int(order[choice]))
    text = str(model.tokenizer.decode(ids, skip_special_tokens=True))
    return sampling.normalize("NFKD", text).replace("\n\n", " ")


@pytest.mark.parametrize("batch_tokens", [1, 100, 16384])
def test_equal_one_by_one(model: EditableModel, short: int, batch_tokens: int) -> None:
    counts = [len(model.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    assert len(set(counts)) >= 4
    assert min(counts) < short < max(counts)
    expected = [alone(model, draft, 3, short) for draft in DRAFTS]
    assert generate(model, DRAFTS, batch_tokens, seed=3) == expected


def test_sliding_windows_are_kept(load_tiny: LoadTiny, tiny_llama: Path, short: int) -> None:
    llama = load_tiny(tiny_llama)
    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=len(llama.tokenizer), hidden_size=32, intermediate_size=56, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96, sliding_window=6,
        initializer_range=0.3,
    )  # fmt: skip
    mistral = MistralForCausalLM(config).eval()
    sliding = replace(llama, model=mistral)
    expected = [alone(sliding, draft, 3, short) for draft in DRAFTS]
    assert generate(sliding, DRAFTS, 16384, seed=3) == expected
    mistral.config.sliding_window = None
    assert generate(sliding, DRAFTS, 16384, seed=3) != expected


def test_a_draft_is_the_same_in_any_company(model: EditableModel, short: int) -> None:
    whole = dict(zip(DRAFTS, generate(model, DRAFTS, 16384, seed=3), strict=True))
    for draft in DRAFTS:
        assert generate(model, [draft], 16384, seed=3) == [whole[draft]]
    backwards = DRAFTS[::-1]
    assert generate(model, backwards, 50, seed=3) == [whole[draft] for draft in backwards]


def test_seed_and_number_make_the_difference(model: EditableModel, short: int) -> None:
    first, second = generate(model, [(PROMPTS[0], 0), (PROMPTS[0], 1)], 16384, seed=3)
    assert first != second
    assert generate(model, [(PROMPTS[0], 0)], 16384, seed=4) != [first]


def test_equal_drafts_are_generated_once(
    model: EditableModel, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    head = model.model.get_submodule(model.family.head)
    forward = head.forward

    def count(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(hidden.shape[:-1])
        unembedded: torch.Tensor = forward(hidden)
        return unembedded

    monkeypatch.setattr(head, "forward", count)
    texts = generate(model, [(PROMPTS[0], 0), (PROMPTS[1], 0), (PROMPTS[0], 0)], 16384, seed=0)
    assert texts[0] == texts[2]
    # Only the last position of a row whose prompt has ended is unembedded.
    counts = sorted(len(model.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS[:2])
    assert rows == [(1,)] * (counts[1] - counts[0]) + [(2,)] * (short - counts[1])


def test_choices_follow_the_shares_of_the_five_likeliest(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids: list[int] = model.tokenizer(PROMPTS[0])["input_ids"]
    monkeypatch.setattr(sampling, "_TOTAL_TOKENS", len(ids) + 1)
    with torch.no_grad():
        top = torch.topk(model.model(torch.tensor([ids])).logits[0, -1], 5)
    size = 2000
    texts = generate(model, [(PROMPTS[0], number) for number in range(size)], 16384, seed=0)
    # Tokens that are parts of a letter all read as the same sign.
    expected: Counter[str] = Counter()
    for share, token in zip(top.values.softmax(0).tolist(), top.indices.tolist(), strict=True):
        text = str(model.tokenizer.decode([*ids, token], skip_special_tokens=True))
        expected[sampling.normalize("NFKD", text)] += share
    found = Counter(texts)
    assert set(found) == set(expected)
    for text, share in expected.items():
        deviation = (share * (1 - share) / size) ** 0.5
        assert found[text] / size == pytest.approx(share, abs=4 * deviation), text


def test_no_prompt_has_no_text(model: EditableModel) -> None:
    assert generate(model, [], 16384, seed=0) == []


def test_a_prompt_that_is_long_enough_is_left_as_it_is(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_TOTAL_TOKENS", 3)
    long = PROMPTS[2]
    decoded = str(model.tokenizer.decode(model.tokenizer(long)["input_ids"]))
    texts = generate(model, [(long, 0), (PROMPTS[1], 0)], 16384, seed=0)
    assert texts[0] == decoded.replace("<|endoftext|>", "")
    assert texts[0].strip() == long


def test_a_text_ends_where_the_model_does(model: EditableModel) -> None:
    assert model.max_positions < sampling._TOTAL_TOKENS
    expected = [alone(model, (PROMPTS[0], 0), 0, model.max_positions)]
    assert generate(model, [(PROMPTS[0], 0)], 16384, seed=0) == expected


def test_a_prompt_that_the_model_cannot_read_is_refused(model: EditableModel) -> None:
    with pytest.raises(RequestError, match="longer than the 96"):
        generate(model, [("a" * 500, 0)], 16384, seed=0)
