"""Endpoints that only pods can resolve, and the child process that leads to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from instructbooth.cli import forward
from instructbooth.cli.forward import Service, in_cluster_service, port_forward
from instructbooth.cli.output import CliError

SERVICES = {("minio", "storage"), ("minio", "ns")}


def resolve(endpoint: str, env: dict[str, str] | None = None) -> Service | None:
    return in_cluster_service(endpoint, "ns", lambda name, namespace: (name, namespace) in SERVICES, env or {})


@pytest.mark.parametrize(
    ("endpoint", "service"),
    [
        ("http://minio.storage.svc:9000", Service("minio", "storage", 9000)),
        ("https://a.b.svc.cluster.local", Service("a", "b", 443)),
        ("http://a.b.svc.corp.example.", Service("a", "b", 80)),
        ("http://minio.storage:9000", Service("minio", "storage", 9000)),
        ("http://minio", Service("minio", "ns", 80)),
    ],
)
def test_services(endpoint, service):
    assert resolve(endpoint) == service


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://s3.eu-central-1.amazonaws.com",
        "https://example.com",
        "http://localhost:9000",
        "http://127.0.0.1:9000",
        "http://[::1]:9000",
        "http://minio-of-mine",
    ],
)
def test_hosts_of_the_outside_world(endpoint):
    assert resolve(endpoint) is None


def test_inside_of_a_pod_nothing_is_forwarded():
    assert resolve("http://minio.storage.svc:9000", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A stand-in that writes its pid and arguments, then does as told."""

    def make(script: str) -> Path:
        path = tmp_path / "kubectl"
        path.write_text(f'#!/bin/sh\necho "$$ $@" > {tmp_path}/called\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("KUBECTL", str(path))
        return tmp_path / "called"

    return make


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


SERVICE = Service("minio", "storage", 9000)
LISTENS = "echo 'Forwarding from 127.0.0.1:41234 -> 9000'; exec sleep 60"


def test_address_and_end_of_the_child(kubectl):
    called = kubectl(LISTENS)
    with port_forward(SERVICE, "ctx") as address:
        assert address == "127.0.0.1:41234"
        pid, *args = called.read_text().split()
        assert alive(int(pid))
    assert args == ["--context", "ctx", "port-forward", "--address", "127.0.0.1", "-n", "storage", "svc/minio", ":9000"]
    assert not alive(int(pid))


def test_child_ends_when_the_block_fails(kubectl):
    called = kubectl(LISTENS)
    with pytest.raises(RuntimeError), port_forward(SERVICE, None):
        raise RuntimeError
    assert not alive(int(called.read_text().split()[0]))


def test_child_that_ignores_sigterm_is_killed(kubectl, monkeypatch):
    monkeypatch.setattr(forward, "STOP_TIMEOUT", 0.2)
    called = kubectl("trap '' TERM; echo 'Forwarding from 127.0.0.1:1 -> 9000'; while :; do sleep 0.1; done")
    with port_forward(SERVICE, None):
        pass
    assert not alive(int(called.read_text().split()[0]))


def test_failing_kubectl_is_quoted(kubectl):
    kubectl("echo 'services \"minio\" not found' >&2; exit 1")
    with pytest.raises(CliError, match=r'minio\.storage ended with 1: services "minio" not found'):
        port_forward(SERVICE, None).__enter__()


def test_silent_kubectl_is_given_up(kubectl, monkeypatch):
    monkeypatch.setattr(forward, "READY_TIMEOUT", 0.3)
    called = kubectl("exec sleep 60")
    with pytest.raises(CliError, match="not ready"):
        port_forward(SERVICE, None).__enter__()
    assert not alive(int(called.read_text().split()[0]))


def test_no_kubectl_is_an_error(monkeypatch):
    monkeypatch.delenv("KUBECTL", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CliError, match="kubectl is needed"):
        port_forward(SERVICE, None).__enter__()


def test_sigterm_to_the_command_ends_the_child(kubectl):
    called = kubectl(LISTENS)
    code = (
        "import time; from instructbooth.cli.forward import *\n"
        "with port_forward(Service('a', 'b', 1), None): print('ready', flush=True); time.sleep(60)"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert command.stdout is not None
    assert command.stdout.readline() == b"ready\n"
    command.terminate()
    assert command.wait(10) == 143
    command.stdout.close()
    pid, end = int(called.read_text().split()[0]), time.monotonic() + 5
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)
