"""runPolicy.activeDeadlineSeconds: what the clock counts, and what happens at its end."""

from __future__ import annotations

import pytest

from instructbooth.contract import Stage
from instructbooth.reconcile.actions import DeleteChild, Haste, Look
from instructbooth.reconcile.observed import Observed, format_time
from instructbooth.reconcile.plan import plan
from instructbooth.reconcile.policies.deadline import active_time, run_clock, seconds_left
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import InstructBoothJobStatus, Phase, StageState
from tests.unit.reconcile.world import DEFAULTS, after, reason, started

P1 = "mascot-personalize-1"


def clock(before: int, since: float | None) -> InstructBoothJobStatus:
    """Active for so many seconds in the past, and again since then."""
    running = None if since is None else format_time(after(since))
    return InstructBoothJobStatus(active_seconds=before, active_since=running)


@pytest.mark.parametrize(
    ("limit", "before", "since", "left"),
    [
        pytest.param(60, 0, 0, 50, id="it runs"),
        pytest.param(60, 30, 0, 20, id="it ran before"),
        pytest.param(60, 30, -20, 0, id="now"),
        pytest.param(60, 60, 0, -10, id="late"),
        pytest.param(60, 59, None, None, id="its clock stands still"),
        pytest.param(None, 59, 0, None, id="without a limit"),
    ],
)
def test_seconds_to_the_deadline(limit: int | None, before: int, since: float | None, left: float | None) -> None:
    policy = RunPolicy(active_deadline_seconds=limit)
    assert seconds_left(clock(before, since), policy, after(10)) == left


@pytest.mark.parametrize(
    ("before", "since", "active", "expected"),
    [
        pytest.param(5, None, True, (5, 10), id="it starts"),
        pytest.param(5, 0, True, (5, 0), id="it goes on"),
        pytest.param(5, 0, False, (15, None), id="it stops"),
        pytest.param(5, None, False, (5, None), id="it stands still"),
        pytest.param(5, 3600, False, (0, None), id="a clock that was set back takes no time that never was"),
    ],
)
def test_the_clock(before: int, since: float | None, active: bool, expected: tuple[int, float | None]) -> None:
    made = run_clock(clock(before, since), active, after(10))
    assert made == clock(*expected)
    seconds, running = expected
    assert active_time(made, after(10)).total_seconds() == seconds + (0 if running is None else 10 - running)


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
