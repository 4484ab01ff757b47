"""runPolicy.suspend: pods go, the attempt stays, nobody is charged. And children that somebody else suspended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instructbooth.contract import ExitCode, Stage
from instructbooth.reconcile.actions import SetSuspend
from instructbooth.reconcile.observed import ChildJob, Evidence, Exit, Pod
from instructbooth.reconcile.policies import suspend
from instructbooth.reconcile.policies.retry import Cause, Diagnosis
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import Failure, Phase, Progress, Restarts, StageState, StageStatus
from tests.unit.reconcile.world import START, after, started

P1, P2 = "mascot-personalize-1", "mascot-personalize-2"
CHILD = ChildJob(P1, Stage.PERSONALIZE, 1, 2, START, started=START)
STAGE = StageStatus(name=Stage.PERSONALIZE, attempt=1, state=StageState.RUNNING)


@pytest.mark.parametrize(
    ("suspended", "by_operator", "state", "queue", "another"),
    [
        pytest.param(False, False, StageState.RUNNING, None, False, id="it runs"),
        pytest.param(True, True, StageState.SUSPENDED, None, False, id="by the operator"),
        pytest.param(True, True, StageState.RUNNING, None, False, id="by one that died before it wrote so"),
        pytest.param(True, False, StageState.SUSPENDED, None, False, id="by one of before the label"),
        pytest.param(True, False, StageState.RUNNING, None, True, id="by hand"),
        pytest.param(True, False, StageState.RUNNING, "team", True, id="by Kueue"),
        pytest.param(True, True, StageState.SUSPENDED, "team", True, id="in a queue it is Kueue's, whoever did it"),
        pytest.param(False, False, StageState.RUNNING, "team", False, id="let go by Kueue"),
    ],
)
def test_who_suspended_a_child(
    suspended: bool, by_operator: bool, state: StageState, queue: str | None, another: bool
) -> None:
    child = replace(CHILD, suspended=suspended, suspended_by_operator=by_operator)
    stage = STAGE.model_copy(update={"state": state})
    assert suspend.by_another(RunPolicy(queue_name=queue), stage, child) is another
    assert suspend.by_another(RunPolicy(), stage, replace(child, queue=queue)) is another, "Kueue's choice"
    assert suspend.in_queue(RunPolicy(queue_name=queue), child) is (queue is not None)


def pod(asked: float | None, ended: float | None) -> Pod:
    """A pod that was asked to go at one time and ended at another."""
    exit = None if ended is None else Exit(1, "Error", "", after(ended))
    return Pod("p0", 0, "Running", exit=exit, deletion_asked=None if asked is None else after(asked))


@pytest.mark.parametrize(
    ("cause", "suspended", "pods", "blameless"),
    [
        pytest.param(Cause.FAILURE, True, [pod(1, 2)], True, id="it ended after it was asked to go"),
        pytest.param(Cause.FAILURE, True, [pod(1, 1)], True, id="in the same second"),
        pytest.param(Cause.FAILURE, True, [pod(2, 1)], False, id="before"),
        pytest.param(Cause.FAILURE, True, [pod(None, 1)], False, id="nobody asked it"),
        pytest.param(Cause.FAILURE, True, [pod(1, 2), pod(None, 1)], False, id="one of them by itself"),
        pytest.param(Cause.FAILURE, True, [pod(1, 2), pod(None, None)], True, id="the other one runs"),
        pytest.param(Cause.FAILURE, True, [], True, id="those that are gone were asked to go"),
        pytest.param(Cause.DISRUPTION, True, [pod(None, 1)], True, id="a disruption"),
        pytest.param(Cause.USER_ERROR, True, [pod(1, 2)], False, id="a user's mistake stays one"),
        pytest.param(Cause.FAILURE, False, [pod(1, 2)], False, id="it is not suspended"),
        pytest.param(Cause.DISRUPTION, False, [pod(1, 2)], False, id="a disruption of one that is not"),
    ],
)
def test_who_is_charged_for_the_end_of_a_suspended_gang(
    cause: Cause, suspended: bool, pods: list[Pod], blameless: bool
) -> None:
    diagnosis = Diagnosis(cause, Failure(attempt=1, reason="Error", message=""))
    child = replace(CHILD, suspended=suspended)
    assert suspend.ended_as_asked(STAGE, child, diagnosis, Evidence(tuple(pods))) is blameless


@pytest.mark.parametrize(
    ("state", "asked", "progress", "again"),
    [
        pytest.param(StageState.WAITING, -1, None, True, id="a former pod was asked to go before it began"),
        pytest.param(StageState.WAITING, 0, None, True, id="in the same second"),
        pytest.param(StageState.WAITING, 1, None, False, id="asked since it began"),
        pytest.param(StageState.WAITING, None, None, False, id="let go for the first time"),
        pytest.param(StageState.WAITING, None, Progress(step=1), True, id="it has made progress before"),
        pytest.param(StageState.RUNNING, -1, Progress(step=1), False, id="it is whole"),
    ],
)
def test_a_gang_that_kueue_let_go_again(
    state: StageState, asked: float | None, progress: Progress | None, again: bool
) -> None:
    stage = STAGE.model_copy(update={"state": state, "progress": progress})
    assert suspend.let_go_again(stage, CHILD, Evidence((pod(asked, None),))) is again


def test_suspend_and_resume_the_same_child() -> None:
    world = started()
    world.run(P1)
    world.edit(suspend=True)
    assert world.reconcile().actions == (SetSuspend(P1, True),)
    world.settle()
    assert (world.status.phase, world.stage(Stage.PERSONALIZE).state) == (Phase.SUSPENDED, StageState.SUSPENDED)
    world.edit(suspend=False)
    assert world.reconcile().actions == (SetSuspend(P1, False),)
    world.settle()
    assert world.launched == [P1]
    assert [event.reason for event in world.events] == ["StageStarted", "Suspended", "Resumed"]


@pytest.mark.parametrize("stage", list(Stage))
def test_any_stage_is_suspended_and_goes_on(stage: Stage) -> None:
    """Pods go and with them their GPUs, the child and its attempt stay, nobody is charged, and the job ends well."""
    world = started()
    for each in Stage:
        child = f"mascot-{each.value}-1"
        world.run(child)
        world.settle()
        if each is stage:
            world.edit(suspend=True)
            world.settle()
            assert (world.children[child].suspended, world.children[child].ready) == (True, 0)
            assert (world.status.phase, world.stage(each).state) == (Phase.SUSPENDED, StageState.SUSPENDED)
            assert world.plan().pull_from is None
            world.wait(1000)
            world.edit(suspend=False)
            world.settle()
            assert not world.children[child].suspended
            world.run(child)
            world.settle()
        world.complete(child)
        world.settle()
    assert world.status.phase is Phase.SUCCEEDED
    assert [(s.attempt, s.restarts) for s in world.status.stages] == [(1, Restarts())] * 3
    assert world.status.active_seconds == 0  # the 1,000 s were not active ones


def test_a_job_that_is_born_suspended_waits() -> None:
    world = started(suspend=True)
    assert (world.launched, world.status.phase, world.status.start_time) == ([], Phase.SUSPENDED, None)
    world.edit(suspend=False)
    world.settle()
    assert world.launched == [P1]


def test_a_gang_that_fails_while_suspended_waits_for_the_resume() -> None:
    world = started()
    world.edit(suspend=True)
    world.settle()
    world.fail(P1, 1)
    world.settle()
    world.wait(60)
    world.settle()
    assert world.launched == [P1]
    world.edit(suspend=False)
    world.settle()
    assert world.launched == [P1, P2]


def test_a_gang_that_saves_and_ends_when_suspended_is_charged_to_nobody() -> None:
    """The Job controller gives a suspended child up when it sees the exit code before the pods are gone."""
    world = started(disruptionLimit=0)
    world.run(P1)
    world.edit(suspend=True)
    world.settle()
    world.fail(P1, ExitCode.CHECKPOINTED)
    world.settle()
    assert (world.status.phase, world.children) == (Phase.SUSPENDED, {})
    world.edit(suspend=False)
    world.settle()
    stage = world.stage(Stage.PERSONALIZE)
    assert (world.launched, stage.restarts, stage.failure) == ([P1, P2], Restarts(), None)
    assert [event.reason for event in world.events] == ["StageStarted", "Suspended", "Resumed"]
