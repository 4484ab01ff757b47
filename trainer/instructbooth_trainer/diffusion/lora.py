"""A LoRA layer's output at less cost than PEFT's own forward; its weights stay PEFT's, and so do its files.

Trained:   y = W x + s B (A x). PEFT writes s B A x, scales it and adds it in three passes over the output; `fuse` makes
           one matrix product of them that adds to W x. Equal up to the last bits.
Sampled:   y = (W + s B A) x: within `merged` a rollout costs what the model without adapter does.

A frozen weight in half precision is left as it is while sampling, for a merged sum would round the adapter away; `fuse`
then multiplies by the adapter rounded to that precision, as autocast does, where PEFT computes in float32 (on an H100
a forward pass took twice as long that way: docs/decisions/0029). What is trained stays float32, and so do its
gradients. `fuse` leaves convolutions, DoRA, and dropout while it drops to PEFT; `merged` is PEFT's own merge, on a copy
of the weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor

ADAPTER = "default"


def fuse(module: torch.nn.Module) -> None:
    """Let the plain LoRA layers on linear layers add their update within the matrix product."""
    for layer in module.modules():
        if isinstance(layer, Linear) and ADAPTER in layer.lora_A and ADAPTER not in layer.lora_variant:
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    dropping = layer.training and getattr(layer.lora_dropout[ADAPTER], "p", 0.0) > 0
    plain = not (layer.disable_adapters or layer.merged or dropping or args or kwargs)
    if not plain or layer.active_adapters != [ADAPTER] or x.dtype != layer.base_layer.weight.dtype:
        out: Tensor = Linear.forward(layer, x, *args, **kwargs)
        return out
    result: Tensor = layer.base_layer(x)
    inner = torch.nn.functional.linear(x, a.to(x.dtype)).flatten(0, -2)
    return torch.addmm(result.flatten(0, -2), inner, b.to(x.dtype).t(), alpha=layer.scaling[ADAPTER]).view_as(result)


@contextmanager
def merged(module: torch.nn.Module) -> Iterator[None]:
    """With the adapter added into the frozen float32 weights, which come back bit for bit; without gradients only."""
    kept: list[tuple[Any, Tensor]] = []
    try:
        for layer in module.modules():
            if not isinstance(layer, LoraLayer) or ADAPTER not in layer.lora_A or layer.disable_adapters:
                continue
            base: Any = layer.get_base_layer()
            if base.weight.dtype == torch.float32:
                kept.append((layer, base.weight.data))
                base.weight.data = base.weight.data.clone()
                layer.merge(adapter_names=[ADAPTER])
        yield
    finally:
        for layer, weight in kept:
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()
