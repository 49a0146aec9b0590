"""Load a model once per process, ready to be read and edited."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from fleke_flwr.artifacts import read_json
from fleke_flwr.config import ModelConfig
from fleke_flwr.errors import ModelError
from fleke_flwr.models.attention import kinds_of
from fleke_flwr.models.families import Family, PartName, family_of, part_name
from fleke_flwr.models.opt import keep_positions
from fleke_flwr.models.orientation import is_transposed, weight_of
from fleke_flwr.models.placement import placed
from fleke_flwr.models.precision import use_float64
from fleke_flwr.models.spreading import AUTO, spread

# On a CPU larger batches only leave its cache: 400 records are judged in 2.7 s instead of 4.0 s.
_CPU_TOKENS = 4096
# Tokenizers without character offsets, and weights in formats that can run code.
_OTHER_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "*.bin", "*.pth")
_LOADED: dict[tuple[str, str, str, str, int], EditableModel] = {}


@dataclass(eq=False)
class EditableModel:
    """A causal language model with what editors need to know of it.

    Parameters
    ----------
    model : PreTrainedModel
        In evaluation mode, with frozen parameters.
    tokenizer : PreTrainedTokenizerBase
        A fast tokenizer; padding is on the right.
    family : Family
        Where its parts lie.
    fingerprint : str
        16 hexadecimal digits from all weights and the tokenizer, never from the name.
    name : str
        As the user gave it.
    directory : Path or None
        Local directory it was read from.
    settings : dict[str, Any]
        Its own edit settings (content of ``editing.json``); empty when it has none.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    fingerprint: str
    name: str
    directory: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> PreTrainedConfig:
        """The configuration of the decoder, also where it is a part of a larger model."""
        return self.model.config.get_text_config()

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, in order."""
        blocks = self.model.get_submodule(self.family.blocks)
        assert isinstance(blocks, nn.ModuleList)  # family_of checked the layout
        return blocks

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @cached_property
    def attention_kinds(self) -> tuple[str, ...]:
        """The kind of attention of every block."""
        return kinds_of(self.config)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def max_positions(self) -> int:
        """Longest text in tokens that the model can read."""
        return int(self.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        """Where tokens go in: with the embedding, wherever the other weights are."""
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self._embedding.dtype

    @property
    def working_dtype(self) -> torch.dtype:
        """Number format for sums and optimisation: at least float32."""
        return torch.promote_types(self.dtype, torch.float32)

    def module_name(self, layer: int) -> str:
        """Return the full name of the edited projection of a layer.

        Raises
        ------
        ModelError
            If the model has no such layer.
        """
        if not 0 <= layer < self.num_layers:
            raise ModelError(
                f"model {self.name!r} has no layer {layer}: its layers are 0 to "
                f"{self.num_layers - 1}; correct edit.layers"
            )
        return f"{self.family.blocks}.{layer}.{self.family.projection}"

    def projection(self, layer: int) -> nn.Module:
        """Return the edited projection of a layer."""
        return self.model.get_submodule(self.module_name(layer))

    def weight(self, layer: int) -> Tensor:
        """Return the weight of a layer's edited projection, ``(d_out, d_in)``."""
        return self.weight_of(self.module_name(layer))

    def weight_of(self, module: str) -> Tensor:
        """Return the weight of any projection by its full name, ``(d_out, d_in)``, detached.

        It shares the model's storage.

        Raises
        ------
        ModelError
            If there is no such module, or it has no weight.
        """
        weight = weight_of(self.model, module).detach()
        return weight.T if is_transposed(self.model, module) else weight

    def shape_of(self, module: str) -> tuple[int, int]:
        """Return ``(d_out, d_in)`` of any projection by its full name.

        Raises
        ------
        ModelError
            If there is no such module, or it has no weight.
        """
        d_out, d_in = self.weight_of(module).shape
        return int(d_out), int(d_in)

    def input_width(self, layer: int) -> int:
        """Return ``d_in``, the width of the keys of a layer."""
        return self.shape_of(self.module_name(layer))[1]

    def part(self, layer: int, name: PartName) -> nn.Module:
        """Return a block, or the module in it that puts out what its attention or its MLP does.

        Raises
        ------
        ModelError
            If the model has no such layer.
        UnsupportedModelError
            If the family's row does not name that part.
        """
        self.module_name(layer)
        if name == "block":
            return self.blocks[layer]
        return self.blocks[layer].get_submodule(part_name(self.family, name))

    def batch_limit(self, tokens: int) -> int:
        """Return how many tokens a forward pass should hold at most, given the upper bound."""
        return min(tokens, _CPU_TOKENS) if self.device.type == "cpu" else tokens

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Normalise the output of the last block ``(..., d)``."""
        norm = self.model.get_submodule(self.family.final_norm)
        normed: Tensor = norm(placed(hidden, norm))
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Unembed final-normalised states ``(..., d)``, such as ``last_hidden_state``."""
        head = self.model.get_submodule(self.family.head)
        logits: Tensor = head(placed(hidden, head))
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @property
    def _embedding(self) -> Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)  # an embedding has one
        return weight


def load_model(config: ModelConfig) -> EditableModel:
    """Load a model by name; the same one is loaded once per process.

    Parameters
    ----------
    config : ModelConfig
        ``name`` is ``"embedded"``, a local directory, or a name on the model hub.

    Raises
    ------
    ModelError
        If there is no such model, a file is missing, or the device is not there.
    UnsupportedModelError
        If the model's family has no row in the family table.
    """
    source, directory = _resolve(config.name)
    files = directory.iterdir() if directory else ()
    changed = max((path.stat().st_mtime_ns for path in files), default=0)
    key = (source, config.revision, config.device, config.dtype, changed)
    if key not in _LOADED:
        _LOADED[key] = _load(config, source, directory)
    return _LOADED[key]


def _resolve(name: str) -> tuple[str, Path | None]:
    if name == "embedded":
        from fleke_flwr.world import embedded_directory

        directory = embedded_directory()
    else:
        directory = Path(name).expanduser()
        looks_local = name.startswith((".", "/", "~")) or os.sep in name.partition(os.sep)[2]
        if not directory.exists() and not looks_local:
            return name, None
    _check_directory(directory)
    return str(directory.resolve()), directory.resolve()


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise ModelError(f"model directory {directory}: no such directory")
    needed = ("config.json", "tokenizer.json")
    missing = [name for name in needed if not (directory / name).is_file()]
    if not list(directory.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        others = [name for name in _OTHER_FILES if list(directory.glob(name))]
        found = f" (found only {', '.join(others)})" if others else ""
        raise ModelError(
            f"model directory {directory}: {', '.join(missing)} missing{found}; "
            "load model and tokenizer with AutoModelForCausalLM and AutoTokenizer of transformers "
            "and save both there with save_pretrained"
        )


def _load(config: ModelConfig, source: str, directory: Path | None) -> EditableModel:
    from fleke_flwr.models.selfcheck import check_row  # which runs what is loaded here

    revision = config.revision or "main"
    dtype: torch.dtype = getattr(torch, config.dtype)
    try:
        with no_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            model, loaded = _read_weights(source, revision, dtype)
        if config.device != AUTO:
            nn.Module.to(model, torch.device(config.device))
    except (OSError, ValueError, RuntimeError, AssertionError, SafetensorError) as error:
        raise ModelError(
            f"model {config.name!r} (device {config.device!r}) cannot be loaded: {error}"
        ) from error
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(
            f"model {config.name!r}: its files lack {len(missing)} tensors, {missing[0]} for one, "
            "which would be random numbers; copy or save the model again"
        )
    family = family_of(model)
    kinds_of(model.config.get_text_config())
    keep_positions(model)
    _prepare(model, tokenizer, config.name)
    if dtype == torch.float64:
        use_float64(model)
    if config.device == AUTO:
        spread(model, config.name)
    settings = directory / "editing.json" if directory else None
    found = EditableModel(
        model=model,
        tokenizer=tokenizer,
        family=family,
        fingerprint=fingerprint(model, tokenizer),
        name=config.name,
        directory=directory,
        settings=read_json(settings) if settings and settings.is_file() else {},
    )
    check_row(found)
    return found


def _read_weights(
    source: str, revision: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model, and what transformers says of the tensors it found."""
    read: Any = AutoModelForCausalLM.from_pretrained  # which has no types for this form
    model, info = read(source, revision=revision, dtype=dtype, output_loading_info=True)
    return model, info


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep transformers from drawing bars: progress is reported in one place."""
    hide: Callable[[], None] = transformers_logging.disable_progress_bar
    show: Callable[[], None] = transformers_logging.enable_progress_bar
    drawn = transformers_logging.is_progress_bar_enabled()
    hide()
    try:
        yield
    finally:
        if drawn:
            show()


def _prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not tokenizer.is_fast:
        raise ModelError(
            f"model {name!r} has no fast tokenizer, and without character offsets the subject "
            "cannot be found; add a tokenizer.json"
        )
    tokenizer.padding_side = "right"
    # GPT-2 adds the embedding of token_type_ids, which plain fast tokenizers return unasked.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    nn.Module.train(model, mode=False)
    model.requires_grad_(False)


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash all weights and the tokenizer to 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    return digest.hexdigest()[:16]
