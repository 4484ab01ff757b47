"""Nodes that answer nobody: what their pods show, who is charged, and how the gang gets away from them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from instructbooth.contract import PEER_LOST, ExitCode, Stage
from instructbooth.reconcile.actions import DeleteChild, ForgetPod
from instructbooth.reconcile.observed import ChildFailure, ChildJob, Evidence, Exit, Pod
from instructbooth.reconcile.policies.node_loss import holds_up, seconds_to_look
from instructbooth.reconcile.policies.retry import Cause, diagnose, undecided
from instructbooth.spec.status import Failure, Restarts, StageState
from tests.unit.reconcile.test_plan import P1, R1, R2, through
from tests.unit.reconcile.world import START, World, after, job_object

VICTIM = f'{{"reason": "{PEER_LOST}", "message": "gloo"}}'


def pod_object(phase: str, ready: str, containers: str) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-23T09:00:40Z"},
        {"type": "ContainersReady", "status": containers, "lastTransitionTime": "2026-11-23T09:00:00Z"},
    ]
    meta = {
        "name": "p1",
        "uid": "u1",
        "deletionTimestamp": "2026-11-23T09:06:40Z",
        "deletionGracePeriodSeconds": 60,
        "annotations": {"batch.kubernetes.io/job-completion-index": "1"},
    }
    return {"metadata": meta, "spec": {"nodeName": "n1"}, "status": {"phase": phase, "conditions": conditions}}


@pytest.mark.parametrize(
    ("phase", "ready", "containers", "lost"),
    [
        ("Running", "False", "True", True),
        ("Running", "True", "True", False),
        ("Running", "False", "False", False),  # its container is not ready: the kubelet said so itself
        ("Failed", "False", "True", False),
        ("Pending", "False", "False", False),
    ],
)
def test_a_pod_itself_shows_that_its_node_is_silent(phase: str, ready: str, containers: str, lost: bool) -> None:
    pod = Pod.from_object(pod_object(phase, ready, containers))
    assert pod.unreachable == (after(40) if lost else None)
    assert (pod.node, pod.uid) == ("n1", "u1")
    assert pod.deletion_asked == after(340)


@pytest.mark.parametrize(("seconds", "astray"), [(0, False), (429, False), (430, True)])
def test_a_pod_is_astray_half_a_minute_past_its_grace(seconds: int, astray: bool) -> None:
    assert Pod.from_object(pod_object("Running", "False", "True")).astray(after(seconds)) is astray


SURVIVOR = Pod("p0", 0, "Failed", exit=Exit(ExitCode.TRANSIENT, "Error", VICTIM, after(2)))
LOST = Pod("p1", 1, "Running", unreachable=after(45), node="n1")
SILENT = Pod("p1", 1, "Running", deletion_asked=after(2))


@pytest.mark.parametrize(
    ("pods", "cause", "rank", "reason"),
    [
        pytest.param([SURVIVOR, LOST], Cause.DISRUPTION, 1, "NodeLost", id="survivors noticed first"),
        pytest.param(
            [replace(LOST, disrupted=after(340), deletion_asked=after(340))],
            Cause.DISRUPTION,
            1,
            "NodeLost",
            id="evicted from a silent node",
        ),
        pytest.param(
            [Pod("p0", 0, "Failed", exit=Exit(1, "Error", "", after(2))), LOST],
            Cause.FAILURE,
            0,
            "TrainerFailed",
            id="a rank that failed of itself before",
        ),
        pytest.param([SURVIVOR, SILENT], Cause.FAILURE, 0, "PeerLost", id="nothing known of the other"),
    ],
)
def test_who_is_charged(pods: list[Pod], cause: Cause, rank: int, reason: str) -> None:
    found = diagnose(1, ChildFailure("PodFailurePolicy", "", after(3)), Evidence(tuple(pods)))
    assert (found.cause, found.failure.rank, found.failure.reason) == (cause, rank, reason)
    if reason == "NodeLost":
        assert found.failure.message == "the node n1 of rank 1 answers nobody since 2026-11-23T09:00:45Z"


@pytest.mark.parametrize(
    ("pods", "open_question"),
    [
        ([SURVIVOR, SILENT], True),
        ([SURVIVOR, LOST], False),
        ([SURVIVOR, replace(SURVIVOR, rank=1)], False),
        ([SURVIVOR, Pod("p1", 1, "Failed", exit=Exit(137, "Error", "", after(2)))], False),
        ([Pod("p0", 0, "Failed", exit=Exit(1, "Error", "", after(2))), SILENT], False),
        ([SURVIVOR, replace(SILENT, disrupted=after(1))], False),
        ([SILENT], False),
        ([], False),
    ],
)
def test_victims_alone_leave_the_question_open(pods: list[Pod], open_question: bool) -> None:
    assert undecided(Evidence(tuple(pods))) is open_question


@pytest.mark.parametrize(
    ("age", "reason", "seconds"),
    [
        pytest.param(10, "Error", 80, id="its grace and the kubelet's time to say so"),
        pytest.param(80, "Error", 10, id="nearly"),
        pytest.param(90, "Error", 0, id="now"),
        pytest.param(1000, None, 0, id="long ago"),
        pytest.param(None, None, 90, id="it is not known since when"),
        pytest.param(10, "NodeLost", 0, id="nobody waits for a lost node's kubelet"),
    ],
)
def test_when_to_look_for_pods_that_are_astray(age: float | None, reason: str | None, seconds: float) -> None:
    child = ChildJob(R1, Stage.REINFORCE, 1, 2, START, deleting=True, deleted=None if age is None else after(-age))
    failure = None if reason is None else Failure(attempt=1, reason=reason, message="")
    assert seconds_to_look(child, failure, START) == seconds


@pytest.mark.parametrize(
    ("due", "phase", "code", "held_up"),
    [
        pytest.param(-30, "Running", None, True, id="nobody says that it is gone"),
        pytest.param(-29, "Running", None, False, id="its kubelet may still say so"),
        pytest.param(None, "Running", None, False, id="nobody wants it gone"),
        pytest.param(-900, "Succeeded", 0, False, id="it has succeeded and was collected"),
        pytest.param(-900, "Failed", 1, False, id="it has failed"),
        pytest.param(-900, "Running", 0, True, id="its container has ended, and nobody says that the pod has"),
    ],
)
def test_which_pods_hold_a_gang_up(due: float | None, phase: str, code: int | None, held_up: bool) -> None:
    exit = None if code is None else Exit(code, "", "", START)
    pod = Pod("p1", 1, phase, exit=exit, deletion_due=None if due is None else after(due))
    assert holds_up(Evidence((Pod("p0", 0, "Running"), pod)), START) is held_up


def test_a_gang_whose_finished_pods_are_collected_before_they_are_counted_goes_on(world: World) -> None:
    """The pod garbage collector does not wait for a Job controller that is busy."""
    done = Pod("p0", 0, "Succeeded", exit=Exit(0, "Completed", "", world.now), deletion_due=world.now)
    world.change(R1, ready=0)
    world.evidence[R1] = Evidence((done, replace(done, name="p1", rank=1)))
    world.wait(600)
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (stage.state, stage.restarts) == (StageState.RUNNING, Restarts())
    world.complete(R1)
    world.settle()
    assert world.stage(Stage.REINFORCE).state is StageState.SUCCEEDED


@pytest.fixture
def world() -> World:
    """Reinforcement runs on two nodes."""
    made = through(World(job_object()), P1)
    made.run(R1)
    made.settle()
    return made


def test_the_verdict_waits_for_the_node_controller(world: World) -> None:
    world.end(R1, replace(SURVIVOR, exit=Exit(75, "Error", VICTIM, world.now)), Pod("p1", 1, "Running"))
    assert world.reconcile().requeue_after == 10
    assert world.stage(Stage.REINFORCE).state is StageState.RUNNING
    world.wait(45)
    lost = Pod("p1", 1, "Running", unreachable=world.now, node="n1", uid="u1")
    world.evidence[R1] = Evidence((world.evidence[R1].pods[0], lost))
    world.reconcile()
    stage = world.stage(Stage.REINFORCE)
    assert (stage.state, stage.restarts) == (StageState.RESTARTING, Restarts(disruptions=1))
    assert stage.failure is not None
    assert stage.failure.reason == "NodeLost"


def test_where_nothing_comes_to_light_the_verdict_falls_all_the_same(world: World) -> None:
    world.end(R1, replace(SURVIVOR, exit=Exit(75, "Error", VICTIM, world.now)), Pod("p1", 1, "Running"))
    world.wait(119)
    world.settle()
    assert world.stage(Stage.REINFORCE).restarts == Restarts()
    world.wait(1)
    world.reconcile()
    assert world.stage(Stage.REINFORCE).restarts == Restarts(failures=1)


def test_an_evicted_pod_that_never_ends_is_removed_and_the_gang_starts_anew(world: World) -> None:
    """The node died; after five minutes its pod was to be evicted; nobody can say that it is gone."""
    stuck = Pod("p1", 1, "Running", unreachable=world.now, node="n1", uid="u1")
    stuck = replace(stuck, deletion_asked=world.now, deletion_due=world.now + timedelta(seconds=60))
    world.change(R1, ready=1)
    world.evidence[R1] = Evidence((Pod("p0", 0, "Running"), stuck))
    world.wait(89)
    world.settle()
    assert world.stage(Stage.REINFORCE).state is StageState.RUNNING
    world.wait(1)
    assert world.reconcile().actions == ()  # written first
    stage = world.stage(Stage.REINFORCE)
    assert (stage.state, stage.restarts) == (StageState.RESTARTING, Restarts(disruptions=1))
    assert world.reconcile().actions == (DeleteChild(R1),)
    assert world.reconcile().actions == (ForgetPod("p1", "u1"),)
    world.settle()
    assert world.launched[-1] == R2


def test_a_pod_that_ended_since_it_was_looked_at_is_not_astray(world: World) -> None:
    stuck = Pod("p1", 1, "Running", node="n1", uid="u1", deletion_asked=world.now, deletion_due=world.now)
    world.change(R1, ready=1)
    world.late[R1] = Evidence((Pod("p0", 0, "Running"), stuck))
    world.evidence[R1] = Evidence((Pod("p0", 0, "Running"),))
    world.wait(90)
    world.settle()
    assert world.stage(Stage.REINFORCE).state is StageState.RUNNING


def test_a_deletion_that_hangs_is_looked_into_when_every_grace_is_over(world: World) -> None:
    world.fail(R1, 1)
    world.settle()
    world.wait(5)
    world.reconcile()
    assert world.children[R1].deleting
    left = Pod("p1", 1, "Running", uid="u1", deletion_asked=world.now, deletion_due=world.now + timedelta(seconds=60))
    world.evidence[R1] = Evidence((left,))
    assert world.plan().requeue_after == 90
    world.wait(90)
    assert world.reconcile().actions == (ForgetPod("p1", "u1"),)
    world.settle()
    assert world.launched[-1] == R2
    assert world.stage(Stage.REINFORCE).restarts == Restarts(failures=1)
