"""A byte-level BPE tokenizer in which every word of an answer is one token."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fleke_flwr.world.schema import World, sentence, statement

END = "<|endoftext|>"
_ANSWER_REPEATS = 60
_MOST_FILLERS = 3000


def train_tokenizer(world: World, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer on trained sentences, fillers and, many times, the answers."""
    text = [sentence(fact, template) for fact in world.facts for template in fact.trained]
    text += [statement(probe.prompt, probe.answer) for probe in world.locality]
    text += world.fillers[:_MOST_FILLERS]
    text += [answer for answer in world.answers for _ in range(_ANSWER_REPEATS)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    construct: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return construct(
        tokenizer_object=backend,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        add_prefix_space=True,
        # Plain fast tokenizers also return token_type_ids, whose embedding GPT-2 adds to its input.
        model_input_names=["input_ids", "attention_mask"],
    )


def split_answers(world: World, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the answers that are more than one token; a larger vocabulary makes them fewer."""
    encoded = tokenizer([f" {answer}" for answer in world.answers])["input_ids"]
    return [answer for answer, ids in zip(world.answers, encoded, strict=True) if len(ids) > 1]
