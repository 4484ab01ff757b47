"""Full lists, now and then: they heal whatever a watch lost, and tell whether it loses anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from instructbooth.contract import KIND, Label
from instructbooth_operator.api import Api
from instructbooth_operator.cache import Cache, JsonObject, Key, version
from instructbooth_operator.errors import ApiError, BeginAnew
from instructbooth_operator.freshness import Freshness
from instructbooth_operator.metrics import LOOP_LAG, LOOP_TASKS, REFUSED_NAMESPACES, WATCH_LAG
from instructbooth_operator.resources import IBJ, JOBS, Resource
from instructbooth_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

SELECTOR = f"{Label.MANAGED_BY}={Label.MANAGER}"
HEARTBEAT_SECONDS = 5.0
MAX_WAIT_SECONDS = 5.0  # between two tries of the first list: nobody works meanwhile
LONG_SECONDS = 5.0  # a comparison that takes longer, with thousands of jobs, is made more rarely:
SHARE = 0.05  # so that comparisons take no more of the time
SURE_SECONDS = 5.0  # a refusal must be repeated so much later: a server that comes up refuses what it will allow soon
SUSPICIOUS_SECONDS = 20.0  # a watch that is so late is compared with a full list at once


class NamespacesChanged(BeginAnew):
    """Other namespaces than at the start may be listed."""


class Resync:
    """Lists everything and compares.

    Of several namespaces those are left out whose lists are refused: the role went with the namespace, and the jobs of
    all others must not wait for it.
    """

    def __init__(
        self, *, api: Api, cache: Cache, queue: WorkQueue[Key], freshness: Freshness, namespaces: tuple[str, ...]
    ) -> None:
        self._api = api
        self._cache = cache
        self._queue = queue
        self._freshness = freshness
        self._namespaces = namespaces
        self.served: tuple[str, ...] = namespaces  # those that can be listed, known once it is primed
        self.primed = False
        self._known_refused: set[str] = set()

    async def prime(self) -> None:
        """The first lists. No job may be looked at before its children are known. Tries until it succeeds."""

        async def first() -> None:
            self.served = await self._listable()
            await self.compare()
            REFUSED_NAMESPACES.set(len(self._namespaces) - len(self.served))

        await _until_it_succeeds(first)
        self.primed = True

    async def can_list(self) -> None:
        """Return when there is a definition and the right to list what it defines. Tries until it succeeds."""
        await _until_it_succeeds(self._listable)

    async def _listable(self) -> tuple[str, ...]:
        """The namespaces that may be listed, empty for the whole cluster. Raises ApiError if none may."""
        if not self._namespaces:
            await self._list_one(None)
            return ()
        refused = await self._refused(self._namespaces)
        if refused.keys() - self._known_refused:
            await asyncio.sleep(SURE_SECONDS)
            refused = await self._refused(tuple(refused))
            for namespace in refused.keys() - self._known_refused:
                log.warning("%s: its jobs are not run: %s", namespace, refused[namespace])
        listable = tuple(namespace for namespace in self._namespaces if namespace not in refused)
        # Where all refuse nothing is known of one: an API server that comes up does so, and a role that is read later.
        self._known_refused = set(refused) if listable else set()
        if not listable:
            raise next(iter(refused.values()))
        return listable

    async def _refused(self, namespaces: tuple[str, ...]) -> dict[str, ApiError]:
        refused: dict[str, ApiError] = {}
        for namespace in namespaces:
            try:
                await self._list_one(namespace)
            except ApiError as error:
                if not error.refused:
                    raise
                refused[namespace] = error
        return refused

    async def _list_one(self, namespace: str | None) -> None:
        for resource in (JOBS, IBJ):
            async for _ in self._api.list(resource, namespace, limit="1"):
                break

    async def run(self, seconds: float) -> None:
        """Compare for ever: every so many seconds, more rarely where it takes long, at once when a watch seems dead.

        Raises NamespacesChanged.
        """
        loop = asyncio.get_running_loop()
        last, took = loop.time(), 0.0
        while True:
            before = loop.time()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            LOOP_LAG.observe(max(0.0, loop.time() - before - HEARTBEAT_SECONDS))
            LOOP_TASKS.set(len(asyncio.all_tasks()))
            WATCH_LAG.set(self._freshness.lag())
            age = loop.time() - last
            often = seconds if took <= LONG_SECONDS else max(seconds, took / SHARE)
            if age >= often or (self._freshness.lag() > SUSPICIOUS_SECONDS and age >= SUSPICIOUS_SECONDS):
                last = loop.time()
                try:
                    await self.same_namespaces()
                    began = loop.time()
                    await self.compare()
                except ApiError as error:
                    log.warning("cannot list jobs: %s", error)
                else:
                    took = loop.time() - began

    async def same_namespaces(self) -> None:
        """Raises NamespacesChanged if others may be listed than at the start, ApiError if that cannot be told."""
        if self._namespaces and (listable := await self._listable()) != self.served:
            raise NamespacesChanged(f"served until now: {_named(self.served)}; from now on: {_named(listable)}")

    async def compare(self) -> None:
        """One comparison: take in what was missed, forget what is gone. Raises ApiError."""
        before = {obj["metadata"]["uid"]: obj for obj in self._cache.objects()}
        existing: set[str] = set()
        for namespace in self.served or (None,):
            await self._take_in(JOBS, "Job", namespace, existing, labelSelector=SELECTOR)
            await self._take_in(IBJ, KIND, namespace, existing)
        for uid, obj in before.items():
            if uid not in existing and (key := self._cache.remove(obj)):
                self._queue.add(key)
        alive = existing | {obj["metadata"]["uid"] for obj in self._cache.objects()}
        self._freshness.keep_only(alive)

    async def _take_in(
        self, resource: Resource, kind: str, namespace: str | None, existing: set[str], **query: str
    ) -> None:
        async for page in self._api.list(resource, namespace, **query):
            for item in page["items"]:
                obj: JsonObject = item | {"kind": kind}
                existing.add(obj["metadata"]["uid"])
                self._freshness.expect(obj)
                known = self._cache.known(obj)
                key = self._cache.put(obj)
                if key and (known is None or version(known) < version(obj)):
                    self._queue.add(key)


def _named(namespaces: tuple[str, ...]) -> str:
    return ", ".join(namespaces)


async def _until_it_succeeds(listing: Callable[[], Awaitable[object]]) -> None:
    wait = 0.5
    while True:
        try:
            await listing()
            return
        except ApiError as error:
            log.warning("cannot list jobs yet: %s; again in %.1f s", error, wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, MAX_WAIT_SECONDS)
