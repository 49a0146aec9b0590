"""How much faster a trace in batches is than one forward pass for every token and layer.

Run from the checkout: ``python -m tests.benchmarks.bench_trace --facts 8 --threads 1``.
Prints JSON. Both ways run in turns in one process, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json

import torch

from fleke_flwr.config import DataConfig, ModelConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.locate import KINDS, Fact, TraceSettings, fitted_noise, prompt_of, trace
from fleke_flwr.models import load_model
from tests.benchmarks.bench_targets import timed
from tests.locate.reference import slow_scores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--records", default="embedded")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(ModelConfig(name=arguments.model))
    cases = load_cases(DataConfig(path=str(arguments.records))).cases[: arguments.facts]
    requests = [case.request for case in cases]
    prompts = [prompt_of(model, Fact(r.case_id, r.prompt, r.subject)) for r in requests]
    noise = fitted_noise(model, "s3", prompts)
    settings = TraceSettings(kinds=tuple(arguments.kinds.split(","))).for_model(model)
    trace(model, prompts[0], noise, settings)
    wall = {"one_by_one": 0.0, "at_once": 0.0}
    busy, largest = dict(wall), 0.0
    for prompt in prompts:
        drawn = noise.draw(settings.seed, prompt, settings.samples, model.d_model).float()
        given = (model, prompt, drawn, settings.kinds, settings.window)
        slow, spent = timed(lambda given=given: slow_scores(*given))
        fast, less = timed(lambda prompt=prompt: trace(model, prompt, noise, settings))
        for name, times in (("one_by_one", spent), ("at_once", less)):
            wall[name] += times[0] / len(prompts)
            busy[name] += times[1] / len(prompts)
        gaps = [float((fast.scores[kind] - slow[2][kind]).abs().max()) for kind in settings.kinds]
        largest = max(largest, *gaps)
    result = {
        "threads": arguments.threads,
        "facts": len(prompts),
        "kinds": settings.kinds,
        "tokens_mean": sum(len(prompt.ids) for prompt in prompts) / len(prompts),
        "wall_seconds_per_fact": wall,
        "processor_seconds_per_fact": busy,
        "ratio": wall["one_by_one"] / wall["at_once"],
        "ratio_of_processor_seconds": busy["one_by_one"] / busy["at_once"],
        "score_gap_max": largest,
    }
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
