"""Look at the world as far as one job is concerned. Normally from the cache alone: no request at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from instructbooth.contract import Label
from instructbooth.reconcile.observed import (
    COMPLETION_INDEX,
    ChildJob,
    Evidence,
    Observed,
    Pod,
    Rejection,
    Silence,
    Waiting,
)
from instructbooth.reconcile.policies import queued
from instructbooth.spec.status import Progress, StageState
from instructbooth_operator.api import Api
from instructbooth_operator.cache import Cache, Key, owner_of
from instructbooth_operator.errors import ApiError
from instructbooth_operator.looks import Pods, Warnings
from instructbooth_operator.resources import IBJ, JOBS, WORKLOADS

JsonObject = dict[str, Any]
# On a Workload: the Job that Kueue made it for.
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The time of the operator's own clock."""
    return datetime.now(UTC)


class Observer:
    """Makes `Observed`, and looks closer where a plan asks for it."""

    def __init__(
        self, api: Api, cache: Cache, now: Callable[[], datetime] = utc_now, reads_workloads: bool = True
    ) -> None:
        self._api = api
        self._reads_workloads = reads_workloads
        self._cache = cache
        self._now = now
        self._pods, self._warnings = Pods(api), Warnings(api)

    async def observe(
        self,
        job: JsonObject,
        progress: Mapping[str, Progress],
        silence: Mapping[str, Silence],
        rejection: Rejection | None,
    ) -> Observed:
        """What is known of the job's children now, without a look at pods. Raises ApiError."""
        meta = job["metadata"]
        key = Key(meta["namespace"], meta["name"])
        await self._find_missing(key, job)
        children = (ChildJob.from_object(child) for child in self._cache.children(key, meta["uid"]))
        return Observed(
            now=self._now(),
            children=tuple(sorted(children, key=lambda child: child.name)),
            progress=progress,
            silence=silence,
            rejection=rejection,
        )

    async def refresh(self, key: Key) -> JsonObject | None:
        """The job as it is at this moment, straight from the API server; None if it is gone. Raises ApiError."""
        try:
            self._cache.put(await self._api.get(IBJ, key.namespace, key.name))
        except ApiError as error:
            if not error.not_found:
                raise
            if known := self._cache.job(key):
                self._cache.remove(known)
        return self._cache.job(key)

    async def evidence(self, namespace: str, child: str) -> Evidence:
        """The pods of a child, and the warnings about them where no pod says itself why it waits. Raises ApiError."""
        return await self._explained(namespace, child, await self._pods.of(namespace, child))

    async def evidence_of_all(self, namespace: str, children: list[str]) -> list[Evidence]:
        """The same of each child, from one list that waits for nobody else. Raises ApiError."""
        found = await self._pods.of_all(namespace, children)
        return [await self._explained(namespace, child, found[child]) for child in children]

    async def starting(self, namespace: str) -> set[str]:
        """Children of which some pod has a node and does not run yet. Raises ApiError."""
        return await self._pods.starting(namespace)

    async def addresses(self, namespace: str, children: list[str]) -> dict[str, str]:
        """Where rank 0 of each of some children is, of those that have an address. Raises ApiError."""
        pods = await self._pods.of_all(namespace, children, f"{COMPLETION_INDEX}=0")
        return {
            child: pod.address
            for child, of in pods.items()
            for pod in of
            if pod.rank == 0 and pod.address and not pod.ended and pod.deletion_due is None
        }

    async def _explained(self, namespace: str, child: str, pods: list[Pod]) -> Evidence:
        # Of a pod without a node, events could only say what its conditions say.
        silent = [pod for pod in pods if pod.phase == "Pending" and pod.node and not _explains(pod)]
        # And why a pod was not made at all, only the Job can say.
        missing = len(pods) < max((pod.gang for pod in pods), default=1)
        names = [*([child] if missing else []), *(pod.name for pod in silent[:3])]
        return Evidence(tuple(pods), await self._warnings.about(namespace, names) if names else ())

    async def waiting(self, namespace: str, child: str, uid: str) -> Waiting | None:
        """Why Kueue does not let a child go; None where nothing is to be learned. No job fails for want of it."""
        if not self._reads_workloads:
            return None
        workloads: list[JsonObject] = []
        try:
            async for page in self._api.list(WORKLOADS, namespace, labelSelector=f"{JOB_UID_LABEL}={uid}"):
                workloads += page["items"]
        except ApiError as error:
            if error.not_found:
                return queued.NOT_SERVED
            log.warning("%s/%s: what Kueue says of it cannot be read: %s", namespace, child, error)
            return None
        return queued.waiting(workloads, child)

    async def _find_missing(self, key: Key, job: JsonObject) -> None:
        """Ask for the child that the status names but the cache does not know, before anyone believes it is gone."""
        known = {child["metadata"]["name"] for child in self._cache.children(key, job["metadata"]["uid"])}
        over = (StageState.SUCCEEDED.value, StageState.FAILED.value)
        for stage in job.get("status", {}).get("stages", ()):
            name = stage.get("jobName")
            if name is None or name in known or stage["state"] in over:
                continue
            try:
                child = await self._api.get(JOBS, key.namespace, name)
            except ApiError as error:
                if not error.not_found:
                    raise
            else:
                owner = owner_of(child)
                if owner == (key, job["metadata"]["uid"]) and Label.STAGE in child["metadata"]["labels"]:
                    self._cache.put(child)


def _explains(pod: Pod) -> bool:
    """Whether the pod itself says why it waits. `ContainerCreating` says nothing: a volume may be missing."""
    return pod.waiting_reason not in ("", "ContainerCreating", "PodInitializing")
