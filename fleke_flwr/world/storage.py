"""Where a trained model keeps its facts: swap test and shift of keys."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from fleke_flwr.world.network import blocks
from fleke_flwr.world.schema import Fact, World, fill


class _Prompts(NamedTuple):
    ids: Tensor
    subject: Tensor
    end: Tensor


class Swap(NamedTuple):
    """Shares of answers after a swap: the donor's, and the prompt's own."""

    follows: float
    own: float


@torch.no_grad()
def swap_test(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    sample: int,
    seed: int,
) -> dict[int, Swap]:
    """Swap the hidden state at the subject's last token for another subject's, block by block.

    Where the answer follows the donor, the fact is read from that state, which is what
    locate-then-edit methods need. The last block is left out: nothing reads its output there.
    Empty where no two facts of one relation have answers that begin unlike.
    """
    triples = _swap_pairs(random.Random(seed), world.facts, sample)
    if not triples:
        return {}
    own = _locate(tokenizer, [(template, fact.subject) for fact, _, template in triples])
    donor = _locate(tokenizer, [(template, other.subject) for _, other, template in triples])
    states = model(donor.ids, output_hidden_states=True).hidden_states
    rows = torch.arange(len(triples))
    kept_first = _first_tokens(tokenizer, [fact.answer for fact, _, _ in triples])
    taken_first = _first_tokens(tokenizer, [other.answer for _, other, _ in triples])
    report = {}
    for layer, block in enumerate(blocks(model)[:-1]):
        replacement = states[layer + 1][rows, donor.subject]

        def swap(
            _module: nn.Module, _inputs: object, output: Tensor, new: Tensor = replacement
        ) -> Tensor:
            changed = output.clone()
            changed[rows, own.subject] = new
            return changed

        handle = block.register_forward_hook(swap)
        try:
            best = model(own.ids).logits[rows, own.end].argmax(dim=-1)
        finally:
            handle.remove()
        report[layer] = Swap(_share(best == taken_first), _share(best == kept_first))
    return report


@torch.no_grad()
def key_shift(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    sample: int,
    seed: int,
) -> dict[int, float]:
    """Return per block how far keys move when unseen text is put in front of the prompt.

    The mean of ``||k(text + prompt) - k(prompt)|| / ||k(prompt)||`` at the subject's last token,
    where ``k`` is the input of the MLP's output projection. Edits reach paraphrases by this.
    """
    rng = random.Random(seed)
    facts = rng.sample(world.facts, min(sample, len(world.facts)))
    chosen = [(rng.choice(fact.trained), fact.subject) for fact in facts]
    bare = _keys(model, _locate(tokenizer, chosen))
    texts = [(f"{rng.choice(world.prefixes)} {template}", subject) for template, subject in chosen]
    moved = _keys(model, _locate(tokenizer, texts))
    return {
        layer: round(float(((moved[layer] - key).norm(dim=1) / key.norm(dim=1)).mean()), 4)
        for layer, key in bare.items()
    }


def _swap_pairs(
    rng: random.Random, facts: Sequence[Fact], sample: int
) -> list[tuple[Fact, Fact, str]]:
    """Draw pairs of facts with one relation and two answers, and a template of the first.

    The first token tells the answers apart, so that their first words have to differ.
    """
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_relation[fact.relation].append(fact)
    pairs = []
    for fact in rng.sample(facts, min(sample, len(facts))):
        donors = [
            other
            for other in by_relation[fact.relation]
            if other.answer.split()[0] != fact.answer.split()[0]
        ]
        if donors:
            pairs.append((fact, rng.choice(donors), rng.choice(fact.trained)))
    return pairs


def _locate(tokenizer: PreTrainedTokenizerBase, filled: Sequence[tuple[str, str]]) -> _Prompts:
    """Tokenise filled templates; positions are those of the subject's last token and the end."""
    texts = [fill(template, subject) for template, subject in filled]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    rows = encoded["input_ids"]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    subject = []
    for row, (tokens, offsets) in enumerate(zip(rows, encoded["offset_mapping"], strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        template, name = filled[row]
        end = template.index("{}") + len(name)
        subject.append(max(index for index, (start, _) in enumerate(offsets) if start < end))
    return _Prompts(ids, torch.tensor(subject), torch.tensor([len(tokens) - 1 for tokens in rows]))


def _share(hits: Tensor) -> float:
    return round(float(hits.double().mean()), 4)


def _first_tokens(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> Tensor:
    encoded = tokenizer([f" {answer}" for answer in answers])["input_ids"]
    return torch.tensor([tokens[0] for tokens in encoded])


def _keys(model: GPT2LMHeadModel, prompts: _Prompts) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    rows = torch.arange(len(prompts.ids))
    handles = []
    for layer, block in enumerate(blocks(model)):

        def keep(_module: nn.Module, inputs: tuple[Tensor], layer: int = layer) -> None:
            found[layer] = inputs[0][rows, prompts.subject]

        handles.append(block.mlp.c_proj.register_forward_pre_hook(keep))
    try:
        model(prompts.ids)
    finally:
        for handle in handles:
            handle.remove()
    return found
