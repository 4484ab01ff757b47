"""Muon (K. Jordan et al., 2024): momentum whose step along each weight matrix is made nearly orthogonal.

Its step moves all directions of a matrix alike, the rare ones too, in which the words for shapes were seen to be
learned late. torch.optim.Muon takes matrices alone, no convolutions, and iterates in bfloat16, which on a CPU without
instructions for it took fifteen times as long as float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import torch
from torch import nn

from .processes import sum_together

MOMENTUM: Final = 0.95
ITERATIONS: Final = 5
COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration, as published: singular values end near 1, not at it."""
ADAMW_SIZE: Final = 0.2
"""Root mean square of AdamW's usual step (arXiv 2502.16982): with it one learning rate suits both optimizers."""
OUTER: Final = ("embed", "conv_in", "conv_out", "projection")
"""Parts of names of the layers at the rim, whose rows are not directions of a hidden space: AdamW takes them."""


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix [rows, columns] with the same singular vectors and singular values near 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide: torch.Tensor = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = wide @ wide.T
        wide = first * wide + (third * square + fifth * square @ square) @ wide
    return wide.T if tall else wide


def inner_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The parameters Muon is for: weights of linear layers and convolutions, but for those at the rim."""
    named = module.named_parameters()
    return [weight for name, weight in named if weight.ndim >= 2 and not any(part in name for part in OUTER)]


def other_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that `inner_matrices` leaves to AdamW."""
    taken = {id(weight) for weight in inner_matrices(module)}
    return [weight for weight in module.parameters() if id(weight) not in taken]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; a convolution counts as the matrix [out, in * height * width].

    Of `world_size` processes with the same gradients each works out its share of the steps and they swap them.
    """

    def __init__(self, weights: Iterable[nn.Parameter], rank: int = 0, world_size: int = 1) -> None:
        super().__init__(weights, {"lr": 0.0})
        self.rank, self.world_size = rank, world_size

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight by its step times its group's learning rate. Takes no closure."""
        for group in self.param_groups:
            weights: list[nn.Parameter] = group["params"]
            order = sorted(range(len(weights)), key=lambda index: weights[index].numel())
            steps = [torch.zeros_like(weight) for weight in weights]
            for place, index in enumerate(order):
                nesterov = self._advance(weights[index])
                if place % self.world_size == self.rank:
                    steps[index] = self._step(nesterov)
            sum_together(steps, self.world_size)
            for weight, step in zip(weights, steps, strict=True):
                weight.sub_(step, alpha=group["lr"])

    def _advance(self, weight: nn.Parameter) -> torch.Tensor:
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)

    @staticmethod
    def _step(direction: torch.Tensor) -> torch.Tensor:
        matrix = direction.flatten(1)
        return (orthogonalise(matrix) * (ADAMW_SIZE * math.sqrt(max(matrix.shape)))).view_as(direction)
