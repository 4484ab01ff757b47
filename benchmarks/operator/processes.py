"""What processes cost, from /proc; and how soon they answer a probe."""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.request
from pathlib import Path
from threading import Event, Thread

_TICK = os.sysconf("SC_CLK_TCK")
PROBE_SECONDS = 0.25
MIB = 2**20


def end_with_everything() -> None:
    """Let SIGTERM end this process as an error would, so that a control plane and a contender end with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def memory_mib(pid: int, field: str = "VmHWM") -> float:
    """Resident memory of a process: its peak (VmHWM) or what it has now (VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / MIB


class Stopwatch:
    """CPU seconds by process since it was made."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}

    def read(self) -> dict[str, float]:
        """Seconds used since then."""
        return {name: cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()}


def settle(pids: dict[str, int], cores: float = 0.3, seconds: float = 300) -> None:
    """Return when the processes together use less than so many cores. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch = Stopwatch(pids)
        time.sleep(3)
        if sum(watch.read().values()) < 3 * cores:
            return
    raise TimeoutError(f"the control plane did not come to rest in {seconds:.0f} s")


class Prober:
    """Asks liveness probes again and again: how late an answer is, is how busy the process is."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._stop = Event()
        self.seconds: list[float] = []
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> list[float]:
        """Stop; the seconds that each answer took."""
        self._stop.set()
        self._thread.join()
        return self.seconds

    def _run(self) -> None:
        while not self._stop.wait(PROBE_SECONDS):
            for url in self._urls:
                began = time.monotonic()
                try:
                    with urllib.request.urlopen(url, timeout=60) as answer:
                        answer.read()
                except OSError:  # it has ended or is stuck: whoever waits for the jobs will say so
                    continue
                self.seconds.append(time.monotonic() - began)
