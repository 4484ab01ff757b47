"""Two half gangs, each of which holds what the other one needs, on a scheduler that knows no gangs."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e import jobs, lab

SLOT = "example.com/slot"  # scarce, as GPUs are: one on each node
PLACED = {kind: {**jobs.RESOURCES[kind], SLOT: "1"} for kind in ("requests", "limits")}


@pytest.fixture
def give_slot():
    """Gives a node one slot; they are gone again afterwards."""
    path = f"/status/capacity/{SLOT.replace('/', '~1')}"
    given: list[str] = []

    def patch(node: str, **operation: str) -> None:
        body = json.dumps([{"path": path, **operation}])
        lab.kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", body)

    def give(node: str) -> None:
        patch(node, op="add", value="1")
        given.append(node)

    yield give
    for node in given:
        patch(node, op="remove")


@pytest.fixture
def goes_first():
    """A priority that is served first and drives nobody away."""
    lab.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "e2e-goes-first"},
            "value": 1000,
            "preemptionPolicy": "Never",
        },
        namespace="default",
    )
    yield "e2e-goes-first"
    lab.kubectl("delete", "priorityclass", "e2e-goes-first")


def gang(name: str, **changes: str) -> lab.Object:
    """A job whose first stage has two pods with a slot each, and gives way after a minute."""
    policy = {"placementTimeoutSeconds": 60, **changes}
    return jobs.small(name, personalization__nodes=2, personalization__resources=PLACED, runPolicy=policy)


def waiting(name: str, namespace: str) -> int:
    """How many of the gang's pods have found no node."""
    pods = lab.get("pods", namespace=namespace, selector=f"instructbooth.io/job={name}")
    return sum(
        any(c["reason"] == "Unschedulable" for c in p["status"].get("conditions", ()) if c.get("reason")) for p in pods
    )


def half(name: str, namespace: str) -> bool:
    """Whether one of the gang's two pods runs and the other one has found no node."""
    pods = lab.get("pods", namespace=namespace, selector=f"instructbooth.io/job={name}")
    return sorted(pod["status"]["phase"] for pod in pods) == ["Pending", "Running"]


def test_two_half_gangs_do_not_hold_each_other_up(namespace, give_slot, goes_first):
    nodes = [
        n for n in lab.get("nodes", namespace="default") if "kwok" not in n["status"]["nodeInfo"]["kubeletVersion"]
    ]
    one, other = (node["metadata"]["name"] for node in nodes[:2])
    give_slot(one)
    jobs.submit(gang("first"), namespace=namespace)
    lab.wait("half of the first gang", lambda: half("first", namespace), seconds=60)
    jobs.submit(gang("second", priorityClassName=goes_first), namespace=namespace)
    lab.wait("the second gang", lambda: waiting("second", namespace) == 2, seconds=60)
    time.sleep(3)  # until the scheduler would look at its pods again
    give_slot(other)
    lab.wait("half of both gangs", lambda: half("first", namespace) and half("second", namespace), seconds=30)
    finished = {name: lab.wait_finished(name, namespace=namespace, seconds=900) for name in ("first", "second")}
    stages = {name: lab.stage(job, "personalize") for name, job in finished.items()}
    assert {name: job["status"]["phase"] for name, job in finished.items()} == dict.fromkeys(finished, "Succeeded")
    assert all(stage["restarts"] == {"failures": 0, "disruptions": 0} for stage in stages.values())
    gave_way = [stage["failure"] for stage in stages.values() if stage["attempt"] > 1]
    assert gave_way
    assert all(failure["reason"] == "PartlyPlaced" for failure in gave_way)
    assert f"Insufficient {SLOT}" in gave_way[0]["message"]
