"""The recipe all clients follow: the user's settings, a preset's, the model's own."""

from __future__ import annotations

from dataclasses import replace

from fleke_flwr.apps.networks import with_network
from fleke_flwr.apps.presets import settings_of
from fleke_flwr.config import RunConfig
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.models.contexts import sample_contexts
from fleke_flwr.models.loading import EditableModel
from fleke_flwr.spec import EditSpec, Wanted, resolve_spec


def resolve_recipe(config: RunConfig, model: EditableModel) -> EditSpec:
    """Complete the edit settings and sample the shared prefixes, once, on the server.

    A mode that makes no sense for the editor becomes the editor's own.

    Raises
    ------
    ConfigError
        If a setting is missing, the preset is unknown, or the editor refuses its parameters.
    UnsupportedModelError
        If the editor cannot edit such a model.
    """
    kind = EDITORS.get(config.editor)
    config = replace(config, mode=fitting_mode(config))
    settings = settings_of(config, model, config.editor)
    contexts = settings.get("contexts") or sample_contexts(
        model, config.contexts.count, config.contexts.length, config.seed
    )
    spec = resolve_spec(config, settings, contexts, Wanted(kind.settings, kind.options))
    spec = with_network(spec, config, model)
    kind(spec).check(model)
    return spec


def fitting_mode(config: RunConfig) -> str:
    """Return the mode of a run, or the editor's first where that one makes no sense for it."""
    modes = EDITORS.get(config.editor).modes
    return config.mode if config.mode in modes else modes[0]
