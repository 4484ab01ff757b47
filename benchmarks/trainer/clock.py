"""Seconds, processor seconds and peak memory of this process. Torch only, for the peers' environment."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from statistics import median
from typing import Any

import torch

from benchmarks.trainer.workload import Result

PASSES_WARMUP, PASSES = 3, 9


class Clock:
    """Collects laps; on a GPU it waits for the device before it looks."""

    def __init__(self, device: str, threads: int) -> None:
        self.result = Result()
        self._cuda = device.startswith("cuda")
        torch.set_num_threads(threads)

    def now(self) -> tuple[float, float]:
        """Seconds on the clock and of all processors."""
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def laps(self, work: Callable[[int], Any], warmup: int, count: int) -> None:
        """Call `work` with 0, 1, ... and keep the seconds of all but the first `warmup` calls."""
        marks = [self.now()]
        for number in range(warmup + count):
            work(number)
            marks.append(self.now())
        self.keep(marks[warmup:])

    def one_pass(self, name: str, call: Callable[[], None]) -> None:
        """Laps of a call, and their median as a number of the result."""
        earlier = len(self.result.seconds)
        self.laps(lambda _: call(), PASSES_WARMUP, PASSES)
        self.result.numbers[name] = median(self.result.seconds[earlier:])

    def keep(self, marks: Sequence[tuple[float, float]]) -> None:
        """Add what lies between marks of `now`, two by two."""
        for before, after in itertools.pairwise(marks):
            self.result.seconds.append(after[0] - before[0])
            self.result.cpu_seconds.append(after[1] - before[1])

    @contextmanager
    def number(self, name: str) -> Iterator[None]:
        """Add the seconds spent within to a number of the result."""
        before = self.now()[0]
        yield
        numbers = self.result.numbers
        numbers[name] = numbers.get(name, 0.0) + self.now()[0] - before

    def look_at_memory(self) -> None:
        """Take the peak of now for the result's."""
        if self._cuda:
            self.result.peak_mib = torch.cuda.max_memory_reserved() / 2**20
        else:
            self.result.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    def finish(self, *packages: str) -> Result:
        """The result with peak memory and versions."""
        if not self.result.peak_mib:
            self.look_at_memory()
        self.result.versions = {package: version(package) for package in packages}
        return self.result
