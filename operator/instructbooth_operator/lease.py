"""One replica works, by a coordination.k8s.io Lease (kopf's peering is no leader election).

As in client-go: who holds the Lease renews it; who wants it waits until it has not changed for its whole duration by
the waiter's own clock, so that clocks need not agree. Whoever cannot renew in time stops working before anyone else
may begin.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from instructbooth_operator.api import Api
from instructbooth_operator.errors import ApiError
from instructbooth_operator.metrics import LEADER
from instructbooth_operator.resources import LEASES

log = logging.getLogger(__name__)

DURATION_SECONDS = 15
RENEW_BEFORE_SECONDS = 10.0
RETRY_SECONDS = 2.0


class LeaseLost(Exception):
    """The Lease could not be renewed in time: this replica must not go on."""


class Lease:
    """A Lease that this replica holds or waits for. Without a name there is no election, and it always leads."""

    def __init__(self, api: Api, name: str, namespace: str, identity: str) -> None:
        self._api = api
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._seen: dict[str, Any] = {}
        self._seen_at = 0.0
        self.waiting = False

    async def acquire(self) -> None:
        """Return when this replica leads."""
        while self._name and not await self._try():
            if not self.waiting:
                log.info("waiting for the Lease %s, held by %s", self._name, self._seen.get("holderIdentity"))
            # Without an answer from the API server nobody is known to hold it: that is no standing by.
            self.waiting = bool(self._seen)
            await asyncio.sleep(RETRY_SECONDS)
        self.waiting = False
        LEADER.set(1)

    async def keep(self) -> None:
        """Renew for ever. Raises LeaseLost when that has failed for too long.

        Time counts from when a renewal was sent, and an answer that is still out when the time is up is waited for no
        longer: a waiter may count from the moment at which the API server wrote it.
        """
        clock = asyncio.get_running_loop().time
        renewed = clock()
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            sent = clock()
            if not self._name or await self._try_until(renewed + RENEW_BEFORE_SECONDS):
                renewed = sent
            elif (holder := self._seen.get("holderIdentity")) not in ("", None, self._identity):
                LEADER.set(0)
                raise LeaseLost(f"the Lease {self._name} is lost: {holder} holds it")
            elif clock() - renewed >= RENEW_BEFORE_SECONDS:
                LEADER.set(0)
                raise LeaseLost(f"the Lease {self._name} was not renewed for {clock() - renewed:.0f} s")

    async def release(self) -> None:
        """Let the next replica begin at once."""
        if not self._name or self._seen.get("holderIdentity") != self._identity:
            return
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASES, lease)
        except ApiError as error:
            log.warning("the Lease %s runs out by itself: %s", self._name, error)

    async def _try_until(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._try()
        except TimeoutError:
            log.warning("Lease %s: the API server does not answer", self._name)
            return False

    async def _try(self) -> bool:
        """Take or renew the Lease; whether this replica holds it now."""
        try:
            try:
                lease = await self._api.get(LEASES, self._namespace, self._name)
            except ApiError as error:
                if not error.not_found:
                    raise
                return await self._create()
            return await self._take(lease)
        except ApiError as error:
            log.log(logging.DEBUG if error.conflict else logging.WARNING, "Lease %s: %s", self._name, error)
            return False

    async def _create(self) -> bool:
        meta = {"name": self._name, "namespace": self._namespace}
        spec = self._spec(transitions=0)
        manifest = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        self._remember((await self._api.create(LEASES, manifest))["spec"])
        return True

    async def _take(self, lease: dict[str, Any]) -> bool:
        spec, now = lease["spec"], asyncio.get_running_loop().time()
        if spec != self._seen:
            self._remember(spec)
        holder = spec.get("holderIdentity")
        if holder not in ("", None, self._identity) and now - self._seen_at < spec["leaseDurationSeconds"]:
            return False
        changed = holder != self._identity
        transitions = spec.get("leaseTransitions", 0) + changed
        acquired = None if changed else spec.get("acquireTime")
        written = await self._api.replace(LEASES, lease | {"spec": self._spec(transitions, acquired)})
        self._remember(written["spec"])
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

    def _remember(self, spec: dict[str, Any]) -> None:
        self._seen, self._seen_at = spec, asyncio.get_running_loop().time()
