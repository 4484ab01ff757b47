"""Gradients pass through fp16 activations, where small ones vanish and large ones overflow: the loss is scaled.

A power of two moves gradients without rounding them. A step whose gradient overflows is left out and the scale halved;
after a while without that it is doubled again (mixed precision training, arXiv 1710.03740, section 3.2). The gradient
is the sum over all ranks, so all of them decide alike. Other dtypes have float32's range and no scale.

The numbers are kept in the optimizer's first group, and with it in checkpoints.
"""

from __future__ import annotations

import logging

import torch

from instructbooth.spec.stages import Dtype
from instructbooth_trainer.runtime.state import LOSS_SCALE, SINCE_OVERFLOW

log = logging.getLogger(__name__)

INITIAL = 1024.0
INTERVAL = 200  # steps without overflow before the scale is doubled
LARGEST = 2.0**24


class LossScale:
    """The scale of one optimizer's losses."""

    def __init__(self, optimizer: torch.optim.Optimizer, dtype: Dtype) -> None:
        self._optimizer = optimizer  # and not its group: loading a checkpoint replaces that
        if dtype == "fp16":
            optimizer.param_groups[0] |= {LOSS_SCALE: INITIAL, SINCE_OVERFLOW: 0.0}

    @property
    def value(self) -> float:
        """What losses are multiplied by; 1 for other dtypes than fp16."""
        return float(self._optimizer.param_groups[0].get(LOSS_SCALE, 1.0))

    def overflowed(self) -> bool:
        """Halve the scale. False where that is no way out: there is none, or it is down to 1."""
        if self.value <= 1.0:
            return False
        self._optimizer.param_groups[0] |= {LOSS_SCALE: self.value / 2, SINCE_OVERFLOW: 0.0}
        log.info("the gradient overflowed fp16: the step is left out, the loss scale is now %g", self.value)
        return True

    def passed(self) -> None:
        """A step went well."""
        group = self._optimizer.param_groups[0]
        if LOSS_SCALE not in group:
            return
        group[SINCE_OVERFLOW] += 1.0
        if group[SINCE_OVERFLOW] >= INTERVAL:
            group |= {LOSS_SCALE: min(2 * self.value, LARGEST), SINCE_OVERFLOW: 0.0}
