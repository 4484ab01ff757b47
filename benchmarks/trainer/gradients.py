"""The gradients that an optimizer's step is made of: after one step of Adam weights show their signs alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

PREFIX = "gradient."


def keep_gradients(
    optimizer: torch.optim.Optimizer, weights: Callable[[], dict[str, torch.Tensor]], kept: dict[str, torch.Tensor]
) -> None:
    """Have the next steps leave their gradients in `kept`, under the names that `weights` gives what is trained."""

    def look(_: torch.optim.Optimizer, *__: object) -> None:
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        values = [parameter.data for parameter in trained]
        try:
            for parameter in trained:
                parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            kept.update({f"{PREFIX}{name}": tensor.detach().cpu().clone() for name, tensor in weights().items()})
        finally:
            for parameter, value in zip(trained, values, strict=True):
                parameter.data = value

    optimizer.register_step_pre_hook(look)


def relative_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """|a - b| / |b| over all gradients together: a wrong scale shows as well as a wrong direction."""
    names = sorted(name for name in ours if name.startswith(PREFIX))
    if names != sorted(name for name in theirs if name.startswith(PREFIX)):
        raise ValueError("the two sides have gradients of different weights")
    a, b = (torch.cat([side[name].double().flatten() for name in names]) for side in (ours, theirs))
    return float((a - b).norm() / b.norm())
