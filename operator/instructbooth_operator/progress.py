"""Progress is pulled from rank 0 of each running gang. A pull that fails is no error: a pod may be busy or gone.

Pulling has a task of its own: a worker that waits for a pod's answer would keep other jobs waiting. So has asking the
API server where rank 0 is, some dozens at a time. Addresses are given out anew: who does not answer is looked for
again, and asked where it was known to be until then; another gang's answer is not taken for its own
(docs/decisions/0030-no-service.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from types import TracebackType
from typing import Self

import aiohttp
from pydantic import ValidationError

from instructbooth.contract import GANG_HEADER
from instructbooth.reconcile.names import gang_name
from instructbooth.reconcile.observed import Silence
from instructbooth.reconcile.outcome import finite
from instructbooth.reconcile.policies.visible import merged
from instructbooth.spec.status import Progress
from instructbooth_operator.cache import Key
from instructbooth_operator.errors import ApiError
from instructbooth_operator.metrics import PULLS

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2.0
SLOWEST_SECONDS = 60.0  # between two pulls of a rank 0 that never answered; of one that did:
SLOWEST_HEARD_SECONDS = 15.0
PULLS_AT_ONCE = 32  # from those who answer, and as many from those who do not
SOUGHT_AT_ONCE = 50
LISTS_PER_TURN, TURN_SECONDS = 3, 1.0
ANSWER_LIMIT = 64 * 1024  # bytes
LARGEST = 2**53  # of a count: what JSON's readers agree on
# What an image of somebody's own says becomes a status and series in Prometheus: it is bounded in number and length.
METRICS, LONGEST_NAME = 64, 64


@dataclass
class _Target:
    child: str
    moved: float  # loop time at which its heartbeat was seen to change
    address: str | None = None
    lost: bool = True  # it did not answer there, or its address was never known
    misses: int = 0
    sought: float = 0.0  # loop time from which it may be looked for
    due: float = 0.0
    failures: int = 0
    heard: bool = False
    heartbeat: str | None = None
    latest: Progress | None = None


class _SomebodyElse(ValueError):
    """Another gang has that address by now."""


class ProgressPuller:
    """Pulls from every target in turn; calls `changed` when a person would see a difference.

    Args:
        url: where, `{host}` being the address of rank 0.
        seconds: between two pulls of one target.
        addresses: (namespace, children) -> where rank 0 of each is, of those that have an address. Raises ApiError.
    """

    def __init__(
        self,
        url: str,
        seconds: float,
        addresses: Callable[[str, list[str]], Awaitable[dict[str, str]]],
        changed: Callable[[Key], None],
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._addresses = addresses
        self._changed = changed
        self._targets: dict[Key, _Target] = {}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        self._session = aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=2 * PULLS_AT_ONCE, force_close=True)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def watch(self, key: Key, child: str | None) -> None:
        """Pull from rank 0 of that child from now on; from nobody if None."""
        if child is None:
            self._targets.pop(key, None)
        elif key not in self._targets or self._targets[key].child != child:
            self._targets[key] = _Target(child, moved=asyncio.get_running_loop().time())

    def latest(self, key: Key) -> dict[str, Progress]:
        """What was said last, by child name."""
        target = self._targets.get(key)
        return {target.child: target.latest} if target and target.latest else {}

    def silence(self, key: Key) -> dict[str, Silence]:
        """For how long rank 0 has not moved, by child name; nothing of one that could not be asked."""
        target = self._targets.get(key)
        if target is None or target.address is None:
            return {}
        seconds = asyncio.get_running_loop().time() - target.moved
        return {target.child: Silence(seconds, target.heard, target.heard and not target.failures, target.heartbeat)}

    async def run(self) -> None:
        """Pull for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pull_in_turn(answer=True))
            group.create_task(self._pull_in_turn(answer=False))
            group.create_task(self._seek_in_turn())

    async def _pull_in_turn(self, *, answer: bool) -> None:
        """Pull from those who answered last time, or from the others: a thousand who do not, each of whom takes as long
        as may be, must not keep those waiting who do.
        """
        while True:
            due = self._due(answer=answer)[:PULLS_AT_ONCE]
            await asyncio.gather(*(self._pull(key, target) for key, target in due))
            await asyncio.sleep(0 if len(due) == PULLS_AT_ONCE else min(self._seconds / 2, 1.0))

    def _due(self, *, answer: bool) -> list[tuple[Key, _Target]]:
        """Who is to be asked now, those first who were heard before, and have failed least."""
        now = asyncio.get_running_loop().time()
        known = [(key, target) for key, target in self._targets.items() if target.address and target.due <= now]
        due = [(key, target) for key, target in known if (target.heard and not target.failures) is answer]
        return sorted(due, key=lambda pair: (not pair[1].heard, pair[1].failures, pair[1].due))

    async def _seek_in_turn(self) -> None:
        while True:
            for namespace, sought in self._lost()[:LISTS_PER_TURN]:
                await self._seek(namespace, sought)
            await asyncio.sleep(TURN_SECONDS)

    def _lost(self) -> list[tuple[str, list[_Target]]]:
        """Who is to be looked for with one list each; first those who were heard before, and have waited longest."""
        now = asyncio.get_running_loop().time()
        lost = [(key, target) for key, target in self._targets.items() if target.lost and target.sought <= now]
        lost.sort(key=lambda pair: (not pair[1].heard, pair[1].sought))
        batches: list[tuple[str, list[_Target]]] = []
        filling: dict[str, list[_Target]] = {}
        for key, target in lost:
            if len(filling.get(key.namespace, ())) in (0, SOUGHT_AT_ONCE):
                filling[key.namespace] = []
                batches.append((key.namespace, filling[key.namespace]))
            filling[key.namespace].append(target)
        return batches

    async def _seek(self, namespace: str, sought: list[_Target]) -> None:
        try:
            found = await self._addresses(namespace, [target.child for target in sought])
        except Exception as error:  # logged and tried again, whatever it is
            expected = isinstance(error, ApiError)
            log.warning("%s: cannot look for rank 0s: %s", namespace, error, exc_info=None if expected else error)
            found = {}
        now = asyncio.get_running_loop().time()
        for target in sought:
            address = found.get(target.child)
            if address is None:
                target.misses += 1
                target.sought = now + self._wait(target, target.misses)
                continue
            target.lost, target.misses = False, 0
            if address != target.address:
                if target.address is None:
                    target.moved = now  # until now it could not be asked
                target.address, target.due = address, now

    async def _pull(self, key: Key, target: _Target) -> None:
        address, gang = str(target.address), gang_name(key.namespace, target.child)
        try:
            said = await self._ask(address, gang)
            news = merged(target.latest, said)
        except Exception as error:  # noqa: BLE001 - whatever an image of somebody's own may answer
            PULLS.labels("failed").inc()
            log.debug("%s: no progress from %s: %r", gang, address, error)
            if target.address != address:  # found elsewhere meanwhile
                return
            target.failures += 1
            target.due = asyncio.get_running_loop().time() + self._wait(target, target.failures)
            target.lost = True
            if isinstance(error, _SomebodyElse):
                target.address = None
            return
        PULLS.labels("ok").inc()
        now = asyncio.get_running_loop().time()
        if said.heartbeat != target.heartbeat or not target.heard:
            target.moved = now
        target.failures, target.heard, target.heartbeat, target.due = 0, True, said.heartbeat, now + self._seconds
        if news is not target.latest:
            target.latest = news
            self._changed(key)

    def _wait(self, target: _Target, failures: int) -> float:
        """Seconds until the next try: who does not answer is asked ever less often."""
        slowest = max(self._seconds, SLOWEST_HEARD_SECONDS if target.heard else SLOWEST_SECONDS)
        return min(self._seconds * 2.0 ** min(failures, 10), slowest)

    async def _ask(self, address: str, gang: str) -> Progress:
        host = f"[{address}]" if ":" in address else address
        # Not followed elsewhere: who answers there would have the operator send requests wherever it can reach.
        async with self._session.get(self._url.format(host=host), allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"answers with {answer.status}")
            # Gangs that an earlier version began do not say who they are.
            if (who := answer.headers.get(GANG_HEADER, gang)) != gang:
                raise _SomebodyElse(f"{who} answers there")
            text = await answer.content.read(ANSWER_LIMIT)
        data = json.loads(text)
        if isinstance(data, dict) and isinstance(data.get("metrics"), dict):
            named = ((name, value) for name, value in data["metrics"].items() if len(name) <= LONGEST_NAME)
            data["metrics"] = finite(dict(islice(named, METRICS)))
        try:
            said = Progress.model_validate(data)
        except ValidationError as error:
            raise ValueError(f"not a Progress: {error}") from error
        if max(said.step, said.total, said.eta_seconds or 0) > LARGEST:
            raise ValueError("not a Progress: a count is too large")
        if len(said.unit) > LONGEST_NAME:
            raise ValueError("not a Progress: its unit is too long")
        return said
