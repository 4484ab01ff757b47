"""One job with an operator, a proxy and a namespace of its own. The operator is started again whenever it dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from instructbooth.contract import Label
from instructbooth_operator.reconciler import TRIES_TO_TELL
from tests.chaos.faults import Kind, Script
from tests.chaos.kube import Kube
from tests.chaos.seat import Seat
from tests.chaos.truth import History
from tests.integration.operator.plane import JsonObject
from tests.unit.reconcile.world import job_object

NAME = "mascot"
# Faults after which an operator that lives on takes its request for failed.
FAILS = frozenset({Kind.REFUSE, Kind.LOSE, Kind.RESET, Kind.RESET_AFTER})


@dataclass(frozen=True)
class Portrait:
    """What two runs of the same job must have in common at their end."""

    phase: str
    stages: list[JsonObject]
    conditions: list[tuple[str, str, str, str]]
    objects: list[str]
    orphans: list[str]
    events: dict[str, int]

    def differences(self, other: Portrait) -> list[str]:
        """Where this one differs from another."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{key}: {mine[key]} instead of {theirs[key]}" for key in mine if mine[key] != theirs[key]]


class Lane:
    """Use `lane()`; then drive `kube` (as the user) and `operator` (as fate)."""

    def __init__(self, kube: Kube, namespace: str, history: History, seat: Seat) -> None:
        self.kube = kube
        self.namespace = namespace
        self.history = history
        self.seat = seat
        self.proxy, self.operator = seat.proxy, seat.operator
        self._core = f"/api/v1/namespaces/{namespace}"
        self._batch = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._ibj = f"/apis/instructbooth.io/v1alpha1/namespaces/{namespace}/instructboothjobs"

    async def prepare(self) -> None:
        """Make the namespace, and wait until pods can be created in it."""
        await self.kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        while not await self.kube.items(f"{self._core}/serviceaccounts"):
            await asyncio.sleep(0.05)

    async def submit(self, **spec: Any) -> None:
        """Submit the job."""
        manifest = job_object(NAME, **spec)
        manifest["metadata"] = {"name": NAME, "namespace": self.namespace}
        await self.kube.request("POST", self._ibj, manifest)

    async def portrait(self) -> Portrait:
        """The end of the story."""
        job = await self.kube.request("GET", f"{self._ibj}/{NAME}")
        status = job.get("status", {})
        keep = ("name", "state", "attempt", "jobName", "restarts", "failure", "artifact", "metrics")
        conditions = [(c["type"], c["status"], c["reason"], c.get("message", "")) for c in status.get("conditions", ())]
        objects = await self._objects()
        owned = {name for name, obj in objects.items() if _owner(obj) == job["metadata"]["uid"]}
        return Portrait(
            phase=status.get("phase", ""),
            stages=[
                _without_times({key: stage[key] for key in keep if key in stage}) for stage in status.get("stages", ())
            ],
            conditions=sorted(conditions),
            objects=sorted(objects),
            orphans=sorted(objects.keys() - owned),
            events=dict(Counter(await self._told())),
        )

    def excused(self, expected: Portrait, portrait: Portrait) -> Portrait:
        """What was to come, without the events that are missing, if the operator may have given them up.

        No job waits for its events for more than some passes (docs/decisions/0021-events-before-status.md).
        """
        posts = (seen for seen in self.proxy.seen if (seen.call.verb, seen.call.resource) == ("create", "events"))
        if sum(seen.fault is not None and seen.fault.kind in FAILS for seen in posts) <= TRIES_TO_TELL:
            return expected
        return replace(expected, events={e: times for e, times in expected.events.items() if e in portrait.events})

    async def delete(self) -> list[str]:
        """Delete the job; what is left of it after a while."""
        await self.kube.request("DELETE", f"{self._ibj}/{NAME}")
        # After an outage of the API server the garbage collector's own watches come back ever later, a minute at most.
        for _ in range(240):
            left = [
                *await self._objects(),
                *(p["metadata"]["name"] for p in await self.kube.items(f"{self._core}/pods")),
            ]
            if not left:
                return []
            await asyncio.sleep(0.5)
        return left

    async def _objects(self) -> dict[str, JsonObject]:
        """Children and ConfigMaps that the operator made."""
        found = {f"job/{obj['metadata']['name']}": obj for obj in await self.kube.items(self._batch)}
        for obj in await self.kube.items(f"{self._core}/configmaps"):
            if Label.MANAGED_BY in obj["metadata"].get("labels", {}):
                found[f"configmaps/{obj['metadata']['name']}"] = obj
        return found

    async def _told(self) -> list[str]:
        events = await self.kube.items(f"{self._core}/events")
        ours = (event for event in events if event["involvedObject"]["kind"] == "InstructBoothJob")
        return [f"{event['reason']}: {event['message']}" for event in ours]

    def story(self) -> str:
        """What happened, for people."""
        return self.seat.story()


def _without_times(stage: JsonObject) -> JsonObject:
    """No two runs fail at the same second."""
    if "failure" not in stage:
        return stage
    return stage | {"failure": {key: value for key, value in stage["failure"].items() if key != "time"}}


def _owner(obj: JsonObject) -> str | None:
    return next((owner["uid"] for owner in obj["metadata"].get("ownerReferences", ()) if owner.get("controller")), None)


@contextlib.asynccontextmanager
async def lane(kube: Kube, namespace: str, folder: Path, history: History, script: Script) -> AsyncIterator[Lane]:
    """A lane with its operator running."""
    seat = Seat(kube.url, folder, namespace, script)
    made = Lane(kube, namespace, history, seat)
    await made.prepare()
    async with seat.taken():
        yield made
