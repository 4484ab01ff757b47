"""One replica works, by a coordination.k8s.io Lease (kopf's peering is no leader election).

As in client-go: who holds the Lease renews it; who wants it waits until it has not changed for its whole duration by
the waiter's own clock, so that clocks need not agree. Whoever cannot renew in time stops before anyone else may begin,
and whoever was frozen meanwhile finds on waking that it `holds` nothing: each write asks (docs/decisions/0025).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from datetime import UTC, datetime
from typing import Any

from instructbooth_operator.api import Api
from instructbooth_operator.errors import ApiError, BeginAnew
from instructbooth_operator.metrics import LEADER
from instructbooth_operator.resources import LEASES

log = logging.getLogger(__name__)

# A standby acts within 20 s of its leader's death: it may learn of the last renewal one WAIT late, waits for DURATION,
# looks again after at most one WAIT, and has 6 s left to list all jobs. A busy API server may take five for a renewal.
DURATION_SECONDS = 12
RENEW_BEFORE_SECONDS = 9.0  # the rest of the duration is for requests that are under way when it is over
RENEW_SECONDS = 2.0
WAIT_SECONDS = 1.0

# CLOCK_MONOTONIC stands still while the machine sleeps, and a Lease does not wait for it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class LeaseLost(BeginAnew):
    """The Lease could not be renewed in time: this replica must not go on."""


class Lease:
    """A Lease that this replica holds or waits for. Without a name there is no election, and it always leads."""

    def __init__(self, api: Api, name: str, namespace: str, identity: str) -> None:
        self._api = api
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._own: dict[str, Any] | None = None  # the Lease as this replica wrote it last
        self._seen: dict[str, Any] = {}
        self._seen_at = -math.inf  # when it was last found changed
        self._looked_at = -math.inf  # when the API server last showed it
        self._tried_at = math.inf  # when it was last tried for; never before the election has begun
        self._held_until = -math.inf
        self._waiting = False

    def holds(self) -> bool:
        """Whether this replica may write: it was given the Lease so short a time ago that nobody else can have it."""
        return not self._name or _now() < self._held_until

    def standing_by(self) -> bool:
        """Whether it waits for another's Lease that it has seen lately, and so would notice if nobody renewed it."""
        return self._waiting and _now() - self._looked_at < DURATION_SECONDS

    def idle(self) -> float:
        """For how many seconds nobody has tried to get or keep it: a few, unless the election itself hangs."""
        return max(0.0, _now() - self._tried_at)

    async def acquire(self) -> None:
        """Return when this replica leads."""
        while self._name and not await self._try():
            if not self._waiting and self._seen:
                log.info("waiting for the Lease %s, held by %s", self._name, self._seen.get("holderIdentity"))
            # Without an answer from the API server nobody is known to hold it: that is no standing by.
            self._waiting = bool(self._seen)
            await asyncio.sleep(WAIT_SECONDS)
        self._waiting = False
        LEADER.set(1)

    async def keep(self) -> None:
        """Renew for ever. Raises LeaseLost when that has failed for too long, or when time was lost otherwise."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not self._name or (self.holds() and await self._renew()):
                continue
            holder = self._seen.get("holderIdentity")
            if holder not in ("", None, self._identity):
                raise self._lost(f"{holder} holds it")
            if not self.holds():
                raise self._lost(f"it was not renewed for {RENEW_BEFORE_SECONDS:.0f} s")

    async def release(self) -> None:
        """Write no more, and let the next replica begin at once."""
        self._held_until = -math.inf
        LEADER.set(0)
        if not self._name:
            return
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASES, lease)
        except ApiError as error:
            if not error.not_found:
                log.warning("the Lease %s runs out by itself: %s", self._name, error)

    def _lost(self, why: str) -> LeaseLost:
        self._held_until = -math.inf
        LEADER.set(0)
        return LeaseLost(f"the Lease {self._name} is lost: {why}")

    async def _renew(self) -> bool:
        """Renew it while it is held: an answer that is out when the time is up is waited for no longer."""
        try:
            async with asyncio.timeout(self._held_until - _now()):
                return await self._try()
        except TimeoutError:
            log.warning("Lease %s: the API server does not answer", self._name)
            return False

    async def _try(self) -> bool:
        """Take or renew the Lease; whether this replica holds it now.

        Time counts from before it was asked for: a waiter may count from the moment at which the API server wrote it.
        """
        self._tried_at = _now()
        try:
            if not await self._ask():
                return False
        except ApiError as error:
            log.log(logging.DEBUG if error.conflict else logging.WARNING, "Lease %s: %s", self._name, error)
            return False
        self._held_until = self._tried_at + RENEW_BEFORE_SECONDS
        return True

    async def _ask(self) -> bool:
        # Whoever holds it knows how it left it: one request in place of two, where the API server is slow.
        own, self._own = self._own, None
        if own is not None and self.holds():
            try:
                return await self._take(own)
            except ApiError as error:
                if not (error.conflict or error.not_found):
                    raise
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
        except ApiError as error:
            if not error.not_found:
                raise
            return await self._create()
        self._looked_at = _now()
        return await self._take(lease)

    async def _create(self) -> bool:
        meta = {"name": self._name, "namespace": self._namespace}
        spec = self._spec(transitions=0)
        manifest = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        self._remember(await self._api.create(LEASES, manifest))
        return True

    async def _take(self, lease: dict[str, Any]) -> bool:
        spec = lease["spec"]
        if spec != self._seen:
            self._seen, self._seen_at = spec, _now()
        holder = spec.get("holderIdentity")
        if holder not in ("", None, self._identity) and _now() - self._seen_at < spec["leaseDurationSeconds"]:
            return False
        changed = holder != self._identity
        transitions = spec.get("leaseTransitions", 0) + changed
        acquired = None if changed else spec.get("acquireTime")
        self._remember(await self._api.replace(LEASES, lease | {"spec": self._spec(transitions, acquired)}))
        return True

    def _spec(self, transitions: int, acquired: str | None = None) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _remember(self, written: dict[str, Any]) -> None:
        self._own, self._seen, self._seen_at = written, written["spec"], _now()
        self._looked_at = self._seen_at
