"""What a trained model is asked before it may be used: does it know, and where is it stored."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from fleke_flwr.types import Probe
from fleke_flwr.world.schema import Fact, World, fill

_BATCH = 256


@torch.no_grad()
def answered_tokens(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Probe]
) -> list[Tensor]:
    """Return for every probe which tokens of the answer are the most probable ones.

    Each token is asked for behind the prompt and the true tokens before it.
    """
    prompts = tokenizer([probe.prompt for probe in probes])["input_ids"]
    answers = tokenizer([f" {probe.answer}" for probe in probes])["input_ids"]
    right = [torch.empty(0)] * len(probes)
    order = sorted(range(len(probes)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), _BATCH):
        chunk = order[start : start + _BATCH]
        rows = [prompts[index] + answers[index][:-1] for index in chunk]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        # Padding is on the right, where causal attention does not look.
        hidden = model.transformer(ids).last_hidden_state
        for row, index in enumerate(chunk):
            first = len(prompts[index]) - 1
            states = hidden[row, first : first + len(answers[index])]
            best = model.lm_head(states).argmax(dim=-1)
            right[index] = best == torch.tensor(answers[index])
    return right


def answered(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Probe]
) -> Tensor:
    """Return for every probe whether all tokens of the answer are the most probable ones."""
    found = answered_tokens(model, tokenizer, probes)
    return torch.tensor([bool(tokens.all()) for tokens in found], dtype=torch.bool)


def recall(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Probe]
) -> float:
    """Return the share of probes that are answered right; 1 for no probes."""
    return float(answered(model, tokenizer, probes).double().mean()) if probes else 1.0


def locality_recall(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, world: World
) -> dict[str, float]:
    """Return the share of locality questions that are answered right, whole and by token.

    By token is what zsRE's locality counts: the mean over the tokens of each answer first.
    """
    if not world.locality:
        return {}
    found = answered_tokens(model, tokenizer, world.locality)
    whole = torch.stack([tokens.all() for tokens in found]).double()
    shares = torch.stack([tokens.double().mean() for tokens in found])
    return {"locality": float(whole.mean()), "locality_by_token": float(shares.mean())}


def world_recall(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, world: World, sample: int, seed: int
) -> dict[str, float]:
    """Return recall in trained and hidden phrasings, bare and behind an unseen sentence.

    Parameters
    ----------
    sample : int
        Facts asked, drawn at random; all when there are fewer.
    """
    rng = random.Random(seed)
    facts = rng.sample(world.facts, min(sample, len(world.facts)))
    report = {}
    for prefixed in (False, True):
        for kind in ("trained", "hidden"):
            probes = _fact_probes(rng, facts, kind, world.prefixes if prefixed else ())
            name = f"{kind}_behind_text" if prefixed else kind
            report[name] = recall(model, tokenizer, probes)
    return report


def _fact_probes(
    rng: random.Random, facts: Sequence[Fact], kind: str, prefixes: Sequence[str]
) -> list[Probe]:
    probes = []
    for fact in facts:
        templates = fact.trained if kind == "trained" else fact.hidden
        if templates:
            prompt = fill(rng.choice(templates), fact.subject)
            text = f"{rng.choice(prefixes)} {prompt}" if prefixes else prompt
            probes.append(Probe(text, fact.answer))
    return probes


def record_recall(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, world: World, records: int
) -> dict[str, float]:
    """Return recall of the true answers in the prompts of the first records, by kind of prompt.

    ``paraphrase_hidden`` are the paraphrases whose template was held out for that subject.
    """
    probes = record_probes(world, records)
    return {name: recall(model, tokenizer, items) for name, items in probes.items() if items}


def record_probes(world: World, records: int) -> Mapping[str, list[Probe]]:
    """Return the first records' prompts with their true answers, by kind of prompt."""
    probes: dict[str, list[Probe]] = {
        "rewrite": [], "paraphrase_hidden": [], "paraphrase_trained": [],
        "neighborhood": [], "attribute": [],
    }  # fmt: skip
    for record in world.records[:records]:
        rewrite = record["requested_rewrite"]
        true, new = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
        held = str(record["case_id"]) in world.held_out
        probes["rewrite"].append(Probe(fill(rewrite["prompt"], rewrite["subject"]), true))
        for kind, prompts, answer in (
            ("paraphrase_hidden" if held else "paraphrase_trained", "paraphrase_prompts", true),
            ("neighborhood", "neighborhood_prompts", true),
            ("attribute", "attribute_prompts", new),
        ):
            probes[kind] += [Probe(prompt, answer) for prompt in record.get(prompts, ())]
    return probes
