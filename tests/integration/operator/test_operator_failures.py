"""What goes wrong with gangs, against the real API server, Job controller and garbage collector."""

from __future__ import annotations

import pytest

from instructbooth.contract import STALLED, Stage
from instructbooth.spec.status import Progress, StageState
from tests.integration.operator.bench import Bench, Operator, Rank0

pytestmark = pytest.mark.cluster
P1, P2 = "mascot-personalize-1", "mascot-personalize-2"


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
    assert (stage.name, stage.state, stage.restarts.failures) == (Stage.PERSONALIZE, StageState.FAILED, 2)
    assert operator.metric('instructbooth_stage_restarts_total{cause="failures",stage="personalize"}') == 2
