"""Write an edited model as transformers loads it, without this package."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from fleke_flwr.models.loading import EditableModel, no_bars
from fleke_flwr.models.orientation import relative_rounding, stored_change, weight_of
from fleke_flwr.state import applied
from fleke_flwr.types import LayerUpdate


def save_edited(
    model: EditableModel,
    updates: Mapping[str, LayerUpdate],
    directory: Path,
    dtype: torch.dtype,
    revision: str = "",
) -> dict[str, float]:
    """Write model, tokenizer and configurations to a directory.

    In the model's own format the stored weights are bit for bit those of
    :func:`~fleke_flwr.state.applied`. All weights have one format, as transformers loads them in
    one: tensors of a wider format would be rounded while loading. The model's edit settings
    (``editing.json``) go along; its texts do not.

    Parameters
    ----------
    model : EditableModel
        The base model.
    updates : Mapping[str, LayerUpdate]
        By module.
    directory : Path
        Of the edited model.
    dtype : torch.dtype
        Format of the stored weights.
    revision : str
        Of the tokenizer, where the model was loaded from a hub by revision.

    Returns
    -------
    dict[str, float]
        By module, how far its stored weight is from the exact sum, relative to the update.

    Raises
    ------
    ModelError
        If the updates do not fit the model.
    """
    changes = {name: stored_change(model.model, name, update) for name, update in updates.items()}
    before = {name: weight_of(model.model, name).detach().clone() for name in updates}
    with applied(model.model, updates), no_bars():
        edited = _in_format(model.model, dtype)
        edited.save_pretrained(directory)
        lost = {
            name: relative_rounding(before[name], weight_of(edited, name).detach(), change)
            for name, change in changes.items()
        }
    # The loaded one is set up for batches of this package.
    tokenizer = AutoTokenizer.from_pretrained(
        model.directory or model.name, revision=revision or "main"
    )
    tokenizer.save_pretrained(directory)
    if model.directory is not None and (model.directory / "editing.json").is_file():
        shutil.copyfile(model.directory / "editing.json", directory / "editing.json")
    return lost


def _in_format(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    if model.dtype == dtype:
        return model
    converted = copy.deepcopy(model)
    nn.Module.to(converted, dtype)
    return converted
