"""Progress is pulled from rank 0 of each running gang. A pull that fails is no error: a pod may be busy or gone.

Pulling has a task of its own: a worker that waits for a pod's answer would keep other jobs waiting. So has asking where
rank 0 is: some dozens at a time, one list a second at most. Addresses are given out anew: whoever does not answer is
looked for again, and another gang's answer is not taken for this one's (docs/decisions/0030-no-service.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from pydantic import ValidationError

from instructbooth.contract import GANG_HEADER
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
PULLS_AT_ONCE = 32
SOUGHT_AT_ONCE = 50
ANSWER_LIMIT = 64 * 1024


@dataclass
class _Target:
    child: str
    moved: float  # loop time at which its heartbeat was seen to change
    address: str | None = None
    due: float = 0.0
    failures: int = 0
    heard: bool = False
    heartbeat: str | None = None
    latest: Progress | None = None


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
            timeout=timeout, connector=aiohttp.TCPConnector(limit=PULLS_AT_ONCE, force_close=True)
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
        """For how long rank 0 has not moved, by child name."""
        target = self._targets.get(key)
        if target is None:
            return {}
        seconds = asyncio.get_running_loop().time() - target.moved
        return {target.child: Silence(seconds, target.heard, target.heard and not target.failures, target.heartbeat)}

    async def run(self) -> None:
        """Pull for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._seek()
            known = [(key, target) for key, target in self._targets.items() if target.address]
            due = [(key, target) for key, target in known if target.due <= loop.time()]
            for start in range(0, len(due), PULLS_AT_ONCE):
                await asyncio.gather(*(self._pull(key, target) for key, target in due[start : start + PULLS_AT_ONCE]))
            await asyncio.sleep(min(self._seconds / 2, 1.0))

    async def _seek(self) -> None:
        """Find out where some are whose address is not known, of one namespace; those who have waited longest first."""
        now = asyncio.get_running_loop().time()
        lost = [(key, target) for key, target in self._targets.items() if target.address is None and target.due <= now]
        lost.sort(key=lambda pair: pair[1].due)
        sought = [pair for pair in lost if pair[0].namespace == lost[0][0].namespace][:SOUGHT_AT_ONCE]
        if not sought:
            return
        namespace = sought[0][0].namespace
        try:
            found = await self._addresses(namespace, [target.child for _, target in sought])
        except Exception as error:  # logged and tried again, whatever it is
            expected = isinstance(error, ApiError)
            log.warning("%s: cannot look for rank 0s: %s", namespace, error, exc_info=None if expected else error)
            found = {}
        for key, target in sought:
            target.address = found.get(target.child)
            if target.address is None:
                self._failed(key, target, "its pod has no address")

    async def _pull(self, key: Key, target: _Target) -> None:
        assert target.address is not None
        try:
            said = await self._ask(target.address, f"{key.namespace}/{target.child}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._failed(key, target, f"{target.address}: {error}")
            target.address = None
        else:
            PULLS.labels("ok").inc()
            if said.heartbeat != target.heartbeat or not target.heard:
                target.moved = asyncio.get_running_loop().time()
            target.failures, target.heard, target.heartbeat = 0, True, said.heartbeat
            news = merged(target.latest, said)
            if news is not target.latest:
                target.latest = news
                self._changed(key)
            target.due = asyncio.get_running_loop().time() + self._seconds

    def _failed(self, key: Key, target: _Target, problem: str) -> None:
        """Who does not answer is asked ever less often."""
        PULLS.labels("failed").inc()
        log.debug("%s/%s: no progress from %s: %s", *key, target.child, problem)
        target.failures += 1
        slowest = max(self._seconds, SLOWEST_HEARD_SECONDS if target.heard else SLOWEST_SECONDS)
        wait = min(self._seconds * 2 ** min(target.failures, 10), slowest)
        target.due = asyncio.get_running_loop().time() + wait

    async def _ask(self, address: str, gang: str) -> Progress:
        host = f"[{address}]" if ":" in address else address
        async with self._session.get(self._url.format(host=host)) as answer:
            answer.raise_for_status()
            # Gangs that an earlier version began do not say who they are.
            if (who := answer.headers.get(GANG_HEADER, gang)) != gang:
                raise ValueError(f"{who} answers there")
            text = await answer.content.read(ANSWER_LIMIT)
        data = json.loads(text)
        if isinstance(data, dict) and isinstance(data.get("metrics"), dict):
            data["metrics"] = finite(data["metrics"])
        try:
            return Progress.model_validate(data)
        except ValidationError as error:
            raise ValueError(f"not a Progress: {error}") from error
