"""Reaching a Service from outside of the cluster: a `kubectl port-forward` that ends with the command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from urllib.parse import urlsplit

from instructbooth.cli.output import CliError

READY_TIMEOUT = 30.0  # seconds until kubectl says that it listens
STOP_TIMEOUT = 5.0
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # what a Service can be called; no address
_LISTENS = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


@dataclass(frozen=True)
class Service:
    """A Service and the port that an endpoint names."""

    name: str
    namespace: str
    port: int


def in_cluster_service(
    endpoint: str, namespace: str, exists: Callable[[str, str], bool], env: dict[str, str] | None = None
) -> Service | None:
    """The Service an endpoint names if only pods can resolve it, else None.

    `name.namespace.svc[.cluster.local]` says so itself. `name` and `name.namespace` might be hosts of the outside:
    the cluster is asked.

    Args:
        endpoint: `http[s]://host[:port]`.
        namespace: that a bare `name` is looked up in.
        exists: (name, namespace) -> whether there is such a Service.
        env: os.environ; inside of a pod every endpoint is reachable as it is.
    """
    if "KUBERNETES_SERVICE_HOST" in (os.environ if env is None else env):
        return None
    url = urlsplit(endpoint)
    labels = (url.hostname or "").rstrip(".").split(".")
    port = url.port or (443 if url.scheme == "https" else 80)
    if len(labels) >= 3 and labels[2] == "svc":
        return Service(labels[0], labels[1], port)
    if len(labels) > 2 or labels[0] == "localhost" or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    service = Service(labels[0], labels[1] if len(labels) == 2 else namespace, port)
    return service if exists(service.name, service.namespace) else None


@contextmanager
def port_forward(service: Service, context: str | None) -> Iterator[str]:
    """`127.0.0.1:port` that leads to the Service while the block runs. Raises CliError if kubectl cannot do it."""
    kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl")
    where = f"{service.name}.{service.namespace}"
    if not kubectl:
        raise CliError(f"{where} is a Service inside of the cluster: kubectl is needed to reach it (PATH or KUBECTL)")
    command = [kubectl, *(["--context", context] if context else []), "port-forward", "--address", "127.0.0.1"]
    command += ["-n", service.namespace, f"svc/{service.name}", f":{service.port}"]
    with tempfile.TemporaryFile() as said, _ended_by_signals():
        # A file, not a pipe: nobody would read on, and kubectl writes a line per connection.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
        try:
            yield f"127.0.0.1:{_wait_for_port(child, said.fileno(), where)}"
        finally:
            child.terminate()
            try:
                child.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_for_port(child: subprocess.Popen[bytes], said: int, where: str) -> int:
    end = time.monotonic() + READY_TIMEOUT
    while True:
        text = os.pread(said, 1 << 16, 0).decode(errors="replace")
        if found := _LISTENS.search(text):
            return int(found[1])
        if child.poll() is not None:
            raise CliError(f"kubectl port-forward to {where} ended with {child.returncode}: {text.strip()}")
        if time.monotonic() > end:
            raise CliError(f"kubectl port-forward to {where} is not ready after {READY_TIMEOUT:.0f} s: {text.strip()}")
        time.sleep(0.05)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that the child is ended and does not outlive the command."""

    def leave(signum: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
