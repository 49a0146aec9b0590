"""What a trace leaves behind: numbers, raw scores, and the suggested layers as a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleke_flwr.apps.locating.knowledge import Knowledge
from fleke_flwr.apps.presets import read_preset
from fleke_flwr.artifacts import write_tensors, write_text
from fleke_flwr.config import TARGET_SETTINGS
from fleke_flwr.locate.effects import LAST_SUBJECT, Effect, indirect_effects, total_effect
from fleke_flwr.locate.restorations import BLOCK, MLP, SEVERED_MLP
from fleke_flwr.locate.suggestion import PEAK_SHARE, SEVERED_SHARE, Suggestion, suggest_layers
from fleke_flwr.locate.tracing import Trace
from fleke_flwr.models.loading import EditableModel

SCORES, PRESET = "scores.safetensors", "layers.toml"
_EXAMPLE = "gpt2-xl"


def effects_of(traces: Sequence[Trace]) -> dict[str, dict[str, Effect]]:
    """Return the average indirect effects by kind and role."""
    return {kind: indirect_effects(traces, kind) for kind in traces[0].scores}


def suggestion_of(effects: Mapping[str, Mapping[str, Effect]]) -> Suggestion | None:
    """Return the layers that the last subject token's curves suggest; None for a reason.

    See :func:`why_none`.
    """
    if why_none(effects):
        return None
    curves = {kind: effect[LAST_SUBJECT].values for kind, effect in effects.items()}
    severed = curves.get(SEVERED_MLP, ()) if BLOCK in curves else ()
    return suggest_layers(curves[MLP], curves[BLOCK] if severed else (), severed)


def why_none(effects: Mapping[str, Mapping[str, Effect]]) -> str:
    """Say why no layers are suggested; empty where some are."""
    if MLP not in effects:
        return "MLPs were not traced"
    found = effects[MLP][LAST_SUBJECT].layers
    if not found:
        return "no prompt goes on behind its subject; write prompts that do"
    peak = max(range(len(found)), key=lambda layer: found[layer].value)
    value, half = found[peak].value, found[peak].half
    if half is None:
        return (
            "only one fact was traced whose prompt goes on behind its subject, and a single one "
            "has no interval; trace more"
        )
    if value <= half:
        return (
            f"the largest effect of MLPs at the last subject token, {value:.3f} ± {half:.3f} in "
            f"layer {peak}, is not above 0 by more than its interval; trace more facts"
        )
    return ""


def summary_of(
    traces: Sequence[Trace],
    effects: Mapping[str, Mapping[str, Effect]],
    suggestion: Suggestion | None,
) -> dict[str, Any]:
    """Return total effect, indirect effects and suggestion, or why there is none, as JSON."""
    total = total_effect(traces)
    return {
        "high": sum(trace.high for trace in traces) / len(traces),
        "low": sum(trace.low for trace in traces) / len(traces),
        "total_effect": {"value": total.value, "ci95": total.half, "facts": total.count},
        "effects": {
            kind: {role: _effect(effect) for role, effect in rows.items()}
            for kind, rows in effects.items()
        },
        "suggestion": None
        if suggestion is None
        else {
            "layers": list(suggestion.layers),
            "peak": suggestion.peak,
            "rule": rule_of(suggestion),
        },
        "why_none": why_none(effects) or None,
    }


def rule_of(suggestion: Suggestion) -> str:
    """Say how the layers were chosen."""
    first, last = suggestion.layers[0], suggestion.layers[-1]
    end = (
        f"to layer {last}, the first from the peak on behind which severing all later MLPs takes "
        f"at most {SEVERED_SHARE:.0%} of the restored block's effect"
        if suggestion.is_severed
        else f"to layer {last}, the peak itself"
    )
    return (
        f"at the last subject token, MLPs have their largest effect in layer {suggestion.peak}; "
        f"from layer {first}, down to which it stays at least {PEAK_SHARE:.0%} of that, {end}"
    )


def write_scores(directory: Path, traces: Sequence[Trace], knowledge: Knowledge) -> None:
    """Write the raw scores ``(tokens, layers)`` as ``NUMBER.KIND``, numbered in file order."""
    tensors = {
        f"{number}.{kind}": scores
        for number, trace in enumerate(traces)
        for kind, scores in trace.scores.items()
    }
    facts = [
        {
            "place": record.place,
            "name": record.fact.name,
            "tokens": list(trace.tokens),
            "subject": [trace.start, trace.stop],
            "answer": trace.answer,
            "high": trace.high,
            "low": trace.low,
        }
        for record, trace in zip(knowledge.known, traces, strict=True)
    ]
    write_tensors(directory / SCORES, tensors, {"schema": 1, "facts": facts})


def missing_settings(model: EditableModel) -> list[str]:
    """Return the settings, as presets write them, that a run needs and the model does not bring."""
    needed = (name.replace("_", "-") for name in TARGET_SETTINGS)
    return [key for key in needed if key not in model.settings]


def write_preset(directory: Path, content: Mapping[str, Any], suggestion: Suggestion) -> Path:
    """Write the suggested layers as a preset that ``edit.preset`` takes.

    What the model brings no settings for stands below them as comments.
    """
    model, settings = content["model"], content["settings"]
    lines = [
        f"# Layers suggested by fleke trace for model {model['fingerprint']}.",
        f"# {content['counts']['traced']} facts, noise {settings['noise']}, "
        f"window {settings['window']}; rule:",
        f"# {rule_of(suggestion)}.",
        f"layers = {list(suggestion.layers)}",
        *_to_fill_in(model["missing_settings"]),
    ]
    path = directory / PRESET
    write_text(path, "\n".join(lines) + "\n")
    return path


def _to_fill_in(missing: Sequence[str]) -> list[str]:
    if not missing:
        return []
    # Published numbers show their size, where an empty place would show nothing.
    published = read_preset(_EXAMPLE)
    return [
        "# A run also needs what follows, and the model has no settings of its own for it. Fill in",
        f"# your values and remove the marks in front; those here are MEMIT's for {_EXAMPLE}.",
        *(f"# {key} = {published[key]}" for key in missing),
    ]


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "tokens": effect.layers[0].count if effect.layers else 0,
        "aie": list(effect.values),
        "ci95": [mean.half for mean in effect.layers],
    }
