"""How well every editor does with 1 to 1000 edits, all at once and one after the other.

Run from the checkout: ``python -m tests.benchmarks.bench_editors --editors memit,rome --output
table.jsonl``. Appends a line of JSON for every cell and skips the cells that the file has; at the
end prints the table in Markdown. Measured on the embedded model: efficacy, paraphrase,
neighborhood, Score, recall of the subjects' other facts, processor seconds per edit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fleke_flwr.apps.central import EditSequence
from fleke_flwr.apps.networks import editable_cases
from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.config import RunConfig, parse_overrides
from fleke_flwr.data.partition import partition_cases
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.evaluation.quality import evaluate, summarize
from fleke_flwr.models.loading import load_model
from fleke_flwr.progress import Silent
from fleke_flwr.types import EvalCase

METRICS = ("efficacy", "paraphrase", "neighborhood", "score", "same_subject")


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--editors", default=",".join(EDITORS.names()))
    parser.add_argument("--edits", default="1,10,100,1000")
    parser.add_argument("--batches", default="0,1", help="records edited together; 0 for all")
    parser.add_argument("--settings", default="", help="key=value pairs, separated by spaces")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known = _known(arguments.output)
    config = RunConfig.from_flat(parse_overrides(arguments.settings.split()))
    for editor in arguments.editors.split(","):
        for edits in map(int, arguments.edits.split(",")):
            for batch in map(int, arguments.batches.split(",")):
                if (editor, edits, batch) in known:
                    continue
                row = cell(replace(config, editor=editor), edits, batch)
                known[editor, edits, batch] = row
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(known.values()))  # noqa: T201


def cell(config: RunConfig, edits: int, batch: int) -> dict[str, Any]:
    """Edit and measure; the first records of the seeded order, the same for every editor."""
    model = load_model(config.model)
    spec = resolve_recipe(config, model)
    priors = known_priors(config, model, spec, Silent())
    cases = _cases(config, edits)
    work = EditSequence(config, EDITORS.get(config.editor)(spec), model, priors, Silent())
    size = batch or len(cases)
    wall, busy = time.perf_counter(), time.process_time()
    for start in range(0, len(cases), size):
        work.edit([case.request for case in cases[start : start + size]], start // size + 1)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    with work.state.applied(model.model):
        found = summarize(evaluate(model, cases, config.evaluation, config.seed).sums())
    return {
        "editor": config.editor,
        "edits": edits,
        "batch": batch,
        **{name: found.get(name) for name in METRICS},
        "seconds_per_edit": wall / edits,
        "processor_seconds_per_edit": busy / edits,
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the cells as the Markdown of docs/editors.md."""
    titles = [*(name.replace("_", " ") for name in METRICS), "s an edit"]
    lines = [f"| editor | edits | way | {' | '.join(titles)} |", "|---" * (3 + len(titles)) + "|"]
    for row in sorted(rows, key=lambda row: (row["editor"], row["batch"], row["edits"])):
        way = {0: "at once", 1: "one by one"}.get(row["batch"], f"{row['batch']} at a time")
        figures = ["-" if row[name] is None else f"{row[name]:.1f}" for name in METRICS]
        spent = f"{row['processor_seconds_per_edit']:.2f}"
        cells = [f"`{row['editor']}`", str(row["edits"]), way, *figures, spent]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cases(config: RunConfig, edits: int) -> list[EvalCase]:
    chosen = replace(config, data=replace(config.data, edits=edits), clients=1)
    cases = editable_cases(chosen, load_model(chosen.model))
    (part,) = partition_cases(cases, chosen.data, 1, chosen.seed)
    return list(part)


def _known(path: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row["editor"], row["edits"], row["batch"]): row for row in rows}


if __name__ == "__main__":
    main()
