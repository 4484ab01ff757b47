"""Reading the checkpoints that are published as pickles only, without running what is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def read_checkpoint(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .pt file by name; of its entry `key` where there is one, on the CPU.

    It is opened with weights_only: tensors and plain containers are made, anything else is refused.

    Raises:
        ValueError: when it is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"the model's folder holds no {path.name}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} is no whole checkpoint of tensors alone: {error}") from error
    if key is not None:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{path.name} has no entry {key!r}")
        content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path.name} holds something else than tensors by name")
    return content


def load_exactly(model: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Give a model its tensors: all of them and no others, in their shapes.

    Raises:
        ValueError: naming the checkpoint `name` and what is missing, surplus or of another shape.
    """
    wanted = model.state_dict()
    problems = [
        *(f"{key} is missing" for key in wanted if key not in tensors),
        *(f"{key} belongs nowhere" for key in tensors if key not in wanted),
        *(
            f"{key} is {tuple(tensors[key].shape)}, not {tuple(wanted[key].shape)}"
            for key in wanted
            if key in tensors and tensors[key].shape != wanted[key].shape
        ),
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"{name} does not fit: {', '.join(problems[:8])}{more}")
    model.load_state_dict(dict(tensors))


def shape_of(tensors: Mapping[str, Tensor], key: str, name: str) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from. Raises ValueError when checkpoint `name` lacks it."""
    if key not in tensors:
        raise ValueError(f"{name} does not fit: {key} is missing")
    return tuple(tensors[key].shape)
