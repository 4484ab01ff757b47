from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.operator.bench import Bench, Operator, Rank0
from tests.integration.operator.plane import ControlPlane, running

NAMES = iter(range(1000))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane, with the CRD and the rights that the chart gives the operator."""
    with running(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture
def bench(plane: ControlPlane) -> Iterator[Bench]:
    """A namespace of the test's own; nobody else's jobs are in it. What is left there is shown when the test fails."""
    name = add_namespace(plane)
    yield Bench(plane, name)
    for path in ("apis/instructbooth.io/v1alpha1/{}/instructboothjobs", "apis/batch/v1/{}/jobs", "api/v1/{}/pods"):
        for item in plane.request("GET", "/" + path.format(f"namespaces/{name}"))["items"]:
            meta = {key: item["metadata"].get(key) for key in ("name", "deletionTimestamp", "finalizers")}
            print(json.dumps(meta | {"status": item.get("status")}))


def add_namespace(plane: ControlPlane) -> str:
    """A new namespace; restricted, as careful clusters have it: no pod of ours may need more."""
    name = f"lab-{next(NAMES)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    plane.wait("its service account", lambda: _has_account(plane, name))
    return name


def _has_account(plane: ControlPlane, namespace: str) -> bool:
    accounts = plane.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts")["items"]
    return any(account["metadata"]["name"] == "default" for account in accounts)


@pytest.fixture
def rank0() -> Iterator[Rank0]:
    served = Rank0()
    yield served
    served.close()


@pytest.fixture
def operator(bench: Bench, rank0: Rank0, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """A running operator for the namespace; what it logged is shown when the test fails."""
    process = Operator(bench.plane, bench.namespace, rank0.url)
    try:
        process.start()
        yield process
    finally:
        if process.process is not None:
            process.kill()
        print(_tail(process.log))


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-60:])
