"""What the editors need to know of a model family: one row each, nothing anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Literal

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from fleke_flwr.errors import UnsupportedModelError
from fleke_flwr.models.guessing import suggested_row

PartName = Literal["attention", "mlp", "block"]


@dataclass(frozen=True)
class Family:
    """Where the parts of a decoder lie, as dotted names.

    A new family is one more row of ``FAMILIES``; the contract tests pick it up. A package of yours
    names its rows as entry points ``fleke_flwr.families``, by ``model_type``.

    With ``norm_2``, blocks are run in parts, the MLP only where it is wanted. They are
    ``y = x + after_attention(attention(norm_1(x)))`` followed by
    ``y + after_mlp(mlp(norm_2(y)))``, or ``y + after_mlp(mlp(norm_2(x)))`` where attention and MLP
    stand side by side. Without ``norm_2`` a block is only ever called whole, which is slower but
    right for every block.

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
    attention, norm_1, norm_2 : str
        Parts of a block, relative to it; ``norm_2`` may be ``norm_1`` again.
    mlp : str
        The MLP, relative to a block; empty where it is no module.
    mlp_chain : tuple[str, ...]
        The modules that make up such an MLP, in order; the last puts out what the MLP does.
    after_attention, after_mlp : str
        Norms behind the parts, before they are added; empty where there are none.
    parallel : bool
        Whether the MLP reads the block's input.
    parallel_setting : str
        Entry of the model's configuration that says so, where it differs within the family.
    cache : str
        By which argument blocks are handed the cache of keys and values.
    needs : Mapping[str, object]
        Entries of the model's configuration without which this row does not hold.
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
    mlp_chain: tuple[str, ...] = ()
    after_attention: str = ""
    after_mlp: str = ""
    parallel: bool = False
    parallel_setting: str = ""
    cache: str = "past_key_values"
    needs: Mapping[str, object] = field(default_factory=dict)

    @property
    def mlp_modules(self) -> tuple[str, ...]:
        """What the MLP is made of, in order."""
        return self.mlp_chain or (self.mlp,)


_LLAMA = Family(
    model_type="llama",
    blocks="model.layers",
    projection="mlp.down_proj",
    final_norm="model.norm",
    head="lm_head",
    attention="self_attn",
    mlp="mlp",
    norm_1="input_layernorm",
    norm_2="post_attention_layernorm",
)
_GEMMA_2 = replace(
    _LLAMA,
    model_type="gemma2",
    norm_2="pre_feedforward_layernorm",
    after_attention="post_attention_layernorm",
    after_mlp="post_feedforward_layernorm",
)
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
        model_type="gptj",
        blocks="transformer.h",
        projection="mlp.fc_out",
        final_norm="transformer.ln_f",
        head="lm_head",
        attention="attn",
        mlp="mlp",
        norm_1="ln_1",
        norm_2="ln_1",
        parallel=True,
        cache="layer_past",
    ),
    Family(
        model_type="gpt_neox",
        blocks="gpt_neox.layers",
        projection="mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        head="lm_head",
        attention="attention",
        mlp="mlp",
        norm_1="input_layernorm",
        norm_2="post_attention_layernorm",
        parallel_setting="use_parallel_residual",
        cache="layer_past",
    ),
    Family(
        model_type="phi",
        blocks="model.layers",
        projection="mlp.fc2",
        final_norm="model.final_layernorm",
        head="lm_head",
        attention="self_attn",
        mlp="mlp",
        norm_1="input_layernorm",
        norm_2="input_layernorm",
        parallel=True,
    ),
    Family(
        model_type="opt",
        blocks="model.decoder.layers",
        projection="fc2",
        final_norm="model.decoder.final_layer_norm",
        head="lm_head",
        attention="self_attn",
        mlp_chain=("fc1", "activation_fn", "fc2"),
        norm_1="self_attn_layer_norm",
        norm_2="final_layer_norm",
        # The 350m variant normalises behind the sums, so that nothing added there stays what it is.
        needs={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    ),
    _LLAMA,
    replace(_LLAMA, model_type="mistral"),
    replace(_LLAMA, model_type="qwen2"),
    replace(_LLAMA, model_type="qwen3"),
    replace(_LLAMA, model_type="gemma"),
    _GEMMA_2,
    replace(_GEMMA_2, model_type="gemma3_text"),
    # Gemma 3 with its reader of images, as 4B and larger are published.
    replace(
        _GEMMA_2,
        model_type="gemma3",
        blocks="model.language_model.layers",
        final_norm="model.language_model.norm",
    ),
)

ENTRY_POINTS = "fleke_flwr.families"
FAMILIES: dict[str, Family] = {row.model_type: row for row in _ROWS}


def family_of(model: PreTrainedModel) -> Family:
    """Return the row of a model's family, with what its configuration decides.

    Raises
    ------
    UnsupportedModelError
        If there is no row, or the model is not laid out as the row says.
    """
    model_type = str(model.config.model_type)
    family = FAMILIES.get(model_type) or _of_others(model_type)
    if family is None:
        raise UnsupportedModelError(
            f"models of type {model_type!r} cannot be edited yet (known: "
            f"{', '.join(sorted(FAMILIES))}); check this row, guessed from the model's modules, "
            f"and add it to fleke_flwr/models/families.py (or, in a package of yours, as entry "
            f"point {model_type!r} of {ENTRY_POINTS}):\n{suggested_row(model)}"
        )
    config = model.config.get_text_config()
    _check_settings(family, config)
    _check_parts(family, model)
    if family.parallel_setting:
        return replace(family, parallel=bool(getattr(config, family.parallel_setting)))
    return family


def _of_others(model_type: str) -> Family | None:
    """Return the row that another package brings, if there is one."""
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == model_type:
            found = point.load()
            if not isinstance(found, Family):
                raise UnsupportedModelError(
                    f"entry point {point.name!r} of {ENTRY_POINTS}: {point.value} is no Family; "
                    "let it name one"
                )
            return found
    return None


def part_name(family: Family, name: Literal["attention", "mlp"]) -> str:
    """Return the module that puts out what a part does, relative to a block.

    Of an MLP that is a chain of modules it is the last one.

    Raises
    ------
    UnsupportedModelError
        If the family's blocks have no such module.
    """
    found = family.attention if name == "attention" else family.mlp_modules[-1]
    if not found:
        raise UnsupportedModelError(
            f"the row of type {family.model_type!r} does not name the {name} of its blocks; "
            "complete it in fleke_flwr/models/families.py"
        )
    return found


def _check_settings(family: Family, config: PreTrainedConfig) -> None:
    for name in ("hidden_size", "max_position_embeddings"):
        if getattr(config, name, None) is None:
            raise UnsupportedModelError(
                f"models of type {family.model_type!r} cannot be edited: their configuration does "
                f"not say {name!r}"
            )
    for name, needed in family.needs.items():
        found = getattr(config, name, None)
        if found != needed:
            raise UnsupportedModelError(
                f"models of type {family.model_type!r} with {name} = {found!r} cannot be edited: "
                f"what an edit adds would not stay a sum; choose one with {name} = {needed!r}"
            )


def _check_parts(family: Family, model: PreTrainedModel) -> None:
    inner = (
        family.projection, family.attention, family.norm_1, family.norm_2, *family.mlp_modules,
        family.after_attention, family.after_mlp,
    )  # fmt: skip
    first = f"{family.blocks}.0"
    names = [family.blocks, first, *(f"{first}.{name}" for name in inner if name)]
    for name in [*names, family.final_norm, family.head]:
        try:
            model.get_submodule(name)
        except AttributeError as error:
            raise UnsupportedModelError(
                f"{type(model).__name__} of type {family.model_type!r} has no part {name!r}; "
                "load it as a causal language model, or correct the row in "
                "fleke_flwr/models/families.py"
            ) from error
    weight = model.get_submodule(family.head).weight
    width = model.config.get_text_config().hidden_size
    if isinstance(weight, Tensor) and weight.shape[1] != width:
        raise UnsupportedModelError(
            f"this {type(model).__name__} reads out states of width {weight.shape[1]} and its "
            f"blocks are {width} wide; models with a projection in between cannot be edited"
        )
