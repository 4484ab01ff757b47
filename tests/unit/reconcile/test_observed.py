"""Objects as the API server returns them, read."""

from __future__ import annotations

from typing import Any

import pytest

from instructbooth.contract import Stage
from instructbooth.reconcile.observed import ChildJob, Pod, format_time, parse_time
from instructbooth.reconcile.outcome import parse_outcome
from instructbooth.reconcile.patch import merge_patch

TIME = "2026-11-23T09:00:00Z"


def job(status: dict[str, Any], **meta: Any) -> dict[str, Any]:
    labels = {"instructbooth.io/stage": "reinforce", "instructbooth.io/attempt": "3"}
    return {
        "metadata": {"name": "m-reinforce-3", "labels": labels, "creationTimestamp": TIME, **meta},
        "spec": {"parallelism": 2, "suspend": False},
        "status": status,
    }


def condition(kind: str, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "PodFailurePolicy", "message": "x", "lastTransitionTime": TIME}


def test_a_child_that_runs() -> None:
    child = ChildJob.from_object(job({"active": 2, "ready": 1, "startTime": TIME}))
    assert (child.stage, child.attempt, child.parallelism, child.ready) == (Stage.REINFORCE, 3, 2, 1)
    assert child.live
    assert child.started == parse_time(TIME)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, (False, None)),
        ({"instructbooth.io/suspended": "true"}, (True, None)),
        ({"kueue.x-k8s.io/queue-name": "default"}, (False, "default")),
    ],
)
def test_who_may_let_a_child_go(labels: dict[str, str], expected: tuple[bool, str | None]) -> None:
    obj = job({})
    obj["metadata"]["labels"] |= labels
    child = ChildJob.from_object(obj)
    assert (child.suspended_by_operator, child.queue) == expected


def test_a_child_has_failed_as_soon_as_that_is_decided() -> None:
    child = ChildJob.from_object(job({"conditions": [condition("FailureTarget")]}))
    assert child.failure is not None
    assert not child.live


def test_a_condition_that_does_not_hold_says_nothing() -> None:
    child = ChildJob.from_object(job({"conditions": [condition("Failed", "False"), condition("Complete", "False")]}))
    assert child.failure is None
    assert not child.complete


def test_a_child_that_is_going() -> None:
    child = ChildJob.from_object(job({}, deletionTimestamp=TIME))
    assert child.deleting
    assert not child.live


def pod(status: dict[str, Any], **meta: Any) -> Pod:
    annotations = {"batch.kubernetes.io/job-completion-index": "1"}
    return Pod.from_object({"metadata": {"name": "p", "annotations": annotations, **meta}, "status": status})


def test_the_end_of_a_container() -> None:
    ended = {"exitCode": 64, "reason": "Error", "message": "said", "finishedAt": TIME}
    found = pod({"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}]})
    assert found.rank == 1
    assert found.exit is not None
    assert (found.exit.code, found.exit.message) == (64, "said")


def test_another_container_s_end_is_not_the_trainer_s() -> None:
    ended = {"exitCode": 1, "finishedAt": TIME}
    assert pod({"containerStatuses": [{"name": "sidecar", "state": {"terminated": ended}}]}).exit is None


def test_when_a_deletion_was_asked_for() -> None:
    found = pod({}, deletionTimestamp="2026-11-23T09:01:00Z", deletionGracePeriodSeconds=60)
    assert found.deletion_asked == parse_time(TIME)


def test_what_the_scheduler_says() -> None:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    assert pod({"conditions": [said]}).unschedulable == "0/3 nodes"
    assert pod({"conditions": [said | {"reason": "SchedulingGated"}]}).unschedulable == ""


def test_a_pod_of_which_no_scheduler_says_anything() -> None:
    said = {"type": "PodScheduled", "status": "False", "reason": "Schedulable", "message": "once a node is free"}
    assert pod({}, creationTimestamp=TIME).ignored == parse_time(TIME)
    assert pod({"conditions": [said]}, creationTimestamp=TIME).ignored is None
    assert pod({"nominatedNodeName": "gpu-1"}, creationTimestamp=TIME).ignored is None


def test_a_disruption_has_words_and_a_time() -> None:
    found = pod({"conditions": [condition("DisruptionTarget") | {"message": "preempting"}]})
    assert (found.disruption, found.disrupted) == ("preempting", parse_time(TIME))
    assert pod({"conditions": [condition("DisruptionTarget", "False")]}).disrupted is None


def test_times_are_read_and_written() -> None:
    time = parse_time(TIME)
    assert time is not None
    assert format_time(time) == TIME
    assert parse_time(None) is None


def test_an_outcome_is_read_and_anything_else_is_none() -> None:
    said = parse_outcome('{"reason": "Completed", "artifact": "s3://x", "metrics": {"a": 1, "b": NaN, "c": "x"}}')
    assert said is not None
    assert (said.artifact, said.metrics) == ("s3://x", {"a": 1.0})
    for other in ("", "Traceback", "[1]", '{"message": "x"}', '{"reason": 5}'):
        assert parse_outcome(other) is None


def test_a_patch_says_only_what_differs() -> None:
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1], "f": 0}
    assert merge_patch(old, old) == {}
    assert merge_patch(old, {"a": 1, "b": {"c": 9}, "e": [1, 2]}) == {"b": {"c": 9, "d": None}, "e": [1, 2], "f": None}


@pytest.mark.parametrize(
    ("message", "metrics"),
    [
        ('{"reason": "Completed", "metrics": {"a": 1, "b": true, "c": "x", "d": NaN, "e": 1e999}}', {"a": 1.0}),
        ('{"reason": "Completed", "metrics": {"a": 2, "b": 1' + "0" * 400 + "}}", {"a": 2.0}),
        ("[" * 60_000, None),
        ('{"reason": 7}', None),
        ("Traceback (most recent call last):", None),
    ],
)
def test_last_words_are_taken_as_far_as_they_can_be(message: str, metrics: dict[str, float] | None) -> None:
    outcome = parse_outcome(message)
    assert (outcome.metrics if outcome else None) == metrics


def test_a_pod_knows_how_many_its_gang_has_and_when_it_found_a_node() -> None:
    env = [{"name": "INSTRUCTBOOTH_POD_IP", "valueFrom": {}}, {"name": "INSTRUCTBOOTH_NODES", "value": "3"}]
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": TIME}
    obj = {
        "metadata": {"name": "p0"},
        "spec": {"containers": [{"name": "trainer", "env": env}]},
        "status": {"conditions": [placed]},
    }
    assert (Pod.from_object(obj).gang, Pod.from_object(obj).placed) == (3, parse_time(TIME))
    placed["status"] = "False"
    assert Pod.from_object(obj).placed is None
    assert Pod.from_object({"metadata": {"name": "a stranger"}}).gang == 1


def test_a_pod_knows_since_when_it_runs() -> None:
    trainer: dict[str, Any] = {"name": "trainer", "state": {"running": {"startedAt": TIME}}}
    obj = {"metadata": {"name": "p0"}, "status": {"containerStatuses": [trainer]}}
    assert Pod.from_object(obj).running == parse_time(TIME)
    trainer["state"] = {"waiting": {"reason": "ContainerCreating"}}
    assert Pod.from_object(obj).running is None
