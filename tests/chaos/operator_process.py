"""Operator processes that start at once: forked from a parent that has imported everything, and killed for real.

Importing the operator takes seconds on two busy cores, and hundreds are started. The parent is multiprocessing's fork
server: it runs no event loop and no thread, so what it forks is what `instructbooth-operator` is after its imports.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

KUBECONFIG = "kubeconfig"  # relative: each process finds its own in its working directory
CLOCK = "clock"  # a file there: by how many seconds its clock is wrong
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["instructbooth_operator.main"])


def _wrong_clock() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=float(Path(CLOCK).read_text()))


def _operate(folder: str, arguments: list[str]) -> None:
    """In the child: what the console script does, with the log in the folder and a clock that can be set wrong."""
    os.chdir(folder)
    log = os.open("operator.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from instructbooth_operator import main

    main.run = partial(main.run, now=_wrong_clock)
    main.main(arguments)


class OperatorProcess:
    """One operator after the other, in a folder that holds its kubeconfig, its clock and its log."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.log = folder / "operator.log"
        self.exits: list[int] = []
        self._folder = folder
        self._arguments = arguments
        self._process: BaseProcess | None = None
        self._ended = asyncio.Event()
        self.killed_at = 0.0  # by the event loop's clock
        self.set_clock(0.0)

    def set_clock(self, offset: float) -> None:
        """Set the clock wrong by so many seconds."""
        fresh = self._folder / f"{CLOCK}.new"
        fresh.write_text(str(offset))
        fresh.rename(self._folder / CLOCK)

    def start(self) -> None:
        """Start a process. KUBECONFIG is read when the parent imports the client: it must be set before the first."""
        os.environ["KUBECONFIG"] = KUBECONFIG
        self._process = FORKS.Process(target=_operate, args=(str(self._folder), self._arguments), daemon=True)
        self._process.start()
        self._ended.clear()
        asyncio.get_running_loop().add_reader(self._process.sentinel, self._end)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        if self._process is not None:
            self.killed_at = asyncio.get_running_loop().time()
            self.send(signal.SIGKILL)
            await self._ended.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def wait(self) -> None:
        """Until it has ended, for whatever reason."""
        await self._ended.wait()

    def _end(self) -> None:
        assert self._process is not None
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        self.exits.append(self._process.exitcode or 0)
        self._process = None
        self._ended.set()
