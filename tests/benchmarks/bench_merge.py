"""Seconds and memory of one merge: from factors, from dense sums, and as the released code does it.

Run from the checkout: ``python -m tests.benchmarks.bench_merge``. Prints a table, and JSON with
``--json``. The defaults are one layer of GPT-2 XL and the ten clients with 500 edits each of
CollabEdit's experiments.

Every way runs in a process of its own. Memory is the peak of its resident set (Linux' ``VmHWM``,
reset when the merge begins) less what was resident then, when only libraries had been loaded: it
counts the prior, every contribution that is held at one time, the solve and the update. It is given
in units of one ``d_in x d_in`` matrix in float64 too. (``ru_maxrss`` will not do: a new process
starts with that of its parent.) What clients do (``S_i``, ``B_i`` or ``Delta_i`` from their
keys) is neither timed nor, beyond what a reply holds, counted; nor is the factor of the prior,
which is made once per run, when the manifest is written.

The ways:

``factors``  factors in float32, joined, solved by ``fleke_flwr.linalg``;
``dense``    ``(S_i, B_i)`` in float64, each added and let go, solved by ``fleke_flwr.linalg``;
``released`` all ``(Delta_i, S_i)`` held, ``sum_i Delta_i (S_i + C) @ inverse(C + sum_i S_i)``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fleke_flwr.artifacts import write_tensors
from fleke_flwr.editors.covariance import priors
from fleke_flwr.editors.stored import StoredMoments
from fleke_flwr.linalg import Prior, compress, solve
from fleke_flwr.strategies.pool import Pool
from fleke_flwr.types import EditPayload, LayerStatistics

GROUP = "layer"


@dataclass(frozen=True)
class Setting:
    """One layer, some clients, and where their factors lie."""

    d_in: int
    d_out: int
    clients: int
    edits: int
    threads: int
    folder: str

    def factors(self, client: int) -> LayerStatistics:
        """Read what a client contributes, ``U`` and ``F`` in float32."""
        tensors = load_file(Path(self.folder) / f"client-{client}.safetensors")
        return LayerStatistics(self.edits, keys=tensors["keys"], residuals=tensors["residuals"])

    def wide(self, client: int) -> LayerStatistics:
        """Read the same in float64."""
        keys, residuals = (part.double() for part in self.factors(client).factors())
        return LayerStatistics(self.edits, keys=keys, residuals=residuals)

    def prior(self) -> Prior:
        """Return the prior, whose moment lies on disk as it does in a run."""
        moments = StoredMoments("model", {GROUP: Path(self.folder) / "moment.safetensors"})
        return priors(moments, 100.0)[GROUP]


class Stopwatch:
    """Wall seconds, without those in which clients are at work."""

    def __init__(self) -> None:
        self._started, self._away = time.perf_counter(), 0.0

    def away(self, work: Callable[[], Any]) -> Any:
        """Return what a client makes, on nobody's time."""
        left = time.perf_counter()
        made = work()
        self._away += time.perf_counter() - left
        return made

    @property
    def seconds(self) -> float:
        """What the server has taken so far."""
        return time.perf_counter() - self._started - self._away


def pooled(payloads: Iterator[LayerStatistics]) -> LayerStatistics:
    """Add contributions up as the strategy does."""
    pool = Pool()
    for statistics in payloads:
        pool.add(EditPayload("b", "s", "memit", "frozen", statistics.count, {GROUP: statistics}))
        del statistics
    return pool.contents()[0].statistics[GROUP]


def by_factors(setting: Setting, prior: Prior, watch: Stopwatch) -> Tensor:
    """Join the factors and solve."""
    clients = range(setting.clients)
    replies = (watch.away(lambda i=i: setting.factors(i)) for i in clients)
    return solve(pooled(replies), prior).dense()


def by_sums(setting: Setting, prior: Prior, watch: Stopwatch) -> Tensor:
    """Add dense sums up as they come in and solve."""

    def reply(client: int) -> LayerStatistics:
        gram, cross = setting.wide(client).sums()
        return LayerStatistics(setting.edits, gram=gram, cross=cross)

    replies = (watch.away(lambda i=i: reply(i)) for i in range(setting.clients))
    return solve(pooled(replies), prior).dense()


def as_released(setting: Setting, prior: Prior, watch: Stopwatch) -> Tensor:
    """Multiply every update back and invert, from contributions that are all held."""
    covariance = watch.away(prior.matrix)

    def reply(client: int) -> tuple[Tensor, Tensor]:
        statistics = setting.wide(client)
        return solve(statistics, prior, "dual").dense(), statistics.sums()[0]

    updates, grams = [], []
    for client in range(setting.clients):
        update, gram = watch.away(lambda i=client: reply(i))
        updates.append(update)
        grams.append(gram)
    weighted = sum(
        update @ (gram + covariance) for update, gram in zip(updates, grams, strict=True)
    )
    # The explicit inverse is part of what is compared with.
    merged: Tensor = weighted @ torch.inverse(covariance + sum(grams))
    return merged


WAYS = {"factors": by_factors, "dense": by_sums, "released": as_released}


def one_way(way: str, setting: Setting) -> dict[str, float]:
    """Merge in this process; return seconds, peak memory and the update, written beside."""
    torch.set_num_threads(setting.threads)
    prior = setting.prior()
    assert prior.jitters == (0.0,)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    watch = Stopwatch()
    update = WAYS[way](setting, prior, watch)
    seconds = watch.seconds
    peak = resident("VmHWM") - before
    save_file({"update": update}, Path(setting.folder) / f"{way}.safetensors")
    return {"seconds": seconds, "peak_mib": peak / 1024}


def resident(name: str) -> int:
    """Return one of the kernel's figures about this process, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def prepare(setting: Setting) -> float:
    """Write a prior and the clients' factors; return the seconds that factoring the prior took.

    Keys have the covariance that the prior weighs, with a spectrum that falls as that of real
    ones: a power law over four decades.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scales = torch.logspace(0, -2, setting.d_in, dtype=torch.float64)
    for client in range(setting.clients):
        keys = scales[:, None] * normal(setting.d_in, setting.edits)
        found = compress(keys, normal(setting.d_out, setting.edits), setting.edits)
        parts = zip(("keys", "residuals"), found.factors(), strict=True)
        tensors = {name: part.float().contiguous() for name, part in parts}
        save_file(tensors, Path(setting.folder) / f"client-{client}.safetensors")
    sample = scales[:, None] * normal(setting.d_in, 256)
    covariance = torch.diag(scales**2).addmm_(sample, sample.T, alpha=1 / 256)
    path = Path(setting.folder) / "moment.safetensors"
    write_tensors(path, {"moment": covariance}, {"fingerprint": "model", "module": GROUP})
    started = time.perf_counter()
    assert setting.prior().jitters == (0.0,)
    return time.perf_counter() - started


def measure(setting: Setting) -> dict[str, Any]:
    """Run every way in a process of its own and compare the results."""
    found: dict[str, Any] = {"factor_prior_once": prepare(setting), "ways": {}}
    unit = 8 * setting.d_in**2 / 2**20
    for way in WAYS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_merge", "--one", way]
        command += ["--setting", json.dumps(vars(setting))]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(answer.stdout)
        row["peak_units"] = row["peak_mib"] / unit
        found["ways"][way] = row
    expected = _update(setting, "factors")
    for way, row in found["ways"].items():
        other = _update(setting, way)
        row["relative_difference"] = float((other - expected).norm() / expected.norm())
    return found


def _update(setting: Setting, way: str) -> Tensor:
    return load_file(Path(setting.folder) / f"{way}.safetensors")["update"]


def table(setting: Setting, found: dict[str, Any]) -> str:
    """Write the rows out."""
    lines = [
        f"d_in {setting.d_in}, d_out {setting.d_out}, {setting.clients} clients x "
        f"{setting.edits} edits, {setting.threads} threads; the prior is factored once in "
        f"{found['factor_prior_once']:.1f} s",
        f"{'way':<10}{'seconds':>9}{'peak MiB':>10}{'x d_in^2':>10}{'difference':>12}",
    ]
    for way, row in found["ways"].items():
        lines.append(
            f"{way:<10}{row['seconds']:>9.1f}{row['peak_mib']:>10.0f}{row['peak_units']:>10.2f}"
            f"{row['relative_difference']:>12.1e}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-in", type=int, default=6400)
    parser.add_argument("--d-out", type=int, default=1600)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        found = one_way(chosen.one, Setting(**json.loads(chosen.setting)))
        print(json.dumps(found))  # noqa: T201
        return
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            chosen.d_in, chosen.d_out, chosen.clients, chosen.edits, chosen.threads, folder
        )
        found = measure(setting)
        print(json.dumps(found, indent=2) if chosen.json else table(setting, found))  # noqa: T201


if __name__ == "__main__":
    main()
