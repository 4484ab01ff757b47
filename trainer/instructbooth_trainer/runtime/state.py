"""What a checkpoint holds: the recipe's state, and every rank's random number generators. Tensors and JSON only."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor


class TrainState(Protocol):
    """What a recipe must keep to go on as if nothing had happened."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is a tensor (adapter, optimizer, statistics), by name; identical on all ranks."""

    def meta(self) -> dict[str, JsonValue]:
        """Everything else (position, early-stopping state); identical on all ranks."""

    def load(self, tensors: dict[str, Tensor], meta: dict[str, JsonValue]) -> None:
        """Take over what `tensors` and `meta` gave. Tensors are on the CPU."""

    def generators(self) -> dict[str, torch.Generator]:
        """The recipe's own generators of this rank; the runtime keeps their states along with the global ones."""


# Numbers of a group that change while training; the last two only where losses are scaled (recipes/loss_scale.py).
LOSS_SCALE, SINCE_OVERFLOW = "loss_scale", "since_overflow"
GROUP_NUMBERS = ("lr", LOSS_SCALE, SINCE_OVERFLOW)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, flattened: `<parameter>.<key>` per parameter and `lr.<group>` and the like per group.

    8-bit optimizers of bitsandbytes keep most of it one level deeper: `<parameter>.<key>/<inner key>`.
    """
    state = optimizer.state_dict()
    flat: dict[str, Tensor] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            deeper = {f"{key}/{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
            flat |= {f"{index}.{name}": torch.as_tensor(v).detach().clone() for name, v in deeper.items()}
    for number, group in enumerate(state["param_groups"]):
        for name in GROUP_NUMBERS:
            if name in group:
                flat[f"{name}.{number}"] = torch.tensor(float(group[name]), dtype=torch.float64)
    return flat


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors` on an optimizer made the same way. Raises ValueError if the parameters differ."""
    state = optimizer.state_dict()
    groups = state["param_groups"]
    per_parameter: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        head, _, key = name.partition(".")
        if head in GROUP_NUMBERS:
            groups[int(key)][head] = float(value)
        else:
            # A whole number without dimensions was a Python int: the step of 8-bit optimizers. torch's is a float.
            number = value.dim() == 0 and value.dtype == torch.int64
            entries = per_parameter.setdefault(int(head), {})
            key, _, inner = key.partition("/")
            if inner:
                entries, key = entries.setdefault(key, {}), inner
            entries[key] = int(value) if number else value.clone()
    known = {index for group in groups for index in group["params"]}
    if unknown := set(per_parameter) - known:
        raise ValueError(f"the checkpoint's optimizer has parameters {sorted(unknown)}, this one has {len(known)}")
    optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})


def rng_tensors(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """The state of every random number generator of this process: Python, NumPy, torch CPU and CUDA, the recipe's."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    out = {
        "python.words": torch.tensor(words, dtype=torch.int64),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy.keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy.position": torch.tensor([position, has_gauss], dtype=torch.int64),
        "numpy.gauss": torch.tensor([cached], dtype=torch.float64),
        "torch.cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        out["torch.cuda"] = torch.cuda.get_rng_state()
    return out | {f"generator.{name}": g.get_state() for name, g in generators.items()}


def load_rng_tensors(tensors: Mapping[str, Tensor], generators: Mapping[str, torch.Generator]) -> None:
    """Undo `rng_tensors`. Raises KeyError if a generator of the recipe has no state in the checkpoint."""
    gauss = tensors["python.gauss"].tolist()
    random.setstate((3, tuple(tensors["python.words"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = tensors["numpy.position"].tolist()
    keys = tensors["numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, float(tensors["numpy.gauss"][0])))
    torch.set_rng_state(tensors["torch.cpu"])
    if "torch.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["torch.cuda"])
    for name, generator in generators.items():
        generator.set_state(tensors[f"generator.{name}"])
