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
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from instructbooth.artifacts.access import open_store
from instructbooth.artifacts.errors import ArtifactError, BucketNotFound, EndpointUnreachable, ObjectMissing
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import Port
from instructbooth_trainer.runtime import gathering
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.errors import TransientError
from instructbooth_trainer.runtime.gathering import NotYet
from instructbooth_trainer.runtime.listening import listen
from instructbooth_trainer.runtime.progress import ProgressReporter, RunLabels

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds for a pod 0 that lives and cannot be joined, and for storage that does not answer
REWRITE = 30.0  # seconds after which pod 0 writes its address anew
AGAIN = (1.0, 15.0)  # seconds between two tries: the longer one has waited, the longer


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
        """The address, and all that was written with it. Raises NotYet, ArtifactError."""
        try:
            written = self.store.get_bytes(self.key)
            return str(json.loads(written)["address"]), written
        except (ValueError, KeyError, TypeError) as error:
            raise NotYet(f"{self.store.url(self.key)} holds no address ({error!r})") from error
        except ObjectMissing:
            raise NotYet("it has not said where it is") from None
        except BucketNotFound as error:
            if self.create_bucket:  # pod 0 makes it
                raise NotYet(error.message) from error
            raise


def meet(pod: PodEnvironment, env: Mapping[str, str], patience: float = PATIENCE) -> str:
    """Returns when every pod of the gang is there: the address at which rank 0 soon listens.

    Raises TransientError CoordinatorUnreachable, ArtifactError; OSError if the port is taken.
    """
    if pod.nodes == 1:
        return "localhost"
    port = int(env.get("MASTER_PORT") or Port.COORDINATOR)
    labels = RunLabels(pod.job.namespace, pod.job.name, pod.stage, pod.attempt)
    place = None if pod.coordinator else Place.of(pod, env)
    if pod.node_rank == 0:
        _gather(pod, labels, port, place)
        return "localhost"  # rank 0 listens on all addresses
    return _Caller(pod, labels.gang, port, place, patience).join()


class _Writer:
    """Pod 0 says where it is, again and again, in a thread: storage that hangs must not keep it from its callers."""

    def __init__(self, place: Place, address: str | None) -> None:
        """Writes it for the first time. Raises ArtifactError."""
        self._place, self._address = place, address
        self._failed: Exception | None = None
        self._over = threading.Event()
        place.write(address, 0)
        self._written = time.monotonic()
        threading.Thread(target=self._go_on, name="rendezvous", daemon=True).start()

    def check(self) -> None:
        """Raises if the others cannot know any more that this pod lives: what storage said last.

        Whatever it says after it has once said yes is borne for a while: one odd answer in hours is nobody's mistake.
        """
        if time.monotonic() - self._written > REWRITE + PATIENCE:
            raise self._failed or EndpointUnreachable(f"{self._place.store.url(self._place.key)}: no answer to a write")

    def stop(self) -> None:
        """The gang is there."""
        self._over.set()

    def _go_on(self) -> None:
        times = 1
        while not self._over.wait(REWRITE):
            try:
                self._place.write(self._address, times)
            except Exception as error:  # noqa: BLE001 - a thread that ends would look like a pod that is gone
                log.warning("the address cannot be written anew: %s", error)
                self._failed = error
            else:
                self._written, times = time.monotonic(), times + 1


def _gather(pod: PodEnvironment, labels: RunLabels, port: int, place: Place | None) -> None:
    """In pod 0: return when all are there. The operator can see meanwhile that it lives."""
    progress = ProgressReporter(labels)
    with ExitStack() as stack:
        listener = stack.enter_context(listen(port))
        if not pod.local:
            progress.serve(Port.METRICS)
            stack.callback(progress.close)
        writer = _Writer(place, pod.address) if place else None
        if writer:
            stack.callback(writer.stop)
        asyncio.run(gathering.host(labels.gang, pod.nodes, listener, writer.check if writer else lambda: None))


class _Caller:
    """Another pod, which tries to join pod 0."""

    def __init__(self, pod: PodEnvironment, gang: str, port: int, place: Place | None, patience: float) -> None:
        self._pod, self._gang, self._port, self._place, self._patience = pod, gang, port, place, patience
        self._written: bytes | None = None  # what was read last
        self._changed = float("-inf")  # when that was something new
        self._lives: float | None = None  # since when pod 0 has lived, and could not be joined
        self._away: float | None = None  # since when storage has not answered
        self._answered = False  # whether it ever has
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
        try:
            address, written = self._place.read()
        except NotYet:
            self._away, self._answered = None, True
            raise
        except ArtifactError as error:
            now = time.monotonic()
            self._away = self._away or now
            # One odd answer in hours is nobody's mistake; one at the beginning may be.
            borne = error.retryable or self._answered
            if not borne or now - self._away >= self._patience:
                raise
            raise NotYet(error.message) from error
        self._away, self._answered = None, True
        if written != self._written:
            if self._written is not None:
                self._changed = time.monotonic()
            self._written = written
        return address

    def _wait_on(self, problem: NotYet) -> None:
        now = time.monotonic()
        # Nobody says of a host that is known beforehand whether it lives: it is taken for granted.
        lives = self._place is None or now - self._changed < 3 * REWRITE
        self._lives = (self._lives or now) if lives else None
        if self._lives is None:
            self._say(str(problem), f"waiting for pod 0: {problem}")
            return
        left = self._lives + self._patience - now
        if left <= 0:
            raise TransientError(
                "CoordinatorUnreachable",
                f"pod 0 could not be joined within {self._patience:.0f} s: {problem}; see whether a NetworkPolicy "
                f"keeps the gang's pods apart (port {self._port} of pod 0)",
            ) from problem
        self._say(str(problem), f"waiting for pod 0, {left:.0f} s at most: {problem}")

    def _welcome(self, there: int) -> None:
        self._lives, self._changed = None, float("-inf")  # if it goes away now, who knows whether another one comes
        self._say(there, f"{there} of {self._pod.nodes} pods are there; waiting for the others")

    def _say(self, what: object, line: str) -> None:
        """A line where there is something new."""
        if what != self._told:
            self._told = what
            log.info(line)
