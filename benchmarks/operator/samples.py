"""What happens during a run, a line every half minute: a figure at its end says neither when nor whose doing it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

from benchmarks.operator.load import Times
from benchmarks.operator.measures import counter
from benchmarks.operator.plane import BenchPlane
from benchmarks.operator.processes import Stopwatch, memory_mib

SECONDS = 30.0


class Sampler:
    """Writes JSON lines to a file until `close`, in a thread of its own.

    Of each process `cpu` has the seconds it has used so far, and `mib` its memory. `gangs`, the batch Jobs that were
    made since the API server began, tell how far jobs of several stages have come. `pod_lists` and `lost_watches` count
    those of everybody: a client that reads slower than things happen loses its watch, and lists all there is anew.
    """

    def __init__(
        self, plane: BenchPlane, times: Times, path: Path, say: Callable[[str], None], seconds: float = SECONDS
    ) -> None:
        self._plane, self._times, self._path, self._say, self._seconds = plane, times, path, say, seconds
        self._stop = Event()
        self._pids = plane.pids()
        self._watch, self._began = Stopwatch(self._pids), time.monotonic()
        path.unlink(missing_ok=True)
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write a last line and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(self._seconds)
            try:
                line = self.line()
            except OSError as error:  # what ended, the run itself will say
                line = {"error": str(error)}
            else:
                self._say(f"{line['created']} jobs created, {line['with_pod']} with a pod, {line['done']} done")
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def line(self) -> dict[str, Any]:
        """How things stand. Raises OSError if a process has ended or the API server does not answer."""
        text = self._plane.metrics()
        return {
            "seconds": round(time.monotonic() - self._began, 1),
            "created": len(self._times.created),
            "with_pod": len(self._times.first_pod),
            "done": len(self._times.done),
            "gangs": counter(text, "apiserver_request_total", verb="POST", resource="jobs", code="201"),
            "pods": counter(text, "apiserver_resource_objects", resource="pods"),
            "pod_lists": counter(text, "apiserver_request_total", verb="LIST", resource="pods"),
            "lost_watches": counter(text, "apiserver_terminated_watchers_total"),
            "cpu": {name: round(value, 1) for name, value in self._watch.read().items()},
            "mib": {name: round(memory_mib(pid, "VmRSS")) for name, pid in self._pids.items()},
        }
