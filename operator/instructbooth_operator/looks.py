"""Pods, and warnings about them: nobody watches them, and each list costs the API server all that a namespace holds.

It finds the pods of one child by going through all pods, and reads all events from etcd to find those of one pod. A
list for each child that asks would cost N times N. So those who ask at about the same time share one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass, field

from instructbooth.contract import KIND
from instructbooth.reconcile.observed import Pod, Warning
from instructbooth.reconcile.policies.blocked import TELLING
from instructbooth_operator.api import Api
from instructbooth_operator.errors import ApiError
from instructbooth_operator.resources import EVENTS, PODS
from instructbooth_operator.resync import SELECTOR

log = logging.getLogger(__name__)

JOB_NAME = "batch.kubernetes.io/job-name"
COMPANY_SECONDS = 0.05, 1.0  # for which a list waits for others to join it: as long as the last one took, within bounds
SHARE_OF_TIME = 0.05  # that is spent on lists of events, unless they would be older than
OLDEST_SECONDS = 60.0
MAX_WARNINGS = 20


@dataclass
class _Round:
    """One list of pods that is about to be asked for."""

    children: set[str] = field(default_factory=set)
    answer: asyncio.Task[dict[str, list[Pod]]] | None = None


class Pods:
    """The pods of children."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._next: dict[str, _Round] = {}
        self._took = 0.0

    async def of(self, namespace: str, child: str) -> list[Pod]:
        """The pods of a child, as they are after this was called. Raises ApiError."""
        if namespace not in self._next:
            begun = self._next[namespace] = _Round()
            begun.answer = asyncio.create_task(self._list(namespace))
        joined = self._next[namespace]
        joined.children.add(child)
        assert joined.answer is not None
        return (await asyncio.shield(joined.answer))[child]

    async def _list(self, namespace: str) -> dict[str, list[Pod]]:
        shortest, longest = COMPANY_SECONDS
        await asyncio.sleep(min(max(shortest, self._took), longest))
        # Whoever asks from now on wants to know of what happens from now on: that is for the next list to say.
        children = self._next.pop(namespace).children
        clock = asyncio.get_running_loop().time
        began = clock()
        found = await self.of_all(namespace, sorted(children))
        self._took = clock() - began
        return found

    async def of_all(self, namespace: str, children: list[str], *and_labels: str) -> dict[str, list[Pod]]:
        """The pods of some children, at once; only those with such labels. Raises ApiError."""
        selector = ",".join((f"{JOB_NAME} in ({','.join(children)})", *and_labels))
        found: dict[str, list[Pod]] = {child: [] for child in children}
        async for page in self._api.list(PODS, namespace, labelSelector=selector):
            for pod in page["items"]:
                try:
                    found[pod["metadata"]["labels"][JOB_NAME]].append(Pod.from_object(pod))
                except (KeyError, TypeError, ValueError) as error:  # whose labels name the child, but it is no child's
                    log.warning("pod %s/%s cannot be read: %r", namespace, pod["metadata"]["name"], error)
        return found

    async def starting(self, namespace: str) -> set[str]:
        """Children of which some pod has a node and does not run yet: few, however many there are. Raises ApiError."""
        found: set[str] = set()
        query = {"labelSelector": SELECTOR, "fieldSelector": "status.phase=Pending,spec.nodeName!="}
        async for page in self._api.list(PODS, namespace, **query):
            found.update(pod["metadata"]["labels"].get(JOB_NAME, "") for pod in page["items"])
        return found


class Warnings:
    """What Kubernetes Events of type Warning say. They may be some seconds old: whoever waits looks again."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, tuple[float, dict[str, list[Warning]]]] = {}
        self._listing: dict[str, asyncio.Lock] = {}

    async def about(self, namespace: str, names: list[str]) -> tuple[Warning, ...]:
        """The newest warnings about each of some objects; where none can be read, what was known: they only explain."""
        clock = asyncio.get_running_loop().time
        async with self._listing.setdefault(namespace, asyncio.Lock()):
            until, known = self._known.get(namespace, (0.0, {}))
            if clock() >= until:
                began = clock()
                try:
                    known = await self._list(namespace)
                except ApiError as error:
                    log.warning("the events of %s cannot be read: %s", namespace, error)
                    until = clock() + OLDEST_SECONDS
                else:
                    until = clock() + min((clock() - began) / SHARE_OF_TIME, OLDEST_SECONDS)
                self._forget_old(clock())
                self._known[namespace] = until, known
        return tuple(warning for name in names for warning in known.get(name, ())[:MAX_WARNINGS])

    async def _list(self, namespace: str) -> dict[str, list[Warning]]:
        # That a pod found no node is in its conditions, and in a full cluster there are thousands of those.
        # Our own are about jobs, and none of them says why a pod waits.
        selector = f"type=Warning,reason!=FailedScheduling,involvedObject.kind!={KIND}"
        told: list[tuple[str, Warning]] = []
        async for page in self._api.list(EVENTS, namespace, fieldSelector=selector):
            for event in page["items"]:
                if event.get("reason") in TELLING:  # others' are many, and would fill the memory
                    name = event["involvedObject"].get("name", "")
                    time = event.get("lastTimestamp") or event.get("eventTime") or ""
                    told.append((time, Warning(name, event["reason"], event.get("message", ""))))
        told.sort(key=lambda pair: pair[0], reverse=True)
        found: defaultdict[str, list[Warning]] = defaultdict(list)
        for _, warning in told:
            found[warning.object_name].append(warning)
        return found

    def _forget_old(self, now: float) -> None:
        self._known = {name: held for name, held in self._known.items() if held[0] > now}
        self._listing = {name: lock for name, lock in self._listing.items() if lock.locked() or name in self._known}
