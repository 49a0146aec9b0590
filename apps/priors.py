"""The priors of the edited projections: computed once, kept on disk, factored when needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.editors.covariance import corpus_texts, second_moments
from fleke_flwr.linalg import Prior
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.progress import Progress
from fleke_flwr.spec import EditSpec

_KNOWN: dict[tuple[object, ...], Mapping[str, Prior]] = {}


def cache_directory(config: RunConfig) -> Path:
    """Return where covariances are kept: ``cache-dir``, or the user's cache directory."""
    if config.cache_dir:
        return Path(config.cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "fleke-flwr"


def known_priors(
    config: RunConfig, model: EditableModel, spec: EditSpec, progress: Progress
) -> Mapping[str, Prior]:
    """Return the editor's priors by module, for the unedited model: ``C = lambda C0`` of most.

    The second moments stay on disk, and of the factors only as many are held as fit into memory
    (``fleke_flwr.editors.stored``). Call it before any update is applied: the covariance is the
    base model's.
    """
    key = (
        model.fingerprint,
        spec.editor,
        spec.layers,
        spec.ridge_weight,
        tuple(sorted(spec.options.items())),
        config.covariance,
        str(cache_directory(config)),
    )

    def moments() -> Mapping[str, Tensor]:
        texts = corpus_texts(model, config.covariance)
        folder = cache_directory(config) / "covariance"
        tokens = config.covariance.tokens
        return second_moments(model, texts, spec.layers, tokens, folder, progress)

    if key not in _KNOWN:
        _KNOWN[key] = EDITORS.get(spec.editor)(spec).priors(model, moments)
    return _KNOWN[key]
