"""Looks at a namespace every few seconds and remembers: what must never be seen is asserted on afterwards."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from instructbooth.reconcile.conditions import find
from instructbooth.spec.status import Condition, InstructBoothJobStatus
from tests.e2e import lab

SECONDS = 2.0


@dataclass(frozen=True)
class Sight:
    """One look: the jobs' statuses, and whose pods ran without having been asked to go."""

    time: float
    status: dict[str, InstructBoothJobStatus]
    running: frozenset[str]

    def condition(self, name: str, kind: str) -> Condition | None:
        """A condition of a job that holds."""
        status = self.status.get(name)
        found = find(status.conditions, kind) if status else None
        return found if found and found.status == "True" else None


@dataclass
class Witness:
    """A context manager: it watches in between."""

    namespace: str
    seen: list[Sight] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def queued(self, name: str) -> list[Condition]:
        """What a job said of its waiting, each thing once, in order."""
        said = (sight.condition(name, "Queued") for sight in self.seen)
        return list({(found.reason, found.message): found for found in said if found}.values())

    def seconds_queued(self, name: str) -> float:
        """For how long a job was seen to wait, at least."""
        pairs = zip(self.seen, self.seen[1:], strict=False)
        both = ((a, b) for a, b in pairs if a.condition(name, "Queued") and b.condition(name, "Queued"))
        return sum(b.time - a.time for a, b in both)

    def _watch(self) -> None:
        while not self._end.wait(SECONDS):
            at = time.monotonic()
            text = lab.kubectl("get", "ibj,pods", "-n", self.namespace, "-o", "json", check=False)
            if text.strip():
                self.seen.append(_sight(at, json.loads(text)["items"]))


def _sight(at: float, items: list[lab.Object]) -> Sight:
    jobs = [item for item in items if item["kind"] != "Pod"]
    status = {job["metadata"]["name"]: InstructBoothJobStatus.model_validate(job.get("status", {})) for job in jobs}
    running = {
        pod["metadata"]["labels"].get("instructbooth.io/job", "")
        for pod in items
        if pod["kind"] == "Pod"
        and "deletionTimestamp" not in pod["metadata"]
        and any("running" in container["state"] for container in pod["status"].get("containerStatuses", ()))
    }
    return Sight(at, status, frozenset(running))
