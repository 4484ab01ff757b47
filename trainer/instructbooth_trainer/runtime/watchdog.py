"""A process that hangs ends itself: its stack goes to the log first, then it says who hung and where.

All ranks stand still when one does, so each leaves its stack within moments of the others. Who waits for its peers goes
on waiting: they may be downloading. Who does not is the cause and ends; the others lose it and end as its victims.

A thread watches. What holds the interpreter's lock holds that thread too: therefore it keeps pushing back a timer of
faulthandler's own, which needs no lock, dumps the stacks and ends the process with exit code 1.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from instructbooth.contract import STALLED, Outcome

log = logging.getLogger(__name__)

_LONGEST_GRACE = 30.0
_COLLECTIVES = f"{os.sep}torch{os.sep}distributed{os.sep}"
STACKS = signal.SIGUSR1  # makes a process dump its stacks and go on


def listen_for_stacks() -> None:
    """Dump the stacks of all threads to stderr on a fatal signal, and on SIGUSR1 even where Python itself hangs."""
    faulthandler.enable()
    faulthandler.register(STACKS, all_threads=True)


class Watchdog:
    """Ends the process when it has not moved for `timeout` seconds; `beat()` says that it moves."""

    def __init__(self, timeout: float, rank: int, on_stall: Callable[[Outcome], None]) -> None:
        """Nothing runs before `start`.

        Args:
            timeout: seconds (runPolicy.stallTimeoutSeconds).
            rank: of this process in the gang.
            on_stall: ends the process with that outcome; called in the watching thread.
        """
        self._timeout = timeout
        self._grace = min(_LONGEST_GRACE, timeout / 4)
        self._rank = rank
        self._on_stall = on_stall
        self._last = time.monotonic()
        self._where = ""
        self._main = threading.main_thread().ident
        self._ended = threading.Event()

    def start(self) -> None:
        """Watch from now on."""
        self.beat()
        self._push_back()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, where: str = "") -> None:
        """The process moves; `where` is how far it is, for people."""
        self._last = time.monotonic()
        self._where = where or self._where

    def stop(self) -> None:
        """Watch no longer: what follows is bounded by itself."""
        self._ended.set()

    def _watch(self) -> None:
        try:
            self._until_it_hangs()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _until_it_hangs(self) -> None:
        dumped = False
        while not self._ended.wait(min(1.0, self._timeout / 20)):
            self._push_back()
            silent = time.monotonic() - self._last
            if silent < self._timeout:
                if dumped:
                    log.warning("moving again")
                dumped = False
            elif not dumped:
                dumped = True
                self._dump(silent)
            elif silent >= self._timeout + self._grace and not self._waits_for_peers():
                self._on_stall(Outcome(STALLED, self._words(silent)))
                return

    def _push_back(self) -> None:
        faulthandler.dump_traceback_later(self._timeout + self._grace, exit=True)

    def _dump(self, silent: float) -> None:
        print(f"[{self._rank}] has not moved for {silent:.0f} s; stacks of all threads:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)

    def _words(self, silent: float) -> str:
        place = f" after {self._where}" if self._where else ""
        return (
            f"rank {self._rank} has not moved for {silent:.0f} s{place} (runPolicy.stallTimeoutSeconds is "
            f"{self._timeout:.0f}): it is in {self._place()}; the stacks of all ranks are in the pods' logs"
        )

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._main or 0)

    def _place(self) -> str:
        """The innermost function of ours or of the user's in which the main thread is, with its line."""
        frame = self._frame()
        while frame is not None and frame.f_back is not None and "site-packages" in frame.f_code.co_filename:
            frame = frame.f_back
        return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})" if frame else "no Python code"

    def _waits_for_peers(self) -> bool:
        frame = self._frame()
        while frame is not None:
            if _COLLECTIVES in frame.f_code.co_filename:
                return True
            frame = frame.f_back
        return False
