"""The dual solve against the primal one, and what factors save on the wire.

Run from the checkout: ``python -m tests.benchmarks.bench_solve --d-in 6400 --edits 500``.
Prints JSON. The defaults are one layer of GPT-2 XL with the 500 edits of a CollabEdit client.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from fleke_flwr.linalg import Prior, compress, solve


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-in", type=int, default=6400)
    parser.add_argument("--d-out", type=int, default=1600)
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    sizes = (arguments.d_in, arguments.d_out, arguments.edits)
    print(json.dumps({"threads": arguments.threads, **measure(*sizes)}, indent=2))  # noqa: T201


def measure(d_in: int, d_out: int, edits: int) -> dict[str, Any]:
    """Return seconds, agreement and bytes of one layer."""
    scales = torch.logspace(0, -4, d_in, dtype=torch.float64)
    basis = torch.randn(d_in, 64, dtype=torch.float64) / 8
    matrix = basis @ basis.T + torch.diag(scales)
    keys = torch.randn(d_in, edits, dtype=torch.float64)
    residuals = torch.randn(d_out, edits, dtype=torch.float64)
    prior, factoring = timed(lambda: Prior.from_matrix(matrix))
    statistics, compressing = timed(lambda: compress(keys, residuals, edits))
    dual, dual_seconds = timed(lambda: solve(statistics, prior, "dual"))
    primal, primal_seconds = timed(lambda: solve(statistics, prior, "primal"))
    expected = primal.dense()
    factors = sum(factor.numel() for factor in statistics.factors()) * 4
    paper = (d_out * d_in + d_in * d_in) * 4
    return {
        "d_in": d_in,
        "d_out": d_out,
        "edits": edits,
        "seconds": {
            "factor_prior_once": factoring,
            "compress": compressing,
            "dual": dual_seconds,
            "primal": primal_seconds,
        },
        "ratio": primal_seconds / dual_seconds,
        "relative_difference": float((dual.dense() - expected).norm() / expected.norm()),
        "bytes": {"factors_float32": factors, "paper_update_and_gram_float32": paper},
        "bytes_ratio": paper / factors,
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the wall seconds."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


if __name__ == "__main__":
    main()
