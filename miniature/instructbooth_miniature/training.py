"""What all training stages share: seeded batches, EMA, the learning rate's course, checkpoints without pickle."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def seeded(seed: int, stage: str, step: int) -> torch.Generator:
    """A generator that depends on the step alone, so that a resumed run draws what the unbroken one would have."""
    number = int.from_bytes(f"{stage}/{step}/{seed}".encode().ljust(8, b"."), "big") % (2**63 - 25)
    return torch.Generator().manual_seed(number)


def fast_precision() -> torch.autocast:
    """bf16 autocast where the CPU has instructions for it; elsewhere it is emulated, slower than float32, and off."""
    able = torch.cpu.get_capabilities()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(able.get("avx512_bf16") or able.get("amx_bf16")))


def cosine_rate(step: int, total: int, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning rate: linear warm-up to `peak`, then half a cosine down to `floor * peak` at `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


DECAY_SHARE = 0.25
"""The last part of the denoiser's steps, in which its learning rate falls to nought."""


def trapezoid_rate(step: int, total: int, peak: float, warmup: int = 150) -> float:
    """Learning rate: linear warm-up, `peak`, and over the last DECAY_SHARE of `total` steps linearly to nought.

    Unlike a cosine it leaves the length open: a run can be lengthened until its decay begins.
    """
    return peak * min(1.0, (step + 1) / warmup, (total - step) / (DECAY_SHARE * total))


def optimise(
    loss: torch.Tensor,
    parameters: Sequence[nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    rate: float,
    share_gradients: Callable[[], None] | None = None,
) -> None:
    """One step of all optimizers on a scalar loss, with the gradients of `parameters` clipped to norm 1.

    A group's learning rate is `rate` times its "share" (1 where it has none). `share_gradients` is called between the
    backward pass and the clipping: processes that train together average their gradients there.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if share_gradients is not None:
        share_gradients()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()


class Ema:
    """Exponential moving average of a module's parameters, float32, with a warm-up of the decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards the module's parameters after optimizer step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.named_parameters():
            self.values[name].lerp_(value.detach(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters by the average."""
        for name, value in module.named_parameters():
            value.copy_(self.values[name])


def save_checkpoint(
    folder: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    emas: Mapping[str, Ema],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Write a checkpoint beside the old one and swap: a kill at any point leaves a whole one."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, module in modules.items():
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, partial / f"{name}.safetensors")
    for name, ema in emas.items():
        save_file(ema.values, partial / f"{name}.ema.safetensors")
    moments: dict[str, torch.Tensor] = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            moments |= {f"{number}.{index}.{key}": value.contiguous() for key, value in state.items()}
    save_file(moments, partial / "optimizer.safetensors")
    (partial / "step.json").write_text(json.dumps({"step": step}))
    swap_folder(partial, folder)


def swap_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; readers see one of the two, but for an instant."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    modules: Mapping[str, nn.Module],
    emas: Mapping[str, Ema],
    optimizers: Sequence[torch.optim.Optimizer],
) -> int:
    """Restore a checkpoint in place; returns the number of steps done, 0 if there is no checkpoint."""
    if not (folder / "step.json").exists():
        return 0
    for name, module in modules.items():
        module.load_state_dict(load_file(folder / f"{name}.safetensors"))
    for name, ema in emas.items():
        ema.values = load_file(folder / f"{name}.ema.safetensors")
    states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    for key, value in load_file(folder / "optimizer.safetensors").items():
        number, index, field = key.split(".")
        states[int(number)].setdefault(int(index), {})[field] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(json.loads((folder / "step.json").read_text())["step"])
