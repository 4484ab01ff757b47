"""What processes that train together tell each other (gloo)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn


def sum_together(tensors: Sequence[torch.Tensor], world_size: int) -> None:
    """Sum each tensor over all processes, in place and in one message."""
    if world_size == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def average_gradients(parameters: Sequence[nn.Parameter], world_size: int) -> None:
    """Average the gradients over all processes. Parameters without a gradient count as zero."""
    if world_size == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    sum_together(gradients, world_size)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.div_(world_size)
