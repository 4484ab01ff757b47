"""How the pods of a gang find rank 0: it writes its address below the attempt's prefix, and the others read it there.

Object storage is what every pod of a gang needs anyhow, so that no Service and no DNS name is needed beside it
(docs/decisions/0030-no-service.md). What is read there may be old: an attempt that was suspended and goes on finds the
address of its former rank 0, which may be another gang's by now, or still save its checkpoint. So whoever reads one
first asks there who it is, and whether its gang still waits for somebody.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
from collections.abc import Callable, Mapping

from instructbooth.artifacts.access import open_store
from instructbooth.artifacts.errors import ArtifactError, BucketNotFound, ObjectMissing
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import FORMING_HEADER, GANG_HEADER, Port
from instructbooth.reconcile.names import child_name, gang_name
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.errors import TransientError

log = logging.getLogger(__name__)

PATIENCE = 300.0  # seconds for which the others wait for rank 0
AGAIN = 1.0  # seconds between two tries
CONNECT = 5.0  # seconds that a connection may take


class NotYet(Exception):
    """Rank 0 cannot be joined now: why."""


def meet(pod: PodEnvironment, env: Mapping[str, str], patience: float = PATIENCE) -> str:
    """Address at which rank 0 listens or soon will. In pod 0: say where it is, and go on.

    Raises TransientError CoordinatorUnreachable, ArtifactError.
    """
    port = int(env.get("MASTER_PORT") or Port.COORDINATOR)
    found = pod.coordinator
    if pod.nodes > 1 and found is None:
        store, key = open_store(pod.job.spec.artifacts, env), RunLayout.of(pod.job).rendezvous(pod.stage, pod.attempt)
        if pod.node_rank == 0:
            store.ensure_bucket(create=pod.job.spec.artifacts.create_bucket)
            store.put_bytes(key, json.dumps({"address": pod.address}).encode())
    if pod.node_rank == 0:
        return "localhost"  # rank 0 listens on all addresses

    def join() -> str:
        address = found or read(store, key, create_bucket=pod.job.spec.artifacts.create_bucket)
        if found is None:
            check(address, gang_name(pod.job.namespace, child_name(pod.job.name, pod.stage, pod.attempt)))
        knock(address, port)
        return address

    return _wait(join, patience, port)


def read(store: ObjectStore, key: str, *, create_bucket: bool = False) -> str:
    """The address that rank 0 wrote. Raises NotYet, ArtifactError if waiting cannot help."""
    try:
        return str(json.loads(store.get_bytes(key))["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotYet(f"{store.url(key)} holds no address ({error!r})") from error
    except ObjectMissing:
        raise NotYet("it has not said where it is") from None
    except ArtifactError as error:
        if error.retryable or (create_bucket and isinstance(error, BucketNotFound)):
            raise NotYet(error.message) from error
        raise


def check(address: str, gang: str, port: int = Port.METRICS) -> None:
    """Ask who is at that address. Raises NotYet if it is not rank 0 of this gang, or waits for nobody any more."""
    connection = http.client.HTTPConnection(address, port, timeout=CONNECT)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise NotYet(f"{address}, port {port}, does not answer ({error})") from error
    finally:
        connection.close()
    if (who := answer.getheader(GANG_HEADER)) != gang:
        raise NotYet(f"at {address} it is {who or 'something else'} that answers")
    if answer.getheader(FORMING_HEADER) != "true":
        raise NotYet(f"the gang of {address} is complete: it is a former one, whose pods have not gone yet")


def knock(host: str, port: int) -> None:
    """Raises NotYet unless somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=CONNECT).close()
    except socket.gaierror as error:
        raise NotYet(f"the name {host} does not resolve ({error})") from error
    except OSError as error:
        raise NotYet(f"{host}, port {port}, does not answer ({error})") from error


def _wait(join: Callable[[], str], patience: float, port: int) -> str:
    deadline = time.monotonic() + patience
    told = ""
    while True:
        try:
            return join()
        except NotYet as problem:
            if str(problem) != told:
                told = str(problem)
                log.warning("waiting for pod 0, %.0f s at most: %s", max(0.0, deadline - time.monotonic()), told)
            if time.monotonic() >= deadline:
                raise TransientError(
                    "CoordinatorUnreachable",
                    f"pod 0 could not be reached within {patience:.0f} s: {problem}; see whether pod 0 runs, and "
                    f"whether a NetworkPolicy keeps the gang's pods apart (ports {port} and {int(Port.METRICS)})",
                ) from problem
        time.sleep(AGAIN)
