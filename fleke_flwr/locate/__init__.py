"""Causal tracing: where in a model a fact is kept, and which layers that suggests to edit."""

from fleke_flwr.locate.effects import (
    ROLES,
    Effect,
    Mean,
    indirect_effects,
    total_effect,
)
from fleke_flwr.locate.facts import Fact, Prompt, prompt_of
from fleke_flwr.locate.noise import Noise, fitted_noise
from fleke_flwr.locate.restorations import KINDS
from fleke_flwr.locate.suggestion import Suggestion, suggest_layers
from fleke_flwr.locate.tracing import Trace, TraceSettings, trace

__all__ = [
    "KINDS",
    "ROLES",
    "Effect",
    "Fact",
    "Mean",
    "Noise",
    "Prompt",
    "Suggestion",
    "Trace",
    "TraceSettings",
    "fitted_noise",
    "indirect_effects",
    "prompt_of",
    "suggest_layers",
    "total_effect",
    "trace",
]
