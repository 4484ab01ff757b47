"""How the pods of a gang find pod 0: it writes its address below the attempt's prefix, and the others read it there.

Object storage is what every pod of a gang needs anyhow, so that no Service and no DNS name is needed beside it
(docs/decisions/0030-no-service.md). What is read there may be old: an attempt that was suspended and goes on finds the
address of its former pod 0. So pod 0 writes anew as long as it waits: an address that changes is one where it lives.
For one that lives and cannot be joined the others wait with a bound, for one that has not come yet without.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from instructbooth.artifacts.access import open_store
from instructbooth.artifacts.errors import ArtifactError, BucketNotFound, ObjectMissing
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import Port
from instructbooth.reconcile.names import child_name, gang_name
from instructbooth_trainer.runtime import gathering
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.errors import TransientError
from instructbooth_trainer.runtime.gathering import NotYet
from instructbooth_trainer.runtime.listening import listen

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds for which the others try to join a pod 0 that lives
REWRITE = 30.0  # seconds after which pod 0 writes its address anew
AGAIN = (1.0, 15.0)  # seconds between two tries: the longer one has waited, the longer


class Away(NotYet):
    """Storage cannot say where pod 0 is."""


@dataclass(frozen=True)
class Place:
    """Where a gang's pod 0 says where it is."""

    store: ObjectStore
    key: str
    create_bucket: bool

    @classmethod
    def of(cls, pod: PodEnvironment, env: Mapping[str, str]) -> Place:
        """That of the pod's gang. Raises ArtifactError."""
        artifacts = pod.job.spec.artifacts
        key = RunLayout.of(pod.job).rendezvous(pod.stage, pod.attempt)
        return cls(open_store(artifacts, env), key, artifacts.create_bucket)

    def write(self, address: str | None, times: int) -> None:
        """Say where pod 0 is, and how often it has said so before. Raises ArtifactError."""
        if times == 0:
            self.store.ensure_bucket(create=self.create_bucket)
        self.store.put_bytes(self.key, json.dumps({"address": address, "times": times}).encode())

    def read(self) -> tuple[str, bytes]:
        """The address, and all that was written with it. Raises NotYet, ArtifactError if waiting cannot help."""
        try:
            written = self.store.get_bytes(self.key)
            return str(json.loads(written)["address"]), written
        except (ValueError, KeyError, TypeError) as error:
            raise NotYet(f"{self.store.url(self.key)} holds no address ({error!r})") from error
        except ObjectMissing:
            raise NotYet("it has not said where it is") from None
        except ArtifactError as error:
            if error.retryable or (self.create_bucket and isinstance(error, BucketNotFound)):
                raise Away(error.message) from error
            raise


def meet(pod: PodEnvironment, env: Mapping[str, str], patience: float = PATIENCE) -> str:
    """Returns when every pod of the gang is there: the address at which rank 0 soon listens.

    Raises TransientError CoordinatorUnreachable, ArtifactError; OSError if the port is taken.
    """
    if pod.nodes == 1:
        return "localhost"
    port = int(env.get("MASTER_PORT") or Port.COORDINATOR)
    gang = gang_name(pod.job.namespace, child_name(pod.job.name, pod.stage, pod.attempt))
    place = None if pod.coordinator else Place.of(pod, env)
    if pod.node_rank == 0:
        asyncio.run(_host(pod, gang, port, place))
        return "localhost"  # rank 0 listens on all addresses
    return _Caller(pod, gang, port, place, patience).join()


async def _host(pod: PodEnvironment, gang: str, port: int, place: Place | None) -> None:
    written, times = float("-inf"), 0

    async def tick() -> None:
        nonlocal written, times
        if place is None or time.monotonic() - written < REWRITE:
            return
        try:
            await asyncio.to_thread(place.write, pod.address, times)
        except ArtifactError as error:
            if times == 0 or not error.retryable:
                raise
            log.warning("the address cannot be written anew: %s", error.message)
        written, times = time.monotonic(), times + 1

    with listen(port) as listener:
        await gathering.host(gang, pod.nodes, listener, tick)


class _Caller:
    """Another pod, which tries to join pod 0."""

    def __init__(self, pod: PodEnvironment, gang: str, port: int, place: Place | None, patience: float) -> None:
        self._pod, self._gang, self._port, self._place, self._patience = pod, gang, port, place, patience
        self._first: bytes | None = None  # what was written when pod 0 was looked for first
        self._stuck: float | None = None  # since when pod 0 lives, or storage is away, and it cannot be joined
        self._told: object = None

    def join(self) -> str:
        """The address of pod 0, when all are there. Raises TransientError CoordinatorUnreachable, ArtifactError."""
        began = time.monotonic()
        while True:
            try:
                address = self._pod.coordinator or self._find()
                gathering.join(address, self._port, self._gang, self._pod.node_rank, self._welcome)
                return address
            except NotYet as problem:
                self._wait_on(problem)
            shortest, longest = AGAIN
            time.sleep(min(max((time.monotonic() - began) / 10, shortest), longest))

    def _find(self) -> str:
        assert self._place is not None
        address, written = self._place.read()
        self._first = self._first or written
        if written != self._first:
            self._stuck = self._stuck or time.monotonic()
        return address

    def _wait_on(self, problem: NotYet) -> None:
        if self._place is None or isinstance(problem, Away):  # nobody else says whether a host known beforehand lives
            self._stuck = self._stuck or time.monotonic()
        if self._stuck is None:
            self._say(str(problem), f"waiting for pod 0: {problem}")
            return
        left = self._stuck + self._patience - time.monotonic()
        if left <= 0:
            raise TransientError(
                "CoordinatorUnreachable",
                f"pod 0 could not be joined within {self._patience:.0f} s: {problem}; see whether a NetworkPolicy "
                f"keeps the gang's pods apart (port {self._port} of pod 0)",
            ) from problem
        self._say(str(problem), f"waiting for pod 0, {left:.0f} s at most: {problem}")

    def _welcome(self, there: int) -> None:
        self._first = self._stuck = None  # if it goes away now, who knows whether another one comes
        self._say(there, f"{there} of {self._pod.nodes} pods are there; waiting for the others")

    def _say(self, what: object, line: str) -> None:
        """A line where there is something new."""
        if what != self._told:
            self._told = what
            log.info(line)
