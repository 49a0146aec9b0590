"""Moments on disk and factors on demand: the right one, and never more than fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fleke_flwr.artifacts import write_tensors
from fleke_flwr.editors import stored
from fleke_flwr.editors.stored import (
    FactorCache,
    MomentBlock,
    QuietBlock,
    StoredMoments,
    load_moment,
    spectrum,
)
from fleke_flwr.errors import DataError, StatisticsError
from fleke_flwr.prior import Prior, stack

SIZE = 6
BYTES = 8 * SIZE * SIZE


def moment(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(SIZE, 20, generator=generator, dtype=torch.float64)
    return root @ root.T / 20


class Reads(dict[str, Tensor]):
    """Moments that count how often each was read."""

    def __init__(self, names: str) -> None:
        super().__init__({name: moment(seed) for seed, name in enumerate(names)})
        self.counts = dict.fromkeys(names, -1)  # one read more tells the width

    def __getitem__(self, module: str) -> Tensor:
        self.counts[module] += 1
        return super().__getitem__(module)


def test_moments_are_checked_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"moment": moment(0)}, {"fingerprint": "m", "module": "a"})
    moments = StoredMoments("m", {"a": path, "b": path, "c": tmp_path / "absent"})
    assert list(moments) == ["a", "b", "c"]
    assert torch.equal(moments["a"], moment(0))
    with pytest.raises(StatisticsError, match="module b of model m is needed; delete the file"):
        moments["b"]
    with pytest.raises(DataError, match="no such file"):
        moments["c"]
    with pytest.raises(StatisticsError, match="of model other is needed"):
        load_moment(path, "other", "a")


def test_a_block_is_factored_when_it_is_needed_and_kept() -> None:
    reads, cache = Reads("a"), FactorCache(BYTES)
    block = MomentBlock(reads, "a", 7.0, cache)
    assert (block.size, reads.counts["a"]) == (SIZE, 0)
    factor = block.factor()
    torch.testing.assert_close(factor @ factor.T, 7.0 * moment(0))
    assert block.factor() is factor
    assert (block.jitter, reads.counts["a"]) == (0.0, 1)


def test_jitter_is_remembered_when_the_factor_is_not() -> None:
    keys = torch.ones(SIZE, 1, dtype=torch.float64)
    moments = {"a": keys @ keys.T - 1e-12 * torch.eye(SIZE)}
    block = MomentBlock(moments, "a", 2.0, FactorCache(BYTES))
    assert 0 < block.jitter < 1e-4
    moments.clear()
    assert block.jitter > 0


def test_the_factor_not_used_for_longest_goes_first() -> None:
    reads, cache = Reads("abc"), FactorCache(2 * BYTES)
    first, second, third = (MomentBlock(reads, name, 1.0, cache) for name in "abc")
    for block in (first, second, first, third, first):
        block.factor()
    assert reads.counts == {"a": 1, "b": 1, "c": 1}
    second.factor()
    assert reads.counts == {"a": 1, "b": 2, "c": 1}
    first.factor()
    third.factor()
    assert reads.counts == {"a": 1, "b": 2, "c": 2}


def test_room_is_made_before_a_factor_is() -> None:
    cache = FactorCache(BYTES)
    cache.get("old", SIZE, lambda: moment(0))
    held = []

    def make() -> Tensor:
        held.append(cache.held)
        return moment(1)

    cache.get("new", SIZE, make)
    assert held == [0]


def test_a_factor_beyond_the_budget_is_made_every_time() -> None:
    reads, cache = Reads("a"), FactorCache(BYTES - 1)
    block = MomentBlock(reads, "a", 1.0, cache)
    assert torch.equal(block.factor(), block.factor())
    assert (reads.counts["a"], cache.held) == (2, 0)


def test_the_matrix_is_read_and_not_made_from_the_factor() -> None:
    reads, cache = Reads("a"), FactorCache(0)
    block = MomentBlock(reads, "a", 2.0, cache)
    assert block.jitter == 0.0
    counted = reads.counts["a"]
    matrix = torch.eye(SIZE, dtype=torch.float64)
    block.add_to(matrix)
    assert reads.counts["a"] == counted + 1
    expected = 2.0 * moment(0) + torch.eye(SIZE)
    torch.testing.assert_close(matrix.tril(), expected.tril())


def test_the_matrix_that_is_read_has_the_factors_jitter() -> None:
    keys = torch.ones(SIZE, 1, dtype=torch.float64)
    block = MomentBlock({"a": keys @ keys.T - 1e-9 * torch.eye(SIZE)}, "a", 2.0)
    prior = Prior.of([block])
    assert block.jitter > 0
    factor = block.factor()
    torch.testing.assert_close(prior.matrix(), factor @ factor.T, rtol=1e-14, atol=1e-14)


def test_priors_on_demand_are_those_that_are_held() -> None:
    reads = Reads("ab")
    lazy = stack(Prior.of([MomentBlock(reads, name, 3.0, FactorCache(BYTES))]) for name in "ab")
    held = stack(Prior.from_matrix(3.0 * moment(seed)) for seed in range(2))
    keys = torch.randn(2 * SIZE, 3, dtype=torch.float64)
    for mine, theirs in zip(lazy.leverage(keys), held.leverage(keys), strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(lazy.matrix(), held.matrix())


def test_a_spectrum_is_found_once_and_kept_beside_its_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"moment": moment(0)}, {"fingerprint": "m", "module": "a"})
    found = spectrum(StoredMoments("m", {"a": path}), "a")
    torch.testing.assert_close(found.vectors.T * found.values @ found.vectors, moment(0))
    assert bool((found.values.diff() >= 0).all())
    monkeypatch.delattr(stored.torch.linalg, "eigh")
    again = spectrum(StoredMoments("m", {"a": path}), "a")
    assert torch.equal(again.vectors, found.vectors)
    assert torch.equal(again.values, found.values)
    assert [file.name for file in tmp_path.glob("*spectrum*")] == ["a-spectrum.safetensors"]


def test_a_spectrum_of_another_model_is_refused(tmp_path: Path) -> None:
    for name, model in (("a", "m"), ("b", "other")):
        place = tmp_path / name / "moment.safetensors"
        write_tensors(place, {"moment": moment(0)}, {"fingerprint": model, "module": "a"})
        StoredMoments(model, {"a": place}).spectrum("a")
    alien = tmp_path / "b" / "moment-spectrum.safetensors"
    alien.replace(tmp_path / "a" / alien.name)
    with pytest.raises(StatisticsError, match="of model other, but module a of model m"):
        StoredMoments("m", {"a": tmp_path / "a" / "moment.safetensors"}).spectrum("a")


@pytest.mark.parametrize("budget", [0, BYTES])
def test_quiet_directions_are_those_of_the_smallest_eigenvalues(budget: int) -> None:
    reads, cache = Reads("a"), FactorCache(budget)
    block = QuietBlock(reads, "a", 2, 0.5, cache)
    assert (block.size, block.rank, reads.counts["a"]) == (SIZE, 2, 0)
    basis = block.directions()
    values = torch.linalg.eigvalsh(moment(0))
    torch.testing.assert_close(basis.T @ moment(0) @ basis, torch.diag(values[:2]))
    keys = torch.randn(SIZE, 3, dtype=torch.float64)
    prior = Prior.of([block])
    torch.testing.assert_close(prior.leverage(keys)[1], basis @ basis.T @ keys / 0.5)
    assert reads.counts["a"] == (1 if budget else 2)
    assert cache.held == (8 * SIZE * 2 if budget else 0)
