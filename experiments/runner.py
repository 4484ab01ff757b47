"""Runs cells side by side until they are done, time is up, or somebody asks to stop. Each is kept as it finishes."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from experiments.cells import Cell, CellFailed, CellStopped

GUESS_MINUTES = 5.0
"""Of a cell, until one has finished."""


@dataclass
class Tally:
    """What a run did.

    Attributes:
        done: cells that finished.
        failed: cells that ended with an error; they are not tried again in this run.
        stopped: cells that were under way when time was up.
        left: cells that were not begun.
    """

    done: list[Cell] = field(default_factory=list)
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    stopped: list[Cell] = field(default_factory=list)
    left: list[Cell] = field(default_factory=list)


def eta_minutes(left: int, minutes: Sequence[float], workers: int) -> float:
    """How long the rest takes: cells like the median of those that finished, so many at a time."""
    each = statistics.median(minutes) if minutes else GUESS_MINUTES
    return left * each / workers


def run_cells(
    cells: Sequence[Cell],
    run: Callable[[Cell], None],
    stop: Callable[[], None],
    *,
    workers: int,
    minutes: float | None,
    asked: threading.Event,
    say: Callable[[str, Cell, Tally], None],
    clock: Callable[[], float] = time.monotonic,
) -> Tally:
    """Run cells in order; returns when none is under way any more.

    Args:
        cells: what is missing.
        run: takes one cell from nothing to its kept record. Raises CellFailed, CellStopped; what else it raises ends
            the run, after the cells under way have been stopped.
        stop: ends the cells under way at a checkpoint; called once time is up or `asked` is set.
        workers: cells at a time.
        minutes: budget; without end for None.
        asked: set by whoever wants the run to end early, a signal's handler for one.
        say: told "done", "failed" or "stopped" after each cell.
        clock: seconds.
    """
    tally, waiting, lock = Tally(), deque(cells), threading.Lock()
    ends = None if minutes is None else clock() + 60 * minutes
    over = threading.Event()

    def next_cell() -> Cell | None:
        with lock:
            late = over.is_set() or asked.is_set() or (ends is not None and clock() >= ends)
            return None if late or not waiting else waiting.popleft()

    def work() -> None:
        while cell := next_cell():
            try:
                run(cell)
                what = "done"
            except CellFailed as error:
                what, reason = "failed", str(error)
            except CellStopped:
                what = "stopped"
            except BaseException:
                over.set()
                raise
            with lock:
                if what == "failed":
                    tally.failed.append((cell, reason))
                else:
                    (tally.done if what == "done" else tally.stopped).append(cell)
                tally.left = list(waiting)
                say(what, cell, tally)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        while not all(future.done() for future in futures):
            if over.is_set() or asked.is_set() or (ends is not None and clock() >= ends):
                over.set()
                stop()
                break
            over.wait(0.2)
    for future in futures:
        future.result()
    tally.left = list(waiting)
    return tally


@contextmanager
def ending_on(*signals: int) -> Iterator[threading.Event]:
    """An event that these signals set in place of what they do otherwise."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
