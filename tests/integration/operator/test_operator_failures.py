"""What goes wrong with gangs, against the real API server, Job controller and garbage collector."""

from __future__ import annotations

import pytest

from instructbooth.contract import PEER_LOST, STALLED, ExitCode, Outcome, Stage
from instructbooth.spec.status import Progress, StageState
from tests.integration.operator.bench import Bench, Operator, Rank0
from tests.integration.operator.plane import Refused
from tests.integration.operator.test_operator_process import reach_reinforce, succeed
from tests.unit.reconcile.world import success

pytestmark = pytest.mark.cluster
P1, P2 = "mascot-personalize-1", "mascot-personalize-2"
R1, R2 = "mascot-reinforce-1", "mascot-reinforce-2"


def test_a_gang_whose_heartbeat_stands_still_starts_again_until_its_budget_is_spent(
    bench: Bench, operator: Operator, rank0: Rank0
) -> None:
    """The pods' own watchdog does not act here, for nobody runs in them: the operator's is the second line."""
    rank0.said["progress"] = Progress(step=7, total=10, heartbeat="2026-11-23T09:00:00Z")
    bench.submit(runPolicy={"stallTimeoutSeconds": 30, "backoffLimit": 1})
    bench.run(P1, 1)
    bench.run(P2, 1, seconds=150)
    stage = bench.status().stages[0]
    assert (stage.attempt, stage.restarts.failures, stage.restarts.disruptions) == (2, 1, 0)
    assert stage.failure is not None
    assert (stage.failure.attempt, stage.failure.reason) == (1, STALLED)
    assert "answers but has not moved" in stage.failure.message
    assert "at 7 of 10 steps" in stage.failure.message
    failed = bench.wait_true("Failed", seconds=150)
    assert failed.reason == "BackoffLimitExceeded"
    assert STALLED in failed.message
    bench.plane.wait("the gang to go", lambda: not bench.children())
    stage = bench.status().stages[0]
    assert (stage.name, stage.state, stage.restarts.failures) == (Stage.PERSONALIZE, StageState.FAILED, 1)
    assert operator.metric('instructbooth_stage_restarts_total{cause="failures",stage="personalize"}') == 1


def test_pods_of_a_lost_node_are_removed_and_the_gang_starts_elsewhere(bench: Bench, operator: Operator) -> None:
    reach_reinforce(bench, before=lambda: bench.bind(R1, 2))
    bench.lose_node(R1, rank=1)
    bench.end(R1, ExitCode.TRANSIENT, Outcome(PEER_LOST, "gloo: connection closed"), rank=0, count=1)
    bench.wait_pods(R2, 2, seconds=120)
    assert bench.pods(R1) == []  # no kubelet ever said so
    assert R1 not in bench.children()
    stage = bench.status().stages[1]
    assert (stage.attempt, stage.restarts.disruptions, stage.restarts.failures) == (2, 1, 0)
    assert stage.failure is not None
    assert (stage.failure.rank, stage.failure.reason) == (1, "NodeLost")
    assert "the node node-1 of rank 1 answers nobody since" in stage.failure.message


def test_an_image_that_cannot_be_pulled_is_told_within_half_a_minute(bench: Bench, operator: Operator) -> None:
    bench.submit()
    bench.wait_pods(P1, 1)
    bench.wait_for_pod(P1, "ImagePullBackOff", 'Back-off pulling image "registry/none:1"')
    blocked = bench.wait_true("Blocked", seconds=30)
    assert blocked.reason == "ImagePullFailed"
    assert 'ImagePullBackOff: Back-off pulling image "registry/none:1"' in blocked.message
    assert "podTemplate.image" in blocked.message


def test_a_gang_that_fits_nowhere_says_so_in_the_scheduler_s_words(bench: Bench, operator: Operator) -> None:
    bench.submit()
    bench.wait_pods(P1, 1)
    bench.unschedulable(P1, 0, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    blocked = bench.wait_true("Blocked", seconds=30)
    assert blocked.reason == "Unschedulable"
    assert "0/3 nodes are available: 3 Insufficient nvidia.com/gpu." in blocked.message


def test_a_gang_without_room_comes_back_with_the_nodes_there_are(bench: Bench, operator: Operator) -> None:
    bench.submit(reinforcement={"minNodes": 1}, runPolicy={"shrinkAfterSeconds": 15})
    succeed(bench, Stage.PERSONALIZE)
    bench.wait_pods(R1, 2)
    bench.unschedulable(R1, 1, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    bench.run(R2, 1)
    stage = bench.status().stages[1]
    assert (stage.attempt, stage.nodes, stage.restarts.failures, stage.restarts.disruptions) == (2, 1, 0, 0)
    assert stage.failure is not None
    assert stage.failure.reason == "NoRoom"
    assert "1 Insufficient nvidia.com/gpu" in stage.failure.message
    bench.end(R2, 0, success(Stage.REINFORCE))
    succeed(bench, Stage.EVALUATE)
    bench.wait_true("Succeeded")


def test_half_a_gang_gives_its_nodes_back(bench: Bench, operator: Operator) -> None:
    bench.submit(personalization={"nodes": 2}, runPolicy={"placementTimeoutSeconds": 30})
    bench.wait_pods(P1, 2)
    bench.placed(P1, 0)
    bench.unschedulable(P1, 1, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    bench.plane.wait("the gang to give way", lambda: bench.wait_true("Blocked").reason == "PartlyPlaced", 90)
    bench.plane.wait("its pods to go", lambda: not bench.pods(P1), 30)
    stage = bench.status().stages[0]
    assert (stage.attempt, stage.restarts.failures, stage.restarts.disruptions) == (1, 0, 0)
    assert stage.failure is not None
    assert stage.failure.message.startswith("1 of 2 pods found a node")


def test_what_a_quota_refuses_to_half_a_gang_is_told(bench: Bench, operator: Operator) -> None:
    """The event is about the Job: none of the pods that are there says so."""
    bench.allow_pods(1)
    bench.submit(personalization={"nodes": 2})
    bench.wait_pods(P1, 1)
    bench.placed(P1, 0)
    blocked = bench.wait_true("Blocked", seconds=90)
    assert blocked.reason == "PodsNotCreated"
    assert "exceeded quota: few" in blocked.message


def test_of_the_run_policy_all_but_the_queue_may_change(bench: Bench) -> None:
    bench.submit(runPolicy={"suspend": True})
    bench.edit({"spec": {"runPolicy": {"stallTimeoutSeconds": 60, "shrinkAfterSeconds": 60, "backoffLimit": 9}}})
    with pytest.raises(Refused, match=r"spec\.runPolicy\.queueName.*cannot be changed after creation"):
        bench.edit({"spec": {"runPolicy": {"queueName": "team"}}})
    with pytest.raises(Refused, match=r"spec\.reinforcement.*cannot be changed after creation"):
        bench.edit({"spec": {"reinforcement": {"minNodes": 1}}})
