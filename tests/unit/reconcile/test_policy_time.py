"""Deadline and suspension: what the clock does."""

from __future__ import annotations

import pytest

from instructbooth.contract import ExitCode, Stage
from instructbooth.reconcile.actions import DeleteChild, Haste, Look, SetSuspend
from instructbooth.reconcile.conditions import find
from instructbooth.reconcile.observed import Evidence, Observed, Pod
from instructbooth.reconcile.plan import plan
from instructbooth.reconcile.policies.visible import duration, summary
from instructbooth.spec.status import Phase, Progress, Restarts, StageState
from tests.unit.reconcile.world import DEFAULTS, World, job_object

P1, P2 = "mascot-personalize-1", "mascot-personalize-2"


def started(**policy: object) -> World:
    world = World(job_object(runPolicy=policy))
    world.settle()
    return world


def reason(world: World, kind: str) -> str | None:
    found = find(world.status.conditions, kind)
    return found.reason if found and found.status == "True" else None


def test_past_its_deadline_a_job_fails_and_its_gang_ends() -> None:
    world = started(activeDeadlineSeconds=60)
    world.run(P1)
    assert world.plan().requeue_after == 60
    world.wait(60)
    made = world.reconcile()
    assert made.actions == ()  # written first
    assert world.status.phase is Phase.FAILED
    assert reason(world, "Failed") == "DeadlineExceeded"
    assert world.plan().actions == (DeleteChild(P1),)
    world.settle()
    assert world.children == {}


def test_a_stage_that_ended_in_time_counts_though_it_is_seen_late() -> None:
    world = started(activeDeadlineSeconds=60)
    world.complete(P1)
    world.wait(100)
    world.settle()
    assert world.stage(Stage.PERSONALIZE).state is StageState.SUCCEEDED
    assert world.stage(Stage.REINFORCE).attempt == 0
    assert reason(world, "Failed") == "DeadlineExceeded"
    assert world.launched == [P1]


@pytest.mark.parametrize("ended", [False, True])
def test_nobody_has_to_look_at_a_gang_that_is_late_but_to_see_how_it_ended(ended: bool) -> None:
    world = started(activeDeadlineSeconds=60)
    world.wait(59)
    world.plan()
    assert world.asked == Look(P1, Haste.IN_TURN)
    if ended:
        world.complete(P1)
    world.wait(1)
    world.plan()
    assert world.asked == (Look(P1, Haste.NOW) if ended else None)


def test_a_look_that_is_long_in_coming_does_not_delay_the_deadline() -> None:
    world = started(activeDeadlineSeconds=60)
    world.wait(40)
    observed = Observed(now=world.now, children=tuple(world.children.values()))
    made = plan(world.job, observed, DEFAULTS)
    assert (made.look_at, made.requeue_after) == (Look(P1, Haste.IN_TURN), 20)


def test_suspended_time_does_not_count() -> None:
    world = started(activeDeadlineSeconds=60)
    world.run(P1)
    world.wait(50)
    world.edit(suspend=True)
    world.settle()
    assert (world.status.active_seconds, world.status.active_since) == (50, None)
    world.wait(1000)
    world.edit(suspend=False)
    world.settle()
    world.run(P1)
    assert world.status.phase is Phase.PERSONALIZING
    world.wait(9)
    world.settle()
    assert reason(world, "Failed") is None
    world.wait(1)
    world.settle()
    assert reason(world, "Failed") == "DeadlineExceeded"


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


def test_failures_wait_and_disruptions_do_not() -> None:
    world = started()
    world.fail(P1, 1)
    world.settle()
    assert world.plan().requeue_after == 5
    assert P1 in world.children  # the evidence stays as long as nothing needs its place
    world.wait(5)
    world.settle()
    assert world.launched == [P1, P2]
    world.disrupt(P2)
    world.settle()
    assert world.launched == [P1, P2, "mascot-personalize-3"]


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress(), None),
        (Progress(step=1, total=3), "33%"),
        (Progress(step=42, total=100, eta_seconds=187), "42% 3m10s"),
        (Progress(step=999, total=1000, eta_seconds=3), "99% 10s"),
        (Progress(step=3, total=3, eta_seconds=0), "100%"),
        (Progress(step=5, total=3), "100%"),
        (Progress(step=1, total=100, eta_seconds=90_000), "1% 1d1h"),
    ],
)
def test_the_progress_column(progress: Progress, said: str | None) -> None:
    assert summary(progress) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0s"), (59, "59s"), (61, "1m1s"), (3660, "1h1m"), (90_000, "1d1h"), (86_400, "1d0h")]
)
def test_durations(seconds: int, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("offset", "longest"), [(-3600, 0.0), (3600, 0.0), (-30, 35.0), (0, 5.0)])
def test_a_clock_that_is_wrong_by_an_hour_does_not_prolong_the_backoff_by_an_hour(
    offset: float, longest: float
) -> None:
    world = started()
    world.fail(P1, 1)  # at the API server's time
    world.wait(offset)  # the operator's
    world.reconcile()
    made = world.plan()
    assert (made.actions == (DeleteChild(P1),)) is (longest == 0.0)
    assert (made.requeue_after or 0.0) <= longest


def test_a_clock_that_was_set_back_hides_no_blocked_pod() -> None:
    world = started()
    world.evidence[P1] = Evidence((Pod("p0", 0, waiting_reason="ImagePullBackOff", waiting_message="no such image"),))
    world.wait(-3600)
    made = world.reconcile()
    assert reason(world, "Blocked") == "ImagePullFailed"
    assert made.look_again is not None
    assert made.look_again[0] <= 60
