"""The operator as a process against a real API server and the real Job controller."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from instructbooth.contract import REWARD_METRIC, ExitCode, Outcome, Stage
from instructbooth.reconcile.observed import parse_time
from instructbooth.reconcile.plan import PHASES
from instructbooth.spec.status import Phase, Progress, StageState
from tests.integration.operator.bench import START_SECONDS, Bench, Operator, Rank0, pause
from tests.unit.reconcile.world import success

pytestmark = pytest.mark.cluster

P1, R1, R2, E1 = "mascot-personalize-1", "mascot-reinforce-1", "mascot-reinforce-2", "mascot-evaluate-1"
NODES = {Stage.PERSONALIZE: 1, Stage.REINFORCE: 2, Stage.EVALUATE: 1}


def succeed(bench: Bench, stage: Stage, attempt: int = 1) -> None:
    """Let a stage's gang run and end well."""
    child, count = f"mascot-{stage.value}-{attempt}", NODES[stage]
    bench.run(child, count)
    bench.end(child, 0, success(stage), count=count)


def reach_reinforce(bench: Bench, before: Callable[[], None] = lambda: None, **spec: Any) -> None:
    """Let reinforcement run; `before` its pods do, something else may happen to them."""
    bench.submit(**spec)
    succeed(bench, Stage.PERSONALIZE)
    before()
    bench.run(R1, 2)


def test_three_stages_succeed(bench: Bench, operator: Operator, rank0: Rank0) -> None:
    rank0.said["progress"] = Progress(step=42, total=100, eta_seconds=190, metrics={REWARD_METRIC: 0.25})
    reach_reinforce(bench)
    bench.plane.wait("the reward", lambda: bench.status().reward == "0.25")
    status = bench.status()
    assert (status.phase, status.stage, status.progress) == (Phase.REINFORCING, "reinforce", "42% 3m10s")
    bench.end(R1, 0, success(Stage.REINFORCE), count=2)
    succeed(bench, Stage.EVALUATE)
    bench.wait_true("Succeeded")
    job, status = bench.job(), bench.status()
    assert (status.phase, status.progress, status.reward) == (Phase.SUCCEEDED, "100%", "0.5")
    assert [stage.artifact for stage in status.stages] == [f"s3://runs/{stage.value}" for stage in Stage]
    assert sorted(bench.children()) == sorted([P1, R1, E1])
    # kopf left nothing on the object.
    assert "finalizers" not in job["metadata"]
    assert "annotations" not in job["metadata"]
    bench.plane.wait("the last event", lambda: "Succeeded" in bench.events())
    reasons = ["StageStarted", "StageSucceeded", "StageStarted", "StageSucceeded", "StageStarted", "Succeeded"]
    assert sorted(bench.events()) == sorted(reasons)
    writes = sum(
        operator.metric(f'instructbooth_api_requests_total{{code="{code}",resource="{resource}",verb="{verb}"}}')
        for code in ("200", "201")
        for resource, verb in (
            ("configmaps", "post"),
            ("jobs", "post"),
            ("instructboothjobs", "patch"),
        )
    )
    assert writes <= 12, "more than four writes a stage"
    assert operator.metric('instructbooth_jobs{phase="Succeeded"}') == 1
    assert operator.answer("/healthz")[0] == 200


@pytest.mark.parametrize("stage", list(Stage))
def test_the_operator_killed_in_a_stage_changes_nothing(bench: Bench, operator: Operator, stage: Stage) -> None:
    bench.submit()
    for each in Stage:
        child = f"mascot-{each.value}-1"
        bench.run(child, NODES[each])
        if each is stage:
            operator.kill()
            bench.end(child, 0, success(each), count=NODES[each])
            pause(1)
            operator.start()
        else:
            bench.end(child, 0, success(each), count=NODES[each])
    bench.wait_true("Succeeded")
    assert sorted(bench.children()) == sorted([P1, R1, E1])
    assert [s.attempt for s in bench.status().stages] == [1, 1, 1]


def test_the_operator_killed_between_creation_and_status(bench: Bench, operator: Operator) -> None:
    """It dies at some moment of its first writes, again and again: one gang, no second one."""
    for number in range(6):
        bench.submit(f"job-{number}")
        pause(0.03 * number)
        operator.kill()
        operator.start()
    for number in range(6):
        bench.wait_pods(f"job-{number}-personalize-1", 1)
        # The pod may be there before the status says so: the last operator has just begun.
        stages = bench.plane.wait("the status", lambda name=f"job-{number}": bench.status(name).stages)
        assert [stage.attempt for stage in stages] == [1, 0, 0]
    assert len(bench.children()) == 6


def test_a_rank_that_dies_restarts_the_gang_once(bench: Bench, operator: Operator) -> None:
    reach_reinforce(bench)
    lines = [f"line {number} of the log" for number in range(30)]
    bench.end(R1, 137, "\n".join(lines), rank=1, count=2)
    bench.run(R2, 2)
    assert R1 not in bench.children()
    stage = bench.status().stages[1]
    assert (stage.attempt, stage.restarts.failures, stage.restarts.disruptions) == (2, 1, 0)
    assert stage.failure is not None
    assert (stage.failure.rank, stage.failure.exit_code) == (1, 137)
    assert stage.failure.log == lines[-20:]
    bench.end(R2, 0, success(Stage.REINFORCE), count=2)
    succeed(bench, Stage.EVALUATE)
    bench.wait_true("Succeeded")
    assert "GangRestarted" in bench.events()
    assert operator.metric('instructbooth_stage_restarts_total{cause="failures",stage="reinforce"}') == 1


def test_an_eviction_is_charged_to_the_disruptions(bench: Bench, operator: Operator) -> None:
    reach_reinforce(bench)
    bench.evict(R1)
    bench.run(R2, 2)
    stage = bench.status().stages[1]
    assert (stage.restarts.failures, stage.restarts.disruptions) == (0, 1)
    assert stage.failure is not None
    assert (stage.failure.reason, stage.failure.message) == ("Disrupted", "drained")


def test_a_user_s_mistake_is_never_tried_again(bench: Bench, operator: Operator) -> None:
    bench.submit()
    bench.run(P1, 1)
    said = Outcome("SubjectImagesInvalid", "a.png is no picture; replace it")
    bench.end(P1, ExitCode.USER_ERROR, said)
    failed = bench.wait_true("Failed")
    assert failed.reason == "SubjectImagesInvalid"
    assert "replace it" in failed.message
    pause(2)
    assert list(bench.children()) == [P1]  # the evidence stays, nothing else comes


def test_a_missing_secret_blocks_until_it_comes(bench: Bench, operator: Operator) -> None:
    bench.submit()
    bench.wait_pods(P1, 1)
    bench.wait_for_pod(P1, "CreateContainerConfigError", 'secret "minio-credentials" not found')
    blocked = bench.wait_true("Blocked", seconds=30)
    assert blocked.reason == "CreateContainerConfigError"
    assert "create the Secret minio-credentials" in blocked.message
    succeed(bench, Stage.PERSONALIZE)
    bench.plane.wait("the way to be free", lambda: not bench.is_true("Blocked"))
    assert bench.status().stages[0].restarts.failures == 0


def test_deleting_the_job_removes_every_child(bench: Bench, operator: Operator) -> None:
    reach_reinforce(bench)
    assert len(bench.everything()) == 6  # two Jobs, three pods, a ConfigMap
    bench.delete()
    bench.plane.wait("all children to go", lambda: bench.everything() == [], 30)
    bench.submit()  # and the same name again
    bench.wait_pods(P1, 1)


@pytest.mark.parametrize("stage", list(Stage))
def test_suspend_keeps_the_child_and_resume_goes_on_with_it(bench: Bench, operator: Operator, stage: Stage) -> None:
    bench.submit()
    number = list(Stage).index(stage)
    for earlier in list(Stage)[:number]:
        succeed(bench, earlier)
    child = f"mascot-{stage.value}-1"
    bench.run(child, NODES[stage])
    before = bench.children()[child]["metadata"]["uid"]
    bench.edit({"spec": {"runPolicy": {"suspend": True}}})
    bench.plane.wait("the pods to go", lambda: not bench.pods(child))
    bench.plane.wait("Suspended", lambda: bench.status().phase is Phase.SUSPENDED)
    status = bench.status()
    assert status.active_since is None
    assert status.stages[number].state is StageState.SUSPENDED
    bench.edit({"spec": {"runPolicy": {"suspend": False}}})
    bench.run(child, NODES[stage])
    assert bench.children()[child]["metadata"]["uid"] == before
    bench.plane.wait("it to go on", lambda: bench.status().phase is PHASES[stage])
    resumed = bench.status().stages[number]
    assert (resumed.attempt, resumed.restarts.disruptions, resumed.restarts.failures) == (1, 0, 0)


def test_past_its_deadline_the_gang_ends(bench: Bench, operator: Operator) -> None:
    bench.submit(runPolicy={"activeDeadlineSeconds": 15})
    bench.run(P1, 1)
    assert bench.wait_true("Failed").reason == "DeadlineExceeded"
    bench.plane.wait("the gang to go", lambda: not bench.children())


def test_a_finished_job_goes_when_its_time_has_come(bench: Bench, operator: Operator) -> None:
    bench.submit(runPolicy={"ttlSecondsAfterFinished": 8, "backoffLimit": 0})
    bench.run(P1, 1)
    bench.end(P1, ExitCode.USER_ERROR, Outcome("Nothing"))
    bench.wait_true("Failed")
    finished = parse_time(bench.status().completion_time)
    assert finished is not None
    while (datetime.now(UTC) - finished).total_seconds() < 6.5:  # a request may take its time
        assert bench.status().completion_time is not None, "it went too soon"
        pause(0.2)
    bench.plane.wait("the job to go", bench.gone, 10)
    bench.plane.wait("everything to go", lambda: bench.everything() == [], 30)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"tolerations": [{"key": "gpu", "operator": "Perhaps"}]}, "Perhaps"),
        ({"tolerations": [{"kee": "gpu"}]}, "kee"),
        ({"affinity": {"nodeAffinity": []}}, "nodeAffinity"),
        ({"volumeMounts": [{"name": "nowhere", "mountPath": "/data"}]}, "nowhere"),
        ({"env": [{"value": "nameless"}]}, "name"),
    ],
)
def test_what_the_api_server_calls_invalid_fails_with_its_words(
    bench: Bench, operator: Operator, template: dict[str, object], words: str
) -> None:
    bench.submit(podTemplate=template)
    failed = bench.wait_true("Failed")
    assert words in failed.message
    assert "podTemplate" in failed.message
    assert bench.children() == {}


def test_what_takes_the_operator_s_place_in_the_pod_is_an_invalid_spec(bench: Bench, operator: Operator) -> None:
    bench.submit(podTemplate={"env": [{"name": "INSTRUCTBOOTH_STAGE", "value": "x"}]})
    failed = bench.wait_true("Failed")
    assert failed.reason == "InvalidSpec"
    assert "spec.podTemplate.env[0].name" in failed.message


def test_a_stranger_s_snapshot_is_left_alone(bench: Bench, operator: Operator) -> None:
    bench.create("configmaps", {"metadata": {"name": "mascot-spec"}, "data": {"job.json": "{}"}})
    bench.submit()
    blocked = bench.wait_true("Blocked")
    assert blocked.reason == "NameTaken"
    assert "ConfigMap mascot-spec" in blocked.message
    assert bench.children() == {}


def test_the_job_is_edited_all_the_time(bench: Bench, operator: Operator) -> None:
    """Every status write races with somebody else's: none is lost, none overwrites."""
    bench.submit()
    for stage in Stage:
        for number in range(20):
            bench.edit({"metadata": {"labels": {"turn": str(number)}}})
        succeed(bench, stage)
    bench.wait_true("Succeeded")
    assert [s.attempt for s in bench.status().stages] == [1, 1, 1]
    assert bench.job()["metadata"]["labels"] == {"turn": "19"}


def test_the_api_server_goes_away_and_comes_back(bench: Bench, operator: Operator) -> None:
    reach_reinforce(bench)
    bench.plane.stop("kube-apiserver")
    pause(3)
    bench.plane.start_api_server()
    bench.end(R1, 0, success(Stage.REINFORCE), count=2)
    succeed(bench, Stage.EVALUATE)
    bench.wait_true("Succeeded")
    assert operator.process is not None
    assert operator.process.poll() is None
    assert [s.attempt for s in bench.status().stages] == [1, 1, 1]


def test_a_second_replica_takes_over(bench: Bench, rank0: Rank0) -> None:
    flags = ("--lease=instructbooth", f"--pod-namespace={bench.namespace}")
    first, second = (
        Operator(bench.plane, bench.namespace, rank0.url, *flags, name=name) for name in ("first", "second")
    )
    try:
        first.start()
        second.start(wait=False)
        bench.plane.wait("the standby", lambda: "standing by" in second.answer("/readyz")[1], START_SECONDS)
        bench.submit()
        bench.run(P1, 1)
        assert second.metric("instructbooth_leader") == 0
        first.kill()
        bench.end(P1, 0, success(Stage.PERSONALIZE))
        bench.wait_pods(R1, 2)
        assert second.kill(signal.SIGTERM) == 0
        first.start()  # at once: the Lease was released
    finally:
        for process in (first, second):
            if process.process is not None:
                process.kill()
