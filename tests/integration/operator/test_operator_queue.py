"""Jobs in a queue, against a real API server and Job controller. The test plays Kueue: it lets go and stops."""

from __future__ import annotations

import pytest

from instructbooth.contract import ExitCode, Outcome, Stage
from instructbooth.spec.status import Phase, Restarts, StageState
from tests.integration.operator.bench import MERGE, Bench, Operator, terminated_status
from tests.integration.operator.plane import ControlPlane, JsonObject, Refused
from tests.integration.operator.test_operator_process import E1, P1, R1, R2
from tests.unit.reconcile.world import success

pytestmark = pytest.mark.cluster

GROUP = "kueue.x-k8s.io"
PENDING = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 1 more needed"
PREEMPTED = "Preempted to accommodate a workload (UID: 1) due to prioritization in the ClusterQueue"
STRICT = {"queueName": "team", "backoffLimit": 0, "disruptionLimit": 0, "activeDeadlineSeconds": 3600}


class Kueue:
    """What Kueue does to a child Job, and what it says of it."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.plane = bench, bench.plane
        self.jobs = f"/apis/batch/v1/namespaces/{bench.namespace}/jobs"
        self.workloads = f"/apis/{GROUP}/v1beta1/namespaces/{bench.namespace}/workloads"

    def release(self, child: str) -> None:
        self.plane.wait(f"{child} to be made", lambda: child in self.bench.children())
        self.plane.request("PATCH", f"{self.jobs}/{child}", {"spec": {"suspend": False}}, MERGE)

    def stop(self, child: str) -> None:
        self.plane.request("PATCH", f"{self.jobs}/{child}", {"spec": {"suspend": True}}, MERGE)
        self.plane.request("PATCH", f"{self.jobs}/{child}/status", {"status": {"startTime": None}}, MERGE)

    def say(self, child: str, reason: str, message: str) -> None:
        """Make a Workload for the child, or change what it says."""
        meta = {"name": f"job-{child}", "labels": {f"{GROUP}/job-uid": self.bench.children()[child]["metadata"]["uid"]}}
        said = {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
        workload = {
            "apiVersion": f"{GROUP}/v1beta1",
            "kind": "Workload",
            "metadata": {**meta, "namespace": self.bench.namespace},
            "status": {"conditions": [said]},
        }
        self.plane.apply(f"{self.workloads}/{meta['name']}", workload)

    def queued(self, words: str) -> None:
        """Wait until the job says that it is queued, with these words."""

        def said() -> bool:
            found = self.bench.condition("Queued")
            return found is not None and found.status == "True" and words in found.message

        self.plane.wait(f"Queued: {words}", said)


def define_workloads(plane: ControlPlane) -> None:
    """The kind Workload, as far as the operator reads it. (Kueue's own is used by `make e2e-kueue`.)"""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    definition: JsonObject = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"workloads.{GROUP}", "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": "Workload", "plural": "workloads", "singular": "workload"},
            "versions": [version],
        },
    }
    plane.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workloads.{GROUP}", definition)

    def served() -> bool:
        try:
            plane.request("GET", f"/apis/{GROUP}/v1beta1/workloads?limit=1")
        except Refused:
            return False
        return True

    plane.wait("Workloads to be served", served)


@pytest.fixture
def kueue(bench: Bench) -> Kueue:
    return Kueue(bench)


def test_kueue_comes_later_says_why_and_stops_a_gang(bench: Bench, operator: Operator, kueue: Kueue) -> None:
    bench.submit(runPolicy=STRICT)
    kueue.queued("install Kueue")
    status = bench.status()
    assert (status.phase, status.stages[0].state, status.active_since) == (Phase.QUEUED, StageState.WAITING, None)
    assert not bench.pods(P1)
    define_workloads(bench.plane)
    kueue.queued("Kueue has made no Workload")
    kueue.say(P1, "Pending", PENDING)
    kueue.queued(PENDING)
    assert not bench.is_true("Blocked")
    kueue.release(P1)
    bench.run(P1, 1)
    bench.plane.wait("Personalizing", lambda: bench.status().phase is Phase.PERSONALIZING)
    assert bench.status().active_since is not None
    assert not bench.is_true("Queued")
    bench.end(P1, 0, success(Stage.PERSONALIZE))
    # In the middle of the next stage it is stopped, and goes on.
    kueue.release(R1)
    bench.run(R1, 2)
    bench.plane.wait("Reinforcing", lambda: bench.status().phase is Phase.REINFORCING)
    kueue.say(R1, "Preempted", PREEMPTED)
    kueue.stop(R1)
    kueue.queued(PREEMPTED)
    bench.plane.wait("the pods to go", lambda: not bench.pods(R1))
    assert bench.status().active_since is None
    kueue.release(R1)
    bench.run(R1, 2)
    bench.end(R1, 0, success(Stage.REINFORCE), count=2)
    kueue.release(E1)
    bench.run(E1, 1)
    bench.end(E1, 0, success(Stage.EVALUATE))
    bench.wait_true("Succeeded")
    assert [(stage.attempt, stage.restarts) for stage in bench.status().stages] == [(1, Restarts())] * 3
    assert "GangRestarted" not in bench.events()


def test_a_gang_that_is_seen_to_save_while_it_is_stopped_waits_on_uncharged(
    bench: Bench, operator: Operator, kueue: Kueue
) -> None:
    """The Job controller sees an exit code before the pod is gone, and gives the Job up: with pods on nodes it may."""
    bench.submit(runPolicy=STRICT)
    kueue.release(P1)
    bench.run(P1, 1)
    bench.end(P1, 0, success(Stage.PERSONALIZE))
    kueue.release(R1)
    bench.bind(R1, 2)
    bench.run(R1, 2)
    bench.plane.wait("Reinforcing", lambda: bench.status().phase is Phase.REINFORCING)
    kueue.stop(R1)
    going = bench.plane.wait(
        "the pods to be asked", lambda: [p for p in bench.pods(R1) if asked(p)][1:] and bench.pods(R1)
    )
    # Rank 1 notices that rank 0 is gone before it is asked itself, or so it looks.
    for pod, code in zip(going, (ExitCode.CHECKPOINTED, ExitCode.TRANSIENT), strict=True):
        path = f"/api/v1/namespaces/{bench.namespace}/pods/{pod['metadata']['name']}"
        bench.plane.request("PATCH", f"{path}/status", {"status": terminated_status(code, "")}, MERGE)
    bench.plane.wait(
        "the Job to be given up", lambda: "FailureTarget" in str(bench.children().get(R1, "FailureTarget"))
    )
    for pod in going:
        path = f"/api/v1/namespaces/{bench.namespace}/pods/{pod['metadata']['name']}"
        bench.plane.request("DELETE", path, {"gracePeriodSeconds": 0})
    bench.plane.wait("the next attempt", lambda: bench.status().stages[1].attempt == 2)
    status = bench.status()
    assert (status.phase, status.active_since) == (Phase.QUEUED, None)
    assert (status.stages[1].restarts, status.stages[1].failure) == (Restarts(), None)
    kueue.release(R2)
    bench.run(R2, 2)
    bench.end(R2, 1, Outcome("Broken", "a failure of its own"), rank=0, count=2)
    assert bench.wait_true("Failed").reason == "BackoffLimitExceeded"


def asked(pod: JsonObject) -> bool:
    """Whether the pod was asked to go."""
    return "deletionTimestamp" in pod["metadata"]


def test_the_queue_s_priority_needs_a_queue(bench: Bench, operator: Operator) -> None:
    with pytest.raises(Refused, match="workloadPriorityClassName"):
        bench.submit(runPolicy={"workloadPriorityClassName": "urgent"})
    bench.submit(runPolicy={"queueName": "team", "workloadPriorityClassName": "urgent"})
    bench.plane.wait("the child", lambda: P1 in bench.children())
    labels = bench.children()[P1]["metadata"]["labels"]
    assert (labels[f"{GROUP}/queue-name"], labels[f"{GROUP}/priority-class"]) == ("team", "urgent")
