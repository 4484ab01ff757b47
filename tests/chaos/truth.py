"""What really happened, watched past every proxy: each version of each job and child, and the rules they must keep."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from instructbooth.contract import Label, Stage
from instructbooth.reconcile.plan import is_finished
from instructbooth.spec.status import InstructBoothJobStatus, StageState
from tests.chaos.kube import IBJ, JOBS, PODS, Kube
from tests.integration.operator.plane import JsonObject


@dataclass(frozen=True)
class Version:
    """One version of an object, as the API server had it; `revision` orders all objects."""

    revision: int
    event: str
    obj: JsonObject

    @property
    def name(self) -> str:
        """Of the object."""
        return str(self.obj["metadata"]["name"])


@dataclass
class History:
    """Everything that was seen in one namespace."""

    jobs: list[Version] = field(default_factory=list)
    children: list[Version] = field(default_factory=list)
    pods: list[Version] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> InstructBoothJobStatus:
        """The job's status now."""
        return _status(self.jobs[-1].obj) if self.jobs else InstructBoothJobStatus()

    @property
    def finished(self) -> bool:
        """Whether the job has succeeded or failed."""
        return is_finished(self.status)

    async def until(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something to be seen. Raises AssertionError."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            phase = self.status.phase.value
            raise AssertionError(f"{what}: not within {seconds:.0f} s; the job is {phase}: {self.status}") from None


class Truth:
    """Histories by namespace."""

    def __init__(self, kube: Kube) -> None:
        self.histories: defaultdict[str, History] = defaultdict(History)
        self._kube = kube

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kube.watch(IBJ, partial(self._seen, "jobs")))
            group.create_task(self._kube.watch(JOBS, partial(self._seen, "children")))
            group.create_task(self._kube.watch(PODS, partial(self._seen, "pods")))

    def _seen(self, kind: str, event: str, obj: JsonObject) -> None:
        history = self.histories[obj["metadata"]["namespace"]]
        versions: list[Version] = getattr(history, kind)
        version = Version(int(obj["metadata"]["resourceVersion"]), event, obj)
        again = (known.revision == version.revision and event in ("SEEN", known.event) for known in versions[-50:])
        if not any(again):
            versions.append(version)
            history.changed.set()


def broken_rules(history: History) -> list[str]:
    """What was done that may never be done; empty if all is well."""
    return [*_attempts(history), *_gangs(history), *_statuses(history)]


def _attempts(history: History) -> list[str]:
    """No attempt is started twice, none goes back."""
    born: dict[str, str] = {}
    found, newest = [], dict.fromkeys(Stage, 0)
    for version in history.children:
        meta = version.obj["metadata"]
        if born.get(meta["name"]) == meta["uid"]:
            continue
        if meta["name"] in born:
            found.append(f"{meta['name']} was created twice")
        born[meta["name"]] = meta["uid"]
        stage, attempt = Stage(meta["labels"][Label.STAGE]), int(meta["labels"][Label.ATTEMPT])
        if attempt != newest[stage] + 1:
            found.append(f"{meta['name']} was created after attempt {newest[stage]}")
        newest[stage] = max(newest[stage], attempt)
    return found


def _gangs(history: History) -> list[str]:
    """A new attempt is created only when no pod and no child of the one before is left."""
    found = []
    timeline = sorted([*history.children, *history.pods], key=lambda version: version.revision)
    alive: dict[tuple[str, str], tuple[str, int]] = {}
    for version in timeline:
        meta = version.obj["metadata"]
        labels = meta.get("labels", {})
        if Label.STAGE not in labels:
            continue
        kind = "Pod" if "containers" in version.obj["spec"] else "Job"
        this = (labels[Label.STAGE], int(labels[Label.ATTEMPT]))
        if kind == "Job" and (kind, meta["name"]) not in alive and version.event != "DELETED":
            others = [name for (_, name), (stage, n) in alive.items() if stage == this[0] and n != this[1]]
            if others:
                found.append(f"{meta['name']} was created while there was {', '.join(sorted(others))}")
        if version.event == "DELETED":
            alive.pop((kind, meta["name"]), None)
        else:
            alive[kind, meta["name"]] = this
    return found


def _statuses(history: History) -> list[str]:
    """Attempts and restarts only grow, what has succeeded stays as it is, finished is final."""
    found = []
    statuses = [_status(version.obj) for version in history.jobs if version.event != "DELETED"]
    for old, new in pairwise(statuses):
        if is_finished(old) and old != new:
            found.append(f"finished was not final: {_changes(old, new)}")
        for before, after in zip(old.stages, new.stages, strict=False):
            if after.attempt < before.attempt:
                found.append(f"{after.name.value} went back from attempt {before.attempt} to {after.attempt}")
            if after.restarts.failures < before.restarts.failures:
                found.append(f"{after.name.value} forgot failures")
            if after.restarts.disruptions < before.restarts.disruptions:
                found.append(f"{after.name.value} forgot disruptions")
            if before.state is StageState.SUCCEEDED and before != after:
                found.append(f"{after.name.value} had succeeded and changed: {_changes(before, after)}")
    return found


def _changes(old: Any, new: Any) -> str:
    before, after = old.to_wire(), new.to_wire()
    return ", ".join(f"{key}: {before.get(key)} -> {value}" for key, value in after.items() if before.get(key) != value)


def _status(job: JsonObject) -> InstructBoothJobStatus:
    return InstructBoothJobStatus.from_object(job)
