"""Recall, swaps and shifts against slow twins and hand-made models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from fleke_flwr.types import Probe
from fleke_flwr.world.checks import (
    answered,
    locality_recall,
    recall,
    record_probes,
    record_recall,
    world_recall,
)
from fleke_flwr.world.schema import World, fill
from fleke_flwr.world.storage import key_shift, swap_test


def greedy(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompt: str, tokens: int
) -> list[int]:
    ids = list(tokenizer(prompt).input_ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-tokens:]


def probes_with_right_answers(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[Probe]:
    probes = []
    for number, prompt in enumerate(prompts):
        text = tokenizer.decode(greedy(model, tokenizer, prompt, 1 + number % 2))
        probes.append(Probe(prompt, text.strip()))
    return probes


def test_answered_is_greedy_generation_of_every_token(
    small_model: GPT2LMHeadModel, small_tokenizer: PreTrainedTokenizerFast, small_world: World
) -> None:
    prompts = [fill(fact.trained[0], fact.subject) for fact in small_world.facts[:12]]
    probes = probes_with_right_answers(small_model, small_tokenizer, prompts)
    probes += [Probe(prompt, "river garden") for prompt in prompts]
    expected = []
    for probe in probes:
        answer = list(small_tokenizer(f" {probe.answer}").input_ids)
        expected.append(greedy(small_model, small_tokenizer, probe.prompt, len(answer)) == answer)
    assert answered(small_model, small_tokenizer, probes).tolist() == expected
    share = sum(expected) / len(expected)
    assert recall(small_model, small_tokenizer, probes) == pytest.approx(share)


def test_locality_counts_whole_answers_and_tokens(
    small_model: GPT2LMHeadModel,
    small_tokenizer: PreTrainedTokenizerFast,
    small_world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert locality_recall(small_model, small_tokenizer, small_world) == {}
    flags = [torch.tensor([True]), torch.tensor([True, False, False, False])]
    monkeypatch.setattr("fleke_flwr.world.checks.answered_tokens", lambda *_: flags)
    asked = replace(small_world, locality=(Probe("Where?", "there"), Probe("Who?", "four tokens")))
    # By token every answer counts alike, however long it is.
    assert locality_recall(small_model, small_tokenizer, asked) == {
        "locality": 0.5, "locality_by_token": 0.625,
    }  # fmt: skip


def test_probes_of_records_ask_for_the_true_answers(small_world: World) -> None:
    probes = record_probes(small_world, 5)
    assert len(probes["rewrite"]) == 5
    assert probes["paraphrase_trained"] == []
    rewrite = small_world.records[0]["requested_rewrite"]
    assert probes["rewrite"][0].answer == rewrite["target_true"]["str"]
    asked = [item["requested_rewrite"]["target_new"]["str"] for item in small_world.records[:5]]
    assert {probe.answer for probe in probes["attribute"]} <= set(asked)
    assert probes["attribute"]


def test_an_untrained_model_knows_nothing(
    small_model: GPT2LMHeadModel, small_tokenizer: PreTrainedTokenizerFast, small_world: World
) -> None:
    report = world_recall(small_model, small_tokenizer, small_world, 30, seed=0)
    assert set(report) == {"trained", "hidden", "trained_behind_text", "hidden_behind_text"}
    assert max(report.values()) < 0.5
    kinds = record_recall(small_model, small_tokenizer, small_world, 5)
    assert set(kinds) == {"rewrite", "paraphrase_hidden", "neighborhood", "attribute"}


def test_swaps_of_a_model_without_attention_change_nothing(
    small_model: GPT2LMHeadModel, small_tokenizer: PreTrainedTokenizerFast, small_world: World
) -> None:
    # Without attention every position stands alone: no swap reaches the end, no key can move.
    with torch.no_grad():
        small_model.transformer.wpe.weight.zero_()
        for block in small_model.transformer.h:
            block.attn.c_proj.weight.zero_()
    swaps = swap_test(small_model, small_tokenizer, small_world, 10, seed=0)
    assert set(swaps) == {0, 1, 2}
    plain = swap_test(small_model, small_tokenizer, small_world, 10, seed=0)
    assert swaps == plain
    shifts = key_shift(small_model, small_tokenizer, small_world, 10, seed=0)
    assert set(shifts) == {0, 1, 2, 3}
    assert max(shifts.values()) < 1e-5


def test_without_a_pair_of_unlike_answers_there_is_no_swap(
    small_model: GPT2LMHeadModel, small_tokenizer: PreTrainedTokenizerFast, small_world: World
) -> None:
    facts = [
        replace(fact, relation="one", answer=f"Rome {number}")
        for number, fact in enumerate(small_world.facts)
    ]
    alike = replace(small_world, facts=tuple(facts))
    assert swap_test(small_model, small_tokenizer, alike, 5, seed=0) == {}


def test_keys_of_a_model_with_attention_move(
    small_model: GPT2LMHeadModel, small_tokenizer: PreTrainedTokenizerFast, small_world: World
) -> None:
    shifts = key_shift(small_model, small_tokenizer, small_world, 10, seed=0)
    assert min(shifts.values()) > 1e-3
    assert all(not block._forward_hooks for block in small_model.transformer.h)
