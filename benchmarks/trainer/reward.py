"""A reward that costs nothing, so that training alone is compared: a plug-in as a user would write one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from unittest.mock import patch

from torch import Tensor

from instructbooth_trainer.rewards import base


def create(params: dict[str, object]) -> _Brightness:
    """The plug-in's factory; it has no parameters of its own."""
    return _Brightness()


class _Brightness:
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3)).cpu()


@contextmanager
def installed() -> Iterator[None]:
    """As if a package had brought the reward `brightness`."""

    def found(group: str) -> EntryPoints:
        return EntryPoints([*entry_points(group=group), EntryPoint("brightness", f"{__name__}:create", group)])

    with patch.object(base, "entry_points", found):
        yield
