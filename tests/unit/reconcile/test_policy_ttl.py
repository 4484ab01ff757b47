"""runPolicy.ttlSecondsAfterFinished: when a finished job goes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from instructbooth.reconcile.actions import DeleteSelf
from instructbooth.reconcile.observed import format_time
from instructbooth.reconcile.policies.ttl import seconds_to_live
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import InstructBoothJobStatus
from tests.unit.reconcile.test_plan import E1, P1, R1, through
from tests.unit.reconcile.world import START, World, job_object


@pytest.mark.parametrize(
    ("ttl", "finished", "age", "left"),
    [
        pytest.param(60, True, 0, 60, id="it has just finished"),
        pytest.param(60, True, 59.5, 0.5, id="nearly"),
        pytest.param(60, True, 60, 0, id="now"),
        pytest.param(60, True, 90, -30, id="late: the operator was away"),
        pytest.param(0, True, 0, 0, id="at once"),
        pytest.param(60, True, -3600, 3660, id="by the operator's clock, as far back as it is"),
        pytest.param(60, False, 0, None, id="it runs"),
        pytest.param(None, True, 1e6, None, id="it stays"),
    ],
)
def test_seconds_to_live(ttl: int | None, finished: bool, age: float, left: float | None) -> None:
    status = InstructBoothJobStatus(completion_time=format_time(START) if finished else None)
    policy = RunPolicy(ttl_seconds_after_finished=ttl)
    assert seconds_to_live(status, policy, START + timedelta(seconds=age)) == left


def test_the_job_that_has_had_its_time_is_deleted() -> None:
    world = World(job_object(runPolicy={"ttlSecondsAfterFinished": 60}))
    through(world, P1, R1, E1)
    assert world.plan().requeue_after == 60
    world.wait(59)
    assert world.plan().actions == ()
    world.wait(1)
    assert world.plan().actions == (DeleteSelf(),)
