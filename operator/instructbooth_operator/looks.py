"""Pods, and warnings about them: nobody watches them, and each list costs the API server all that a namespace holds.

It finds the pods of one child by going through all pods, and reads all events from etcd to find those of one pod. A
list for each child that asks would cost N times N. So those who ask at about the same time share one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from instructbooth.reconcile.observed import Warning
from instructbooth_operator.api import Api
from instructbooth_operator.resources import EVENTS, PODS, Resource

JsonObject = dict[str, Any]
JOB_NAME = "batch.kubernetes.io/job-name"
COMPANY_SECONDS = 0.05, 1.0  # for which a list waits for others to join it: as long as the last one took, within bounds
SHARE_OF_TIME = 0.05  # that is spent on lists of events, at most
MAX_WARNINGS = 20


@dataclass
class _Round:
    """One list of pods that is about to be asked for."""

    children: set[str] = field(default_factory=set)
    answer: asyncio.Task[dict[str, list[JsonObject]]] | None = None


class Pods:
    """The pods of children."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._next: dict[str, _Round] = {}
        self._took = 0.0

    async def of(self, namespace: str, child: str) -> list[JsonObject]:
        """The pods of a child, as they are after this was called. Raises ApiError."""
        if namespace not in self._next:
            begun = self._next[namespace] = _Round()
            begun.answer = asyncio.create_task(self._list(namespace))
        joined = self._next[namespace]
        joined.children.add(child)
        assert joined.answer is not None
        return (await asyncio.shield(joined.answer))[child]

    async def _list(self, namespace: str) -> dict[str, list[JsonObject]]:
        shortest, longest = COMPANY_SECONDS
        await asyncio.sleep(min(max(shortest, self._took), longest))
        # Whoever asks from now on wants to know of what happens from now on: that is for the next list to say.
        children = self._next.pop(namespace).children
        clock = asyncio.get_running_loop().time
        began = clock()
        selector = f"{JOB_NAME} in ({','.join(sorted(children))})"
        found: dict[str, list[JsonObject]] = {child: [] for child in children}
        for pod in await _all(self._api, PODS, namespace, labelSelector=selector):
            found[pod["metadata"]["labels"][JOB_NAME]].append(pod)
        self._took = clock() - began
        return found


class Warnings:
    """What Kubernetes Events of type Warning say. They may be some seconds old: whoever waits looks again."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, tuple[float, dict[str, list[Warning]]]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def about(self, namespace: str, names: list[str]) -> tuple[Warning, ...]:
        """The newest warnings about each of some objects. Raises ApiError."""
        clock = asyncio.get_running_loop().time
        async with self._one_at_a_time:
            until, known = self._known.get(namespace, (0.0, {}))
            if clock() >= until:
                began = clock()
                known = await self._list(namespace)
                self._known = {name: held for name, held in self._known.items() if held[0] > clock()}
                self._known[namespace] = clock() + (clock() - began) / SHARE_OF_TIME, known
        return tuple(warning for name in names for warning in known.get(name, ())[:MAX_WARNINGS])

    async def _list(self, namespace: str) -> dict[str, list[Warning]]:
        # That a pod found no node is in its conditions, and in a full cluster there are thousands of those.
        selector = "type=Warning,reason!=FailedScheduling"
        events = await _all(self._api, EVENTS, namespace, fieldSelector=selector)
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "", reverse=True)
        found: defaultdict[str, list[Warning]] = defaultdict(list)
        for event in events:
            name = event["involvedObject"].get("name", "")
            found[name].append(Warning(name, event.get("reason", ""), event.get("message", "")))
        return found


async def _all(api: Api, resource: Resource, namespace: str, **query: str) -> list[JsonObject]:
    return [item async for page in api.list(resource, namespace, **query) for item in page["items"]]
