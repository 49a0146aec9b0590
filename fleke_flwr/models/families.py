"""What the editors need to know of a model family: one row each, nothing anywhere else."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from fleke_flwr.errors import UnsupportedModelError


@dataclass(frozen=True)
class Family:
    """Where the parts of a decoder lie, as dotted names.

    A new family is one more row of ``FAMILIES``; the contract tests pick it up.

    Parameters
    ----------
    model_type : str
        ``config.model_type`` in transformers.
    blocks : str
        List of decoder blocks.
    projection : str
        The edited projection, relative to a block: the second matrix of the MLP.
    final_norm, head : str
        Last normalisation and unembedding.
    attention, mlp, norm_1, norm_2 : str
        Parts of a pre-norm sequential block ``x + attention(norm_1(x))``, ``x + mlp(norm_2(x))``,
        relative to it. With an empty ``norm_2`` a block is only ever called whole, which is
        slower but right for every block.
    """

    model_type: str
    blocks: str
    projection: str
    final_norm: str
    head: str
    attention: str = ""
    mlp: str = ""
    norm_1: str = ""
    norm_2: str = ""


_ROWS = (
    Family(
        model_type="gpt2",
        blocks="transformer.h",
        projection="mlp.c_proj",
        final_norm="transformer.ln_f",
        head="lm_head",
        attention="attn",
        mlp="mlp",
        norm_1="ln_1",
        norm_2="ln_2",
    ),
    Family(
        model_type="llama",
        blocks="model.layers",
        projection="mlp.down_proj",
        final_norm="model.norm",
        head="lm_head",
        attention="self_attn",
        mlp="mlp",
        norm_1="input_layernorm",
        norm_2="post_attention_layernorm",
    ),
)

FAMILIES: dict[str, Family] = {row.model_type: row for row in _ROWS}


def family_of(model: PreTrainedModel) -> Family:
    """Return the row of a model's family.

    Raises
    ------
    UnsupportedModelError
        If there is no row, or the model is not laid out as the row says.
    """
    model_type = str(model.config.model_type)
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"models of type {model_type!r} cannot be edited yet (known: "
            f"{', '.join(sorted(FAMILIES))}); add a row with model_type={model_type!r} to "
            "fleke_flwr/models/families.py"
        )
    family = FAMILIES[model_type]
    names = [
        family.blocks,
        f"{family.blocks}.0.{family.projection}",
        family.final_norm,
        family.head,
    ]
    for name in names:
        try:
            model.get_submodule(name)
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{type(model).__name__} of type {model_type!r} has no part {name!r}; "
                "load it as a causal language model, or correct the row in "
                "fleke_flwr/models/families.py"
            ) from error
    return family
