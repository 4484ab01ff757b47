"""Reading a plug-in's parameters: unknown ones are errors, like unknown fields of the API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

_LENT = {"model_folder", "reference_images", "device", "dtype"}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_known(params: Mapping[str, object], *own: str) -> None:
    """Raise ValueError naming a parameter that is neither lent by the runtime nor one of the plug-in's own."""
    if unknown := sorted(set(params) - _LENT - set(own)):
        raise ValueError(f"unknown parameter {unknown[0]!r}; it takes {', '.join(own) or 'none'}")


def model_folder(params: Mapping[str, object]) -> Path:
    """The scoring model's folder. Raises ValueError when the spec names no model."""
    folder = params.get("model_folder")
    if not isinstance(folder, str):
        raise ValueError(
            "it needs a model: set `model` beside its name, for example model: {s3: {prefix: models/clip}}"
        )
    return Path(folder)


def device_and_dtype(params: Mapping[str, object]) -> tuple[torch.device, torch.dtype]:
    """Where and in what dtype to compute."""
    return torch.device(str(params.get("device", "cpu"))), _DTYPES[str(params.get("dtype", "fp32"))]


def truncates(params: Mapping[str, object]) -> bool:
    """`longPrompts`: whether a text of too many tokens is cut, or an error. Raises ValueError for anything else."""
    policy = params.get("longPrompts", "error")
    if policy not in ("error", "truncate"):
        raise ValueError(f"longPrompts is {policy!r}; it must be error or truncate")
    return policy == "truncate"


def whole_number(params: Mapping[str, object], name: str, low: int, high: int, default: int) -> int:
    """An optional whole number in [low, high]. Raises ValueError naming parameter, value and bounds."""
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def number(params: Mapping[str, object], name: str, low: float, high: float) -> float | None:
    """An optional number in (low, high]. Raises ValueError naming parameter, value and bounds."""
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a number above {low:g} and at most {high:g}")
    return float(value)
