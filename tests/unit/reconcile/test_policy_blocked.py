"""Gangs that do not start: when to look, what to say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from instructbooth.contract import Stage
from instructbooth.reconcile.actions import Apply, Haste, Look
from instructbooth.reconcile.conditions import find
from instructbooth.reconcile.observed import ChildJob, Evidence, Pod, Warning
from instructbooth.reconcile.policies.blocked import UNBEGUN_SECONDS, blocker, look_again_seconds, overdue
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.status import Progress
from tests.unit.reconcile.world import START, World, job_object, reason, started

HUB = {"repo": "a/b", "revision": "0" * 40, "tokenSecretRef": {"name": "hub", "key": "token"}}
REWARDS = [{"name": "clip-score"}, {"name": "image-reward", "model": {"hub": HUB}}]
SPEC = ResolvedJob.from_object(job_object(reinforcement={"rewards": REWARDS})).spec
CHILD = ChildJob("mascot-reinforce-1", Stage.REINFORCE, 1, 2, START, started=START)
P1 = "mascot-personalize-1"


def waiting(reason: str, message: str) -> Pod:
    return Pod("p0", 0, waiting_reason=reason, waiting_message=message)


@pytest.mark.parametrize(
    ("evidence", "reason", "words"),
    [
        pytest.param(
            Evidence((waiting("CreateContainerConfigError", 'secret "minio-credentials" not found'),)),
            "CreateContainerConfigError",
            ["not found", "artifacts.credentialsSecretRef", "accessKey and secretKey"],
            id="no Secret",
        ),
        pytest.param(
            Evidence((waiting("CreateContainerConfigError", "couldn't find key token in Secret lab/hub"),)),
            "CreateContainerConfigError",
            ["reinforcement.rewards[1].model.hub.tokenSecretRef", "with the key token"],
            id="no token for a reward's model",
        ),
        pytest.param(
            Evidence((waiting("CreateContainerConfigError", 'secret "minio-credentials-old" not found'),)),
            "CreateContainerConfigError",
            ["podTemplate.env"],
            id="a Secret whose name only begins like ours",
        ),
        pytest.param(
            Evidence((waiting("CreateContainerConfigError", 'configmap "x" not found'),)),
            "CreateContainerConfigError",
            ["podTemplate.env"],
            id="an env of the user's",
        ),
        pytest.param(
            Evidence((waiting("ErrImagePull", "not found"),)), "ImagePullFailed", ["podTemplate.image"], id="image"
        ),
        pytest.param(
            Evidence((Pod("p0", 0), Pod("p1", 1, unschedulable="0/3 nodes: Insufficient nvidia.com/gpu"))),
            "Unschedulable",
            ["Insufficient nvidia.com/gpu", "reinforcement.gpusPerNode"],
            id="no node",
        ),
        pytest.param(
            Evidence((Pod("p0", 0),), (Warning("p0", "FailedMount", 'configmap "pictures" not found'),)),
            "VolumeNotMounted",
            ["pictures", "create the ConfigMap"],
            id="no ConfigMap",
        ),
        pytest.param(
            Evidence((), (Warning("mascot-reinforce-1", "FailedCreate", "exceeded quota"),)),
            "PodsNotCreated",
            ["exceeded quota"],
            id="quota",
        ),
    ],
)
def test_what_keeps_a_gang_from_starting(evidence: Evidence, reason: str, words: list[str]) -> None:
    found = blocker(SPEC, Stage.REINFORCE, CHILD, evidence, START)
    assert found is not None
    assert found.reason == reason
    for word in words:
        assert word in found.message


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(),
        Evidence((Pod("p0", 0, "Running"), waiting("ContainerCreating", ""))),
        Evidence((Pod("p0", 0),), (Warning("p0", "BackOff", "x"),)),
    ],
)
def test_what_may_still_be_on_its_way_is_not_blocked(evidence: Evidence) -> None:
    assert blocker(SPEC, Stage.REINFORCE, CHILD, evidence, START) is None


IGNORED = Pod("p1", 1, ignored=START)


@pytest.mark.parametrize(
    ("scheduler", "pod", "seconds", "told"),
    [
        ("gangs", IGNORED, 60, True),
        ("gangs", IGNORED, 59, False),
        ("gangs", replace(IGNORED, ignored=None), 60, False),
        ("gangs", replace(IGNORED, node="gpu-1"), 60, False),
        ("gangs", replace(IGNORED, phase="Failed"), 60, False),
        ("gangs", replace(IGNORED, deletion_asked=START), 60, False),
        ("default-scheduler", IGNORED, 60, False),
        (None, IGNORED, 60, False),
    ],
)
def test_a_scheduler_that_says_nothing_is_told_of(scheduler: str | None, pod: Pod, seconds: int, told: bool) -> None:
    template = SPEC.pod_template.model_copy(update={"scheduler_name": scheduler})
    spec = SPEC.model_copy(update={"pod_template": template})
    now = START + timedelta(seconds=seconds)
    placed = Pod("p0", 0, node="gpu-1")
    found = blocker(spec, Stage.REINFORCE, CHILD, Evidence((placed, pod)), now)
    assert (found and found.reason) == ("NotScheduled" if told else None)
    assert found is None or "the scheduler gangs says nothing of 1 of its pods" in found.message
    refused = blocker(spec, Stage.REINFORCE, CHILD, Evidence((pod, Pod("p2", 2, unschedulable="no room"))), now)
    assert refused is not None
    assert refused.reason == "Unschedulable"


@pytest.mark.parametrize(
    ("ready", "succeeded", "seconds", "late"), [(0, 0, 9, False), (0, 0, 10, True), (1, 0, 10, True), (1, 1, 10, False)]
)
def test_ten_seconds_are_enough_to_start(ready: int, succeeded: int, seconds: int, late: bool) -> None:
    child = replace(CHILD, ready=ready, succeeded=succeeded)
    assert overdue(child, START + timedelta(seconds=seconds)) is late


@pytest.mark.parametrize(
    ("fields", "said", "haste"),
    [
        ({}, False, Haste.IN_TURN),
        ({"ready": 1}, False, Haste.SOON),
        ({"succeeded": 1}, False, Haste.SOON),
        ({}, True, Haste.SOON),
    ],
)
def test_a_gang_that_has_begun_and_is_not_whole_is_looked_at_soon(
    fields: dict[str, int], said: bool, haste: Haste
) -> None:
    world = World(job_object(personalization={"nodes": 2}))
    world.settle()
    if said:
        world.run(P1)
        world.progress[P1] = Progress(step=1, total=2)
        world.settle()
    world.children[P1] = replace(world.children[P1], **{"ready": 0, **fields})  # type: ignore[arg-type]
    world.wait(10)
    world.plan()
    assert world.asked == Look(P1, haste)


def test_there_is_nothing_to_look_at_before_the_job_controller_has_begun() -> None:
    assert not overdue(replace(CHILD, started=None), START + timedelta(hours=1))


@pytest.mark.parametrize(("volume", "mended"), [("mascot-spec", ["ConfigMap"]), ("pictures", [])])
def test_a_snapshot_that_a_pod_waits_for_is_brought_back(volume: str, mended: list[str]) -> None:
    world = World()
    world.settle()
    world.wait(10)
    message = f'MountVolume.SetUp failed for volume "x": configmap "{volume}" not found'
    world.evidence[P1] = Evidence((waiting("ContainerCreating", ""),), (Warning("p0", "FailedMount", message),))
    made = world.plan()
    assert [action.manifest["kind"] for action in made.actions if isinstance(action, Apply)] == mended
    assert find(made.status.conditions, "Blocked") is not None


def test_looking_again_gets_rarer() -> None:
    ages = (0, 8, 10, 40, 120, 100_000)
    waits = [look_again_seconds(CHILD, START + timedelta(seconds=age)) for age in ages]
    assert waits == [10.5, 2.5, 5, 10, 25, 25]
    assert look_again_seconds(replace(CHILD, started=None), START) == UNBEGUN_SECONDS


def stuck(world: World, message: str) -> None:
    world.evidence[P1] = Evidence((waiting("CreateContainerConfigError", message),))


def test_blocked_comes_and_goes_without_a_restart() -> None:
    world = World()
    world.settle()
    stuck(world, 'secret "minio-credentials" not found')
    world.settle()
    assert find(world.status.conditions, "Blocked") is None
    world.wait(10)
    world.settle()
    condition = find(world.status.conditions, "Blocked")
    assert condition is not None
    assert condition.status == "True"
    stuck(world, "couldn't find key accessKey in Secret lab/minio-credentials")
    world.settle()
    condition = find(world.status.conditions, "Blocked")
    assert condition is not None
    assert "couldn't find key" in condition.message
    world.run(P1)
    world.settle()
    condition = find(world.status.conditions, "Blocked")
    assert condition is not None
    assert condition.status == "False"
    assert world.launched == [P1]
    assert [event.reason for event in world.events] == ["StageStarted", "Blocked"]


def test_to_wait_for_room_is_a_condition_and_no_event() -> None:
    world = World()
    world.settle()
    world.evidence[P1] = Evidence((Pod("p0", 0, unschedulable="0/2 nodes are available"),))
    world.wait(10)
    world.settle()
    condition = find(world.status.conditions, "Blocked")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "Unschedulable")
    world.run(P1)
    world.settle()
    assert [event.reason for event in world.events] == ["StageStarted"]


NO_ROOM = Pod("p0", 0, unschedulable="0/2 nodes are available")


@pytest.mark.parametrize(
    ("policy", "pods", "unplaced", "again"),
    [
        pytest.param({}, (NO_ROOM, NO_ROOM), True, None, id="no room for any pod"),
        pytest.param({"activeDeadlineSeconds": 130}, (NO_ROOM, NO_ROOM), True, 30, id="and not for ever"),
        pytest.param({"placementTimeoutSeconds": 0}, (NO_ROOM, Pod("p1", 1, "Running")), False, None, id="for one pod"),
        pytest.param({}, (Pod("p0", 0, waiting_reason="ErrImagePull"),), False, None, id="another reason"),
    ],
)
def test_a_gang_that_does_not_start_is_looked_at_again_without_a_plan(
    policy: dict[str, Any], pods: tuple[Pod, ...], unplaced: bool, again: float | None
) -> None:
    world = World(job_object(runPolicy=policy))
    world.settle()
    world.evidence[P1] = Evidence(pods)
    world.wait(100)
    made = world.plan()
    assert made.look_again == (25.0, Look(P1, Haste.IN_TURN, unplaced))
    assert made.requeue_after == again


def test_a_gang_that_may_shrink_is_planned_when_it_is_time() -> None:
    world = World(job_object(personalization={"nodes": 2, "minNodes": 1}, runPolicy={"shrinkAfterSeconds": 300}))
    world.settle()
    world.evidence[P1] = Evidence((NO_ROOM, NO_ROOM))
    world.wait(100)
    made = world.plan()
    assert made.look_again == (25.0, Look(P1, Haste.IN_TURN, True))
    assert made.requeue_after == 200


def test_the_scheduler_s_changing_words_are_not_written_again_and_again() -> None:
    world = World()
    world.settle()
    world.wait(20)
    for free in range(3):
        world.evidence[P1] = Evidence((Pod("p0", 0, unschedulable=f"0/{free} nodes are available"),))
        world.settle()
    condition = find(world.status.conditions, "Blocked")
    assert condition is not None
    assert "0/0 nodes" in condition.message


def test_what_a_quota_says_anew_for_each_pod_it_refuses_is_written_once() -> None:
    world = World()
    world.settle()
    world.wait(30)
    for pod in ("mascot-personalize-1-0-x7f2p", "mascot-personalize-1-0-k9sdq"):
        message = f'pods "{pod}" is forbidden: exceeded quota: gpus'
        world.evidence[P1] = Evidence((), (Warning(P1, "FailedCreate", message),))
        world.settle()
        world.wait(30)
    condition = find(world.status.conditions, "Blocked")
    assert condition is not None
    assert (condition.reason, "x7f2p" in condition.message) == ("PodsNotCreated", True)


def test_a_clock_that_was_set_back_hides_no_blocked_pod() -> None:
    world = started()
    world.evidence[P1] = Evidence((Pod("p0", 0, waiting_reason="ImagePullBackOff", waiting_message="no such image"),))
    world.wait(-3600)
    made = world.reconcile()
    assert reason(world, "Blocked") == "ImagePullFailed"
    assert made.look_again is not None
    assert made.look_again[0] <= 60
