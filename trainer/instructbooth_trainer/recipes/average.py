"""The average of the adapter's weights over the steps of a training, kept in its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from instructbooth.spec.personalization import Ema
from instructbooth_trainer.algorithms.averaging import warmed_decay
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.recipes.training import AdapterState

AVERAGE = "average"  # name of the copy in the state


class AdapterAverage:
    """Averages where the spec asks for it, and does nothing where it does not."""

    def __init__(self, adapter: Adapter, state: AdapterState, spec: Ema | None) -> None:
        self._adapter, self._state, self._spec = adapter, state, spec

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0."""
        if self._spec is None:
            return
        live = self._adapter.live()
        before = self._state.kept.get(AVERAGE, live)
        weight = 1 - warmed_decay(self._spec.decay, step)
        self._state.kept[AVERAGE] = {
            name: torch.lerp(before[name].to(tensor.device), tensor, weight) for name, tensor in live.items()
        }

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """With the average as the adapter's weights, if there is one yet."""
        if AVERAGE not in self._state.kept:
            yield
            return
        with self._adapter.swapped(self._state.kept[AVERAGE]):
            yield
