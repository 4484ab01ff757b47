"""Running many cells: budget, order, failures, stopping, and what a kill between two cells leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.cells import ROOT, Cell, CellFailed, CellStopped
from experiments.records import Book
from experiments.runner import GUESS_MINUTES, Tally, ending_on, eta_minutes, run_cells

CELLS = [Cell("demo", seed, "full") for seed in range(4)]


class World:
    """Cells that take ten minutes of a clock of their own."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        self.seconds, self.failing = 0.0, failing
        self.ran: list[int] = []
        self.said: list[tuple[str, int, int]] = []
        self.stops = 0
        self.asked = threading.Event()

    def run(self, cell: Cell) -> None:
        self.seconds += 600
        self.ran.append(cell.seed)
        if cell.seed in self.failing:
            raise CellFailed("it broke")

    def stop(self) -> None:
        self.stops += 1

    def go(self, minutes: float | None) -> Tally:
        return run_cells(
            CELLS, self.run, self.stop, workers=1, minutes=minutes, asked=self.asked,
            say=lambda what, cell, tally: self.said.append((what, cell.seed, len(tally.left))),
            clock=lambda: self.seconds,
        )  # fmt: skip


def test_all_cells_in_order():
    world = World()
    tally = world.go(None)
    assert world.ran == [0, 1, 2, 3]
    assert tally.done == CELLS
    assert (tally.failed, tally.stopped, tally.left) == ([], [], [])
    assert world.said == [("done", 0, 3), ("done", 1, 2), ("done", 2, 1), ("done", 3, 0)]


@pytest.mark.parametrize(("minutes", "begun"), [(1, 1), (10, 1), (11, 2), (25, 3), (1000, 4)])
def test_no_cell_is_begun_when_time_is_up(minutes, begun):
    world = World()
    tally = world.go(minutes)
    assert world.ran == list(range(begun))
    assert tally.left == CELLS[begun:]


def test_a_failure_is_kept_and_the_others_go_on():
    world = World(failing=(1,))
    tally = world.go(None)
    assert world.ran == [0, 1, 2, 3]  # and not a second time
    assert tally.failed == [(CELLS[1], "it broke")]
    assert len(tally.done) == 3
    assert ("failed", 1, 2) in world.said


def test_what_is_no_failure_of_a_cell_ends_the_run():
    def broken(cell):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_cells(
            CELLS, broken, lambda: None, workers=2, minutes=None, asked=threading.Event(), say=lambda *_: None
        )  # fmt: skip


@pytest.mark.parametrize("how", ["asked", "time"])
def test_cells_under_way_are_stopped(how):
    asked, under_way, stopped = threading.Event(), threading.Event(), threading.Event()
    seconds = [0.0]

    def run(cell):
        if how == "asked":
            asked.set()
        seconds[0] = 61
        under_way.set()
        assert stopped.wait(20)
        raise CellStopped

    tally = run_cells(
        CELLS, run, stopped.set, workers=2, minutes=1, asked=asked, say=lambda *_: None, clock=lambda: seconds[0]
    )
    assert under_way.is_set()
    assert tally.done == []
    assert 1 <= len(tally.stopped) <= 2
    assert len(tally.stopped) + len(tally.left) == len(CELLS)


def test_eta():
    assert eta_minutes(6, [4, 5, 60], 2) == 15  # the median: one slow cell does not count
    assert eta_minutes(6, [], 3) == 2 * GUESS_MINUTES


def test_signals_ask_and_are_given_back():
    before = signal.getsignal(signal.SIGUSR1)
    with ending_on(signal.SIGUSR1) as asked:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked.wait(5)
    assert signal.getsignal(signal.SIGUSR1) is before


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from experiments.cells import Cell
from experiments.records import Book, Record, State
from experiments.runner import run_cells

folder, deadly = Path(sys.argv[1]), int(sys.argv[2])
book = Book(folder)
cells = [Cell("demo", seed, "full") for seed in range(4)]
todo = [cell for cell in cells if book.state(cell, "k", "c") is State.MISSING]

def run(cell):
    print(cell.seed, flush=True)
    book.put(cell, Record(key="k", code="c", made="", minutes=1, numbers={}, curve={}))
    if cell.seed == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

run_cells(todo, run, lambda: None, workers=1, minutes=None, asked=threading.Event(), say=lambda *_: None)
"""


def test_a_kill_between_two_cells_loses_none_and_repeats_none(tmp_path: Path):
    def session(deadly: int) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(deadly)],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.split()

    assert session(deadly=1) == (-signal.SIGKILL, ["0", "1"])
    assert session(deadly=99) == (0, ["2", "3"])
    book = Book(tmp_path)
    assert all(book.get(cell, "k") for cell in CELLS)
