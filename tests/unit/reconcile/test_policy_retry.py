"""Who is charged for the end of a gang, and what people are told."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from instructbooth.contract import Stage
from instructbooth.reconcile.actions import DeleteChild
from instructbooth.reconcile.observed import ChildFailure, Evidence, Exit, Pod
from instructbooth.reconcile.policies.retry import Cause, Diagnosis, backoff, charge, diagnose, refusal
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import Failure, Restarts
from tests.unit.reconcile.world import START, started

P1, P2 = "mascot-personalize-1", "mascot-personalize-2"

LATER = START + timedelta(seconds=5)
OUTCOME = '{"reason": "BucketNotFound", "message": "no bucket runs; create it"}'
PEER_LOST = '{"reason": "PeerLost", "message": "another process of the gang is gone: gloo"}'


def ended(rank: int, code: int, message: str = "", time: object = START, reason: str = "Error") -> Pod:
    return Pod(f"p{rank}", rank, "Failed", exit=Exit(code, reason, message, time))  # type: ignore[arg-type]


def job_failure(message: str = "", reason: str = "PodFailurePolicy") -> ChildFailure:
    return ChildFailure(reason, message, LATER)


@pytest.mark.parametrize(
    ("pods", "cause", "rank", "code", "reason"),
    [
        pytest.param([ended(0, 1)], Cause.FAILURE, 0, 1, "TrainerFailed", id="crash"),
        pytest.param([ended(0, 75, OUTCOME)], Cause.FAILURE, 0, 75, "BucketNotFound", id="transient"),
        pytest.param([ended(0, 64, OUTCOME)], Cause.USER_ERROR, 0, 64, "BucketNotFound", id="user"),
        pytest.param([ended(0, 76)], Cause.DISRUPTION, 0, 76, "Checkpointed", id="checkpointed"),
        pytest.param([ended(1, 137, reason="OOMKilled")], Cause.FAILURE, 1, 137, "OutOfMemory", id="oom"),
        pytest.param(
            [ended(0, 75, time=LATER), ended(1, 139)], Cause.FAILURE, 1, 139, "TrainerFailed", id="the first to fall"
        ),
        pytest.param(
            [ended(0, 1), ended(1, 1), ended(2, 0)], Cause.FAILURE, 0, 1, "TrainerFailed", id="the lowest of a tie"
        ),
        pytest.param(
            [ended(0, 75, PEER_LOST), ended(1, 137)], Cause.FAILURE, 1, 137, "TrainerFailed", id="its victim, at once"
        ),
        pytest.param(
            [ended(0, 75, PEER_LOST), Pod("p1", 1, "Running", deletion_asked=START)],
            Cause.FAILURE,
            0,
            75,
            "PeerLost",
            id="a victim without a culprit",
        ),
        pytest.param(
            [ended(0, 75), ended(1, 64, OUTCOME, LATER)], Cause.USER_ERROR, 1, 64, "BucketNotFound", id="a mistake wins"
        ),
        pytest.param(
            [Pod("p0", 0, "Failed", disruption="preempted", disrupted=START), ended(1, 75, time=LATER)],
            Cause.DISRUPTION,
            0,
            None,
            "Disrupted",
            id="the survivors of a preemption fall too",
        ),
        pytest.param(
            [ended(0, 137), Pod("p1", 1, "Running", deletion_asked=START)],
            Cause.FAILURE,
            0,
            137,
            "TrainerFailed",
            id="what the Job controller deletes afterwards is no cause",
        ),
        pytest.param(
            [Pod("p0", 0, "Running", deletion_asked=START), ended(1, 75, time=LATER)],
            Cause.DISRUPTION,
            0,
            None,
            "Disrupted",
            id="kubectl delete pod",
        ),
        pytest.param(
            [Pod("p0", 0, "Failed", reason="UnexpectedAdmissionError", message="no GPU left")],
            Cause.DISRUPTION,
            0,
            None,
            "Disrupted",
            id="the node turned it away",
        ),
    ],
)
def test_the_root_cause(pods: list[Pod], cause: Cause, rank: int, code: int | None, reason: str) -> None:
    found = diagnose(2, job_failure(), Evidence(tuple(pods)))
    assert (found.cause, found.failure.rank, found.failure.exit_code, found.failure.reason) == (
        cause,
        rank,
        code,
        reason,
    )
    assert found.failure.attempt == 2
    assert found.failure.message


@pytest.mark.parametrize(
    ("message", "cause", "code"),
    [
        ("Container trainer for pod lab/p failed with exit code 64 matching FailJob rule", Cause.USER_ERROR, 64),
        ("Container trainer for pod lab/p failed with exit code 76 matching FailJob rule", Cause.DISRUPTION, 76),
        ("Pod lab/p has condition DisruptionTarget matching FailJob rule at index 0", Cause.DISRUPTION, None),
        ("Job has reached the specified backoff limit", Cause.FAILURE, None),
    ],
)
def test_without_pods_the_job_s_words_count(message: str, cause: Cause, code: int | None) -> None:
    found = diagnose(1, job_failure(message), Evidence())
    assert (found.cause, found.failure.exit_code, found.failure.message) == (cause, code, message)


def test_the_last_lines_of_the_log_are_kept() -> None:
    log = "\n".join(f"line {number}" for number in range(100))
    failure = diagnose(1, job_failure(), Evidence((ended(3, 134, log),))).failure
    assert failure.message == "rank 3 ended with exit code 134 (signal 6)"
    assert failure.log == [f"line {number}" for number in range(80, 100)]


def test_a_trainer_that_left_a_word_left_its_last_lines_in_it() -> None:
    word = json.dumps({"reason": "InternalError", "message": "a defect", "log": [f"line {n}" for n in range(30)]})
    failure = diagnose(1, job_failure(), Evidence((ended(0, 1, word), ended(1, 75, PEER_LOST)))).failure
    assert (failure.rank, failure.exit_code, failure.reason) == (0, 1, "InternalError")
    assert failure.log == [f"line {number}" for number in range(10, 30)]


def test_one_killed_for_memory_left_its_last_lines_too() -> None:
    failure = diagnose(1, job_failure(), Evidence((ended(0, 137, "epoch 3", reason="OOMKilled"),))).failure
    assert (failure.reason, failure.log) == ("OutOfMemory", ["epoch 3"])


def diagnosis(cause: Cause) -> Diagnosis:
    return Diagnosis(cause, Failure(attempt=1, reason="BucketNotFound", message="no bucket"))


@pytest.mark.parametrize(
    ("cause", "before", "policy", "reason"),
    [
        (Cause.FAILURE, Restarts(failures=1), RunPolicy(backoff_limit=2), None),
        (Cause.FAILURE, Restarts(failures=2), RunPolicy(backoff_limit=2), "BackoffLimitExceeded"),
        (Cause.FAILURE, Restarts(), RunPolicy(backoff_limit=0), "BackoffLimitExceeded"),
        (Cause.FAILURE, Restarts(disruptions=9), RunPolicy(backoff_limit=1, disruption_limit=0), None),
        (Cause.DISRUPTION, Restarts(failures=9), RunPolicy(backoff_limit=0, disruption_limit=1), None),
        (Cause.DISRUPTION, Restarts(disruptions=1), RunPolicy(disruption_limit=1), "DisruptionLimitExceeded"),
        (Cause.USER_ERROR, Restarts(), RunPolicy(), "BucketNotFound"),
    ],
)
def test_two_budgets(cause: Cause, before: Restarts, policy: RunPolicy, reason: str | None) -> None:
    refused = refusal(Stage.REINFORCE, charge(before, cause), diagnosis(cause), policy)
    assert (refused[0] if refused else None) == reason
    if refused:
        assert "reinforce" in refused[1]
        assert "no bucket" in refused[1]


def test_each_cause_is_charged_to_its_own_budget() -> None:
    assert charge(Restarts(failures=1, disruptions=2), Cause.FAILURE) == Restarts(failures=2, disruptions=2)
    assert charge(Restarts(failures=1, disruptions=2), Cause.DISRUPTION) == Restarts(failures=1, disruptions=3)
    assert charge(Restarts(failures=1), Cause.USER_ERROR) == Restarts(failures=1)


@pytest.mark.parametrize(
    ("reason", "failures", "seconds"),
    [
        ("TrainerFailed", 1, 5),
        ("TrainerFailed", 2, 10),
        ("TrainerFailed", 3, 20),
        ("TrainerFailed", 50, 300),
        ("Disrupted", 3, 0),
        ("Checkpointed", 3, 0),
        ("Stalled", 3, 0),
        ("NoRoom", 3, 0),
        ("PartlyPlaced", 3, 0),
        ("PodNotStarted", 3, 0),
    ],
)
def test_backoff_doubles_up_to_a_cap(reason: str, failures: int, seconds: int) -> None:
    assert backoff(Failure(attempt=1, reason=reason), Restarts(failures=failures)) == timedelta(seconds=seconds)


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
