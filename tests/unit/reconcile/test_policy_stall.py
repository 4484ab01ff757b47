"""Gangs that hang: who is judged, after how long, and what is written before anything is removed."""

from __future__ import annotations

import pytest

from instructbooth.contract import STALLED, ExitCode, Stage
from instructbooth.reconcile.actions import DeleteChild
from instructbooth.reconcile.observed import Evidence, Pod, Silence
from instructbooth.reconcile.policies.stall import hangs, seconds_left
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import Phase, Progress, Restarts, StageState, StageStatus
from tests.unit.reconcile.world import START, World, job_object

P1, P2, P3 = (f"mascot-personalize-{attempt}" for attempt in (1, 2, 3))
RUNNING = Evidence((Pod("p0", 0, "Running"),))
HEARD_BEFORE = StageStatus(name=Stage.PERSONALIZE, attempt=1, progress=Progress(step=1, total=9))
LOADING = StageStatus(name=Stage.PERSONALIZE, attempt=1, progress=Progress())
UNHEARD = StageStatus(name=Stage.PERSONALIZE, attempt=1)


@pytest.mark.parametrize(
    ("timeout", "stage", "silence", "left"),
    [
        pytest.param(1800, HEARD_BEFORE, Silence(0, True, True), 1920, id="the trainer's own watchdog goes first"),
        pytest.param(60, HEARD_BEFORE, Silence(0, True, True), 120, id="a short timeout has a short margin"),
        pytest.param(60, HEARD_BEFORE, Silence(119, True, True), 1, id="not yet"),
        pytest.param(60, HEARD_BEFORE, Silence(121, True, False), -1, id="unreachable for as long is the same"),
        pytest.param(60, UNHEARD, Silence(119, True, True), 601, id="it gathers, or imports"),
        pytest.param(60, LOADING, Silence(719, True, True), 1, id="or loads"),
        pytest.param(60, LOADING, Silence(721, True, False), -1, id="not for ever"),
        pytest.param(60, UNHEARD, Silence(9999, False, False), None, id="never heard: maybe out of reach"),
        pytest.param(60, HEARD_BEFORE, Silence(719, False, False), 1, id="heard by an earlier operator, or suspended"),
        pytest.param(60, HEARD_BEFORE, Silence(721, False, False), -1, id="and never again"),
        pytest.param(0, UNHEARD, Silence(9999, True, True), None, id="off"),
        pytest.param(60, UNHEARD, None, None, id="nobody pulls"),
        pytest.param(60, HEARD_BEFORE, None, 720, id="the operator has just begun, and comes back to it"),
    ],
)
def test_how_long_silence_is_borne(
    timeout: int, stage: StageStatus, silence: Silence | None, left: float | None
) -> None:
    assert seconds_left(RunPolicy(stall_timeout_seconds=timeout), stage, silence) == left


@pytest.mark.parametrize(
    ("pod", "hung"),
    [
        (Pod("p0", 0, "Running"), True),
        (Pod("p0", 0, "Running", deletion_asked=START), False),
        (Pod("p0", 0, "Failed"), False),
        (Pod("p0", 0, "Pending"), False),
        (Pod("p1", 1, "Running"), False),
    ],
)
def test_only_a_rank_0_that_should_answer_hangs(pod: Pod, hung: bool) -> None:
    assert hangs(Evidence((pod,))) is hung


def hanging(**policy: object) -> World:
    """A gang at step 42 of 100 that has been silent for 125 s of at most 60 + 60."""
    world = World(job_object(runPolicy={"stallTimeoutSeconds": 60, **policy}))
    world.settle()
    run_and_hang(world, P1)
    return world


def run_and_hang(world: World, child: str) -> None:
    world.run(child)
    world.evidence[child] = RUNNING
    world.progress[child] = Progress(step=42, total=100)
    world.silence[child] = Silence(3, True, True, "2026-11-23T09:00:00Z")
    world.settle()
    world.silence[child] = Silence(125, True, True, "2026-11-23T09:00:00Z")


def test_a_hang_is_written_before_the_gang_is_removed_and_charged_to_failures() -> None:
    world = hanging()
    assert world.reconcile().actions == ()
    stage = world.stage(Stage.PERSONALIZE)
    assert (stage.state, stage.restarts) == (StageState.RESTARTING, Restarts(failures=1))
    assert stage.failure is not None
    assert stage.failure.reason == STALLED
    assert "rank 0 answers but has not moved for 125 s at 42 of 100 steps" in stage.failure.message
    assert "2026-11-23T09:00:00Z" in stage.failure.message
    assert world.reconcile().actions == (DeleteChild(P1),)  # at once: it has waited long enough
    world.settle()
    assert world.launched == [P1, P2]
    assert [event.reason for event in world.events] == ["StageStarted", "GangRestarted"]


def test_a_gang_that_ends_by_itself_after_the_verdict_is_not_charged_twice() -> None:
    world = hanging()
    world.reconcile()
    world.fail(P1, ExitCode.CHECKPOINTED)
    world.settle()
    assert world.stage(Stage.PERSONALIZE).restarts == Restarts(failures=1)
    assert world.launched == [P1, P2]


def test_one_that_hangs_again_and_again_fails_for_good() -> None:
    world = hanging(backoffLimit=1)
    world.settle()
    run_and_hang(world, P2)
    world.reconcile()
    assert world.status.phase is Phase.FAILED
    failed = next(c for c in world.status.conditions if c.type == "Failed")
    assert failed.reason == "BackoffLimitExceeded"
    assert "Stalled: rank 0" in failed.message
    assert world.plan().actions == (DeleteChild(P2),)
    world.settle()
    assert (world.launched, world.children) == ([P1, P2], {})


def test_a_gang_is_looked_at_again_when_its_silence_would_be_too_long() -> None:
    world = hanging()
    world.silence[P1] = Silence(100, True, True)
    assert world.plan().requeue_after == 20
    assert world.plan().actions == ()


def test_that_is_sooner_from_its_first_step_on() -> None:
    """What rank 0 says and when to look again are one plan: nobody comes back to it before."""
    world = World(job_object(runPolicy={"stallTimeoutSeconds": 60}))
    world.settle()
    world.run(P1)
    world.silence[P1] = Silence(0, True, True)
    world.progress[P1] = Progress()
    assert world.reconcile().requeue_after == 720
    world.progress[P1] = Progress(step=0, total=100)
    assert world.reconcile().requeue_after == 120


def test_a_pod_that_is_on_its_way_out_does_not_hang() -> None:
    world = hanging()
    world.evidence[P1] = Evidence((Pod("p0", 0, "Running", deletion_asked=START),))
    world.settle()
    assert world.stage(Stage.PERSONALIZE).restarts == Restarts()
    assert world.plan().requeue_after == 10


def test_a_rank_that_ended_itself_is_charged_to_failures_and_starts_again_at_once() -> None:
    world = World()
    world.settle()
    world.fail(P1, ExitCode.STALLED, '{"reason": "Stalled", "message": "rank 1 has not moved for 1830 s"}', rank=1)
    world.settle()
    stage = world.stage(Stage.PERSONALIZE)
    assert (stage.restarts, world.launched) == (Restarts(failures=1), [P1, P2])
    assert stage.failure is not None
    assert (stage.failure.rank, stage.failure.exit_code, stage.failure.reason) == (1, ExitCode.STALLED, STALLED)
