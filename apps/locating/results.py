"""What a trace leaves behind: numbers, raw scores, and the suggested layers as a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleke_flwr.apps.locating.knowledge import Knowledge
from fleke_flwr.artifacts import write_tensors, write_text
from fleke_flwr.locate.effects import LAST_SUBJECT, Effect, indirect_effects, total_effect
from fleke_flwr.locate.restorations import BLOCK, MLP, SEVERED_MLP
from fleke_flwr.locate.suggestion import PEAK_SHARE, SEVERED_SHARE, Suggestion, suggest_layers
from fleke_flwr.locate.tracing import Trace

SCORES, PRESET = "scores.safetensors", "layers.toml"


def effects_of(traces: Sequence[Trace]) -> dict[str, dict[str, Effect]]:
    """Return the average indirect effects by kind and role."""
    return {kind: indirect_effects(traces, kind) for kind in traces[0].scores}


def suggestion_of(effects: Mapping[str, Mapping[str, Effect]]) -> Suggestion | None:
    """Return the layers that the last subject token's curves suggest.

    None without MLP traces, or where their largest effect is not beyond its 95 % interval.
    """
    curves = {kind: effect[LAST_SUBJECT].values for kind, effect in effects.items()}
    severed = curves.get(SEVERED_MLP, ()) if BLOCK in curves else ()
    found = suggest_layers(curves.get(MLP, ()), curves.get(BLOCK, ()) if severed else (), severed)
    if found is None:
        return None
    largest = effects[MLP][LAST_SUBJECT].layers[found.peak]
    return found if largest.value > largest.half else None


def summary_of(
    traces: Sequence[Trace],
    effects: Mapping[str, Mapping[str, Effect]],
    suggestion: Suggestion | None,
) -> dict[str, Any]:
    """Return total effect, indirect effects and suggestion as JSON."""
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


def write_preset(directory: Path, content: Mapping[str, Any], suggestion: Suggestion) -> Path:
    """Write the suggested layers as a preset that ``edit.preset`` takes."""
    model, settings = content["model"], content["settings"]
    lines = [
        f"# Layers suggested by fleke trace for model {model['fingerprint']}.",
        f"# {content['counts']['traced']} facts, noise {settings['noise']}, "
        f"window {settings['window']}; rule:",
        f"# {rule_of(suggestion)}.",
        f"layers = {list(suggestion.layers)}",
    ]
    path = directory / PRESET
    write_text(path, "\n".join(lines) + "\n")
    return path


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "tokens": effect.layers[0].count if effect.layers else 0,
        "aie": list(effect.values),
        "ci95": [mean.half for mean in effect.layers],
    }
