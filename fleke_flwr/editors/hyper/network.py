"""The hyper-networks: one stack of blocks per shape of weight, a scale and shift per module.

Letters: ``k (tokens, d_in)`` rows that enter a module, ``g (tokens, d_out)`` gradients of the
requests' losses with respect to what it puts out; ``k~``, ``g~`` the same, transformed; ``D``,
``K``, ``kappa`` and ``Delta`` as in :mod:`fleke_flwr.editors.hyper.ridge`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fleke_flwr.editors.hyper.blocks import LowRankBlock, MalmenBlock, MendBlock
from fleke_flwr.editors.hyper.normalizer import Normalizer
from fleke_flwr.editors.hyper.ridge import Ridge

Shape = tuple[int, int]
_BLOCKS = 2
_CHUNK = 1024


@dataclass(frozen=True)
class Edit:
    """The change of one weight, and the way back from it.

    Parameters
    ----------
    change : Tensor
        ``(d_out, d_in)``, added to the weight; without a graph.
    backward : Callable[[Tensor], None]
        Adds to the gradients of the network's parameters, given ``dLoss/dchange``. The network
        runs a second time for it, with a graph, so that none is kept while the language model is
        differentiated.
    """

    change: Tensor
    backward: Callable[[Tensor], None]


class HyperNetwork(nn.Module, ABC):
    """Turns keys and gradients of tokens into the change of every edited weight.

    Parameters
    ----------
    shapes : Mapping[str, tuple[int, int]]
        ``(d_out, d_in)`` by module; modules of one shape share a stack of blocks.
    rank : int
        Of the blocks, at most their width.
    seed : int
        Equal seeds begin with equal networks.
    """

    block: ClassVar[type[LowRankBlock]]
    scalars: ClassVar[tuple[str, ...]]

    def __init__(self, shapes: Mapping[str, Shape], rank: int, seed: int = 0) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.rank = rank
        modules = list(self.shapes)
        sharing = [
            [name for name in modules if self.shapes[name] == shape]
            for shape in dict.fromkeys(self.shapes.values())
        ]
        self._place = {
            name: (number, mode)
            for number, names in enumerate(sharing)
            for mode, name in enumerate(names)
        }
        generator = torch.Generator().manual_seed(seed)
        self.stacks = nn.ModuleList()
        for names in sharing:
            width = sum(self.shapes[names[0]])
            drawn = [
                self.block(width, min(rank, width), len(names), generator) for _ in range(_BLOCKS)
            ]
            self.stacks.append(nn.ModuleList(drawn))
        self.rates = nn.Parameter(torch.ones(len(modules)))
        self.register_buffer("units", torch.ones(len(modules)))
        for number, name in enumerate(modules):
            width = sum(self.shapes[name])
            self.register_buffer(f"mean_{number}", torch.zeros(width))
            self.register_buffer(f"deviation_{number}", torch.ones(width))

    def set_normalizer(self, module: str, found: Normalizer) -> None:
        """Take a module's statistics; done once, before the first step of training."""
        number = list(self.shapes).index(module)
        self.get_buffer(f"mean_{number}").copy_(found.mean)
        self.get_buffer(f"deviation_{number}").copy_(found.deviation)

    def set_unit(self, module: str, unit: float) -> None:
        """Say what a rate of one means for a module, before the first step of training."""
        self.get_buffer("units")[list(self.shapes).index(module)] = unit

    def transformed(self, module: str, keys: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``k~`` and ``g~`` for ``(tokens, d_in)`` and ``(tokens, d_out)``."""
        number = list(self.shapes).index(module)
        normalize = Normalizer(
            self.get_buffer(f"mean_{number}"), self.get_buffer(f"deviation_{number}")
        )
        rows = normalize(torch.cat([keys, gradients], dim=1).to(normalize.mean))
        stack, mode = self._place[module]
        blocks = self.stacks[stack]
        assert isinstance(blocks, nn.ModuleList)  # built so
        for block in blocks:
            rows = block(rows, mode)
        d_in = self.shapes[module][1]
        return rows[:, :d_in], rows[:, d_in:]

    def rate(self, module: str) -> Tensor:
        """Return the learnt factor of a module's change: of either sign, in the module's unit."""
        number = list(self.shapes).index(module)
        return self.rates[number] * self.get_buffer("units")[number]

    @abstractmethod
    def edit(self, module: str, keys: Tensor, gradients: Tensor) -> Edit:
        """Return the change of a module's weight that these tokens make, without a graph."""


class MendNetwork(HyperNetwork):
    """MEND (Mitchell et al. 2022, arXiv 2110.11309): ``W + alpha_l sum_t g~_t k~_t^T``.

    ``alpha_l`` is the learnt rate times a negative unit, so an untrained network descends; the
    released code adds with ``alpha_l = 1e-4`` and leaves finding the sign to the network.
    """

    block = MendBlock
    scalars = ("rates",)

    def factors(self, module: str, keys: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the change as ``(d_out, tokens)`` times ``(tokens, d_in)``."""
        new_keys, new_gradients = self.transformed(module, keys, gradients)
        return (-self.rate(module) * new_gradients).T, new_keys

    def edit(self, module: str, keys: Tensor, gradients: Tensor) -> Edit:
        """Return ``alpha_l sum_t g~_t k~_t^T``."""

        def change() -> Tensor:
            left, right = self.factors(module, keys, gradients)
            return left @ right

        def backward(upstream: Tensor) -> None:
            with torch.enable_grad():
                again = change()
            _back(again, upstream)

        with torch.no_grad():
            return Edit(change(), backward)


class MalmenNetwork(HyperNetwork):
    """MALMEN (Tan et al. 2024, arXiv 2311.04661): a ridge regression on wanted output changes.

    Token ``t`` wants ``D_t = -eta_l (k_t . k~_t) g~_t``, and
    ``Delta = D^T K (K^T K + kappa_l I)^-1`` with ``kappa_l = exp(theta_l)``.
    """

    block = MalmenBlock
    scalars = ("rates", "theta")

    def __init__(self, shapes: Mapping[str, Shape], rank: int, seed: int = 0) -> None:
        super().__init__(shapes, rank, seed)
        self.theta = nn.Parameter(torch.zeros(len(shapes)))

    def kappa(self, module: str) -> float:
        """Return the ridge constant of a module."""
        return float(self.theta.detach()[list(self.shapes).index(module)].double().exp())

    def desired(self, module: str, keys: Tensor, gradients: Tensor) -> Tensor:
        """Return ``D (tokens, d_out)``; a token's row depends on that token alone."""
        new_keys, new_gradients = self.transformed(module, keys, gradients)
        along = (keys.to(new_keys) * new_keys).sum(dim=1, keepdim=True)
        return -self.rate(module) * along * new_gradients

    def edit(self, module: str, keys: Tensor, gradients: Tensor) -> Edit:
        """Return ``Delta`` in float64; its gradient goes back through the solve by hand."""
        ridge = Ridge(keys, self.kappa(module))
        with torch.no_grad():
            change = ridge.change(self.desired(module, keys, gradients))

        def backward(upstream: Tensor) -> None:
            to_desired, to_theta = ridge.backward(change, upstream)
            for start in range(0, len(keys), _CHUNK):
                part = slice(start, start + _CHUNK)
                with torch.enable_grad():
                    desired = self.desired(module, keys[part], gradients[part])
                _back(desired, to_desired[part])
            if self.theta.grad is None:
                self.theta.grad = torch.zeros_like(self.theta)
            self.theta.grad[list(self.shapes).index(module)] += to_theta

        return Edit(change, backward)


def _back(output: Tensor, upstream: Tensor) -> None:
    torch.autograd.backward(output, upstream.to(output))


NETWORKS: Mapping[str, type[HyperNetwork]] = {"malmen": MalmenNetwork, "mend": MendNetwork}
