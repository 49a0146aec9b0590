"""How much faster all target vectors at once are than one at a time on the whole network.

Run from the checkout: ``python -m tests.benchmarks.bench_targets --edits 128 --threads 2``.
Prints JSON. Both ways run in turns in one process, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fleke_flwr.config import DataConfig, ModelConfig
from fleke_flwr.data.benchmarks import load_cases
from fleke_flwr.editors.memit import Memit
from fleke_flwr.models import EditableModel, load_model
from fleke_flwr.models.contexts import sample_contexts
from fleke_flwr.models.tokens import subject_position, target_ids
from fleke_flwr.spec import EditSpec
from fleke_flwr.types import EditRequest
from tests.editors.reference import one_target, spec_of

TURNS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--records", default="embedded")
    parser.add_argument("--edits", type=int, default=128)
    parser.add_argument("--reference", type=int, default=24, help="requests done one at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(ModelConfig(name=arguments.model))
    cases = load_cases(DataConfig(path=str(arguments.records))).cases[: arguments.edits]
    contexts = model.settings.get("contexts") or sample_contexts(model, 5, 10, seed=0)
    spec = spec_of(model, contexts=tuple(contexts), batch_tokens=arguments.batch_tokens)
    result = measure(model, spec, [case.request for case in cases], arguments.reference)
    print(json.dumps({"threads": arguments.threads, **result}, indent=2))  # noqa: T201


def measure(
    model: EditableModel, spec: EditSpec, requests: Sequence[EditRequest], alone: int
) -> dict[str, Any]:
    """Return seconds per edit of both ways, their ratio and how well the results agree."""
    editor = Memit(spec)
    editor.targets(model, requests[:8])
    one_target(model, spec, requests[0])
    chosen = requests[:alone]
    slow: list[tuple[Tensor, Tensor, int]] = []
    # Processor seconds tell more than wall seconds on a machine that others use as well.
    wall = {"one_by_one": 0.0, "at_once": 0.0}
    busy = dict(wall)
    for turn in range(TURNS):
        part = chosen[turn * alone // TURNS : (turn + 1) * alone // TURNS]
        results, spent = timed(lambda part=part: [one_target(model, spec, one) for one in part])
        slow.extend(results)
        wall["one_by_one"] += spent[0] / alone
        busy["one_by_one"] += spent[1] / alone
        found, spent = timed(lambda: editor.targets(model, requests))
        wall["at_once"] += spent[0] / TURNS / len(requests)
        busy["at_once"] += spent[1] / TURNS / len(requests)
    vectors = torch.stack([vector for vector, _, _ in slow])
    fast = found.vectors[:alone]
    probabilities = [
        [probability(model, spec, one, vector) for one, vector in zip(chosen, rows, strict=True)]
        for rows in (vectors, fast)
    ]
    gaps = [abs(a - b) for a, b in zip(*probabilities, strict=True)]
    return {
        "edits": len(requests),
        "steps_mean": float(found.steps.double().mean()),
        "wall_seconds_per_edit": wall,
        "processor_seconds_per_edit": busy,
        "ratio": wall["one_by_one"] / wall["at_once"],
        "ratio_of_processor_seconds": busy["one_by_one"] / busy["at_once"],
        "cosine_min": float(torch.cosine_similarity(vectors, fast, dim=1).min()),
        "probability_gap_max": max(gaps),
        "probability_mean": sum(probabilities[1]) / alone,
    }


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """Return the result, the wall seconds and the processor seconds."""
    wall, busy = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - wall, time.process_time() - busy)


@torch.no_grad()
def probability(
    model: EditableModel, spec: EditSpec, request: EditRequest, vector: Tensor
) -> float:
    """Return the probability of the target's first token with the vector in place."""
    ids, position = subject_position(model, request.prompt, request.subject)

    def put(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        output = output.clone()
        output[0, position] = vector
        return output

    handle = model.blocks[spec.layers[-1]].register_forward_hook(put)
    try:
        logits = model.model(torch.tensor([ids])).logits[0, -1]
    finally:
        handle.remove()
    return float(logits.softmax(0)[target_ids(model, request.target)[0]])


if __name__ == "__main__":
    main()
