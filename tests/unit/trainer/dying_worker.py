"""A worker that is killed in the middle of training: SIGKILL before the optimizer step that DIE_AT_UPDATE names."""

from __future__ import annotations

import os
import signal
from typing import Any

from instructbooth_trainer.recipes.training import SynchronizedAdamW
from instructbooth_trainer.runtime.worker import run_worker

original, count = SynchronizedAdamW.step, 0


def step(self: SynchronizedAdamW, *args: Any, **kwargs: Any) -> Any:
    """Count, and die."""
    global count
    count += 1
    if count == int(os.environ["DIE_AT_UPDATE"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)


if __name__ == "__main__":
    SynchronizedAdamW.step = step  # type: ignore[method-assign]
    os._exit(run_worker())
