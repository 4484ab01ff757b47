"""One call behind: what was made last is worked on in a thread while the next is being made.

Rewards wait (for a service, for another device) while the sampler computes. The results are the very same: calls run
one at a time, in order, each on what was made for it, on the caller's CUDA device. Sums over another number of CPU
threads would differ in their last bits: torch gives a new thread as many as it was told for all (a test holds it to
that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def one_behind(call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """call(item) of each item, in order; item n + 1 is made while the call on item n runs.

    At most one item waits. An error of the call is raised here, after the item that was being made; an error in making
    an item is raised at once, after the call that runs.
    """
    pending: Future[R] | None = None
    begun: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    device = torch.cuda.current_device() if begun else None
    with ThreadPoolExecutor(1, "scoring", initializer=_use, initargs=(device,)) as worker:
        for item in items:
            if pending is not None:
                yield pending.result()
            pending = worker.submit(call, item)
        if pending is not None:
            yield pending.result()


def _use(device: int | None) -> None:
    """The current CUDA device is a thread's own, and a new thread's is the first one."""
    if device is not None:
        torch.cuda.set_device(device)
