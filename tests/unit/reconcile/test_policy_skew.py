"""The definition, or whoever wrote the status, is newer than this version, or older."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from instructbooth.contract import Stage
from instructbooth.reconcile.conditions import find
from instructbooth.spec.status import InstructBoothJobStatus, Phase, StageState
from tests.unit.reconcile.world import World, job_object

NEW: dict[str, Any] = {"sharpness": {"gamma": 2}}


def newer(world: World, *path: str) -> None:
    """A newer definition is applied: the API server writes the default of its new field into the job."""
    place: Any = world.job["spec"]
    for part in path:
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    place |= deepcopy(NEW)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ((), "spec.sharpness"),
        (("personalization",), "spec.personalization.sharpness"),
        (("runPolicy",), "spec.runPolicy.sharpness"),
        (("reinforcement", "rewards", "0"), "spec.reinforcement.rewards[0].sharpness"),
    ],
)
def test_a_job_that_has_not_begun_waits_for_an_operator_that_knows_its_fields(
    path: tuple[str, ...], named: str
) -> None:
    world = World()
    newer(world, *path)
    world.settle()
    assert (world.launched, world.status.phase) == ([], Phase.PENDING)
    blocked = find(world.status.conditions, "Blocked")
    assert blocked is not None
    assert (blocked.status, blocked.reason) == ("True", "NewerDefinition")
    assert blocked.message.startswith(f"{named}: the definition is newer than the operator")
    assert find(world.status.conditions, "Failed") is None
    assert [event.reason for event in world.events] == ["Blocked"]
    world.job["spec"] = job_object()["spec"]  # the new operator knows all there is
    world.settle()
    assert world.launched == ["mascot-personalize-1"]


@pytest.mark.parametrize("path", [(), ("runPolicy",), ("reinforcement",)])
def test_a_run_that_has_begun_goes_on_as_what_it_resolved_to(path: tuple[str, ...]) -> None:
    world = World()
    world.settle()
    newer(world, *path)
    for stage in Stage:
        world.run(f"mascot-{stage.value}-1")
        world.complete(f"mascot-{stage.value}-1")
        world.settle()
    assert world.status.phase is Phase.SUCCEEDED
    assert [stage.attempt for stage in world.status.stages] == [1, 1, 1]
    assert world.launched == [f"mascot-{stage.value}-1" for stage in Stage]


def test_a_child_without_a_status_is_a_run_that_has_begun() -> None:
    """The old operator was killed after it created the child, and before it wrote so."""
    world = World()
    created = len(world.plan().actions)
    world.reconcile(steps=created)
    assert world.status.start_time is None
    newer(world)
    world.settle()
    assert world.status.phase is Phase.PERSONALIZING
    assert world.launched == ["mascot-personalize-1"]


def test_mistakes_that_this_version_knows_are_mistakes_still() -> None:
    world = World(job_object(podTemplate={"env": [{"name": "INSTRUCTBOOTH_STAGE", "value": "x"}]}))
    newer(world)
    world.settle()
    failed = find(world.status.conditions, "Failed")
    assert failed is not None
    assert failed.reason == "InvalidSpec"
    assert "sharpness" not in failed.message


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"backoffLimit": 10_000}, "spec.runPolicy.backoffLimit: Input should be less than or equal to 100"),
        ({"stallTimeoutSeconds": 10}, "spec.runPolicy: stallTimeoutSeconds: must be 0 (never) or at least 30"),
    ],
)
def test_a_value_that_only_a_newer_definition_allows_ends_no_run(policy: dict[str, int], said: str) -> None:
    world = World()
    world.settle()
    world.run("mascot-personalize-1")
    world.settle()
    world.edit(**policy)
    world.settle()
    assert (world.status.phase, list(world.children)) == (Phase.PERSONALIZING, ["mascot-personalize-1"])
    blocked = find(world.status.conditions, "Blocked")
    assert blocked is not None
    assert blocked.message.startswith(said)
    world.complete("mascot-personalize-1")
    world.settle()
    assert world.launched == ["mascot-personalize-1"]  # what comes next may hinge on it
    world.edit(backoffLimit=3, stallTimeoutSeconds=30)
    world.settle()
    assert world.launched == ["mascot-personalize-1", "mascot-reinforce-1"]


def twice(spec: dict[str, Any]) -> None:
    spec["evaluation"]["metrics"].append(deepcopy(spec["evaluation"]["metrics"][0]))


def of_another_family(spec: dict[str, Any]) -> None:
    spec["model"]["family"] = "flux"
    spec["personalization"]["minSnrGamma"] = 5


@pytest.mark.parametrize("begun", ["not at all", "in the status", "a child alone"])
@pytest.mark.parametrize(
    ("breach", "said"),
    [(twice, "spec.evaluation: metrics: names a metric twice"), (of_another_family, "has no meaning for model.family")],
)
def test_a_rule_that_came_after_a_run_had_begun_is_not_for_it(
    breach: Callable[[dict[str, Any]], None], said: str, begun: str
) -> None:
    world = World()
    if begun == "in the status":
        world.settle()
    elif begun == "a child alone":  # the operator died after it had made it
        world.reconcile(steps=len(world.plan().actions))
    world.job["spec"].setdefault("personalization", {})
    breach(world.job["spec"])
    newer(world, "reinforcement")  # beside a field that this version does not know
    world.settle()
    if begun == "not at all":
        failed = find(world.status.conditions, "Failed")
        assert failed is not None
        assert said in failed.message
        return
    for stage in Stage:
        world.run(f"mascot-{stage.value}-1")
        world.complete(f"mascot-{stage.value}-1")
        world.settle()
    assert world.status.phase is Phase.SUCCEEDED
    assert find(world.status.conditions, "Blocked") is None


def test_an_edit_that_this_version_does_not_know_is_not_taken_for_an_old_rule() -> None:
    world = World()
    world.settle()
    world.run("mascot-personalize-1")
    world.settle()
    world.edit(stallTimeoutSeconds=10)
    newer(world, "runPolicy")
    world.settle()
    blocked = find(world.status.conditions, "Blocked")
    assert blocked is not None
    assert blocked.message.startswith("spec.runPolicy: stallTimeoutSeconds: must be 0 (never) or at least 30")


def test_a_choice_that_only_a_newer_definition_has_makes_a_new_job_wait() -> None:
    world = World()
    world.job["spec"]["model"]["family"] = "stable-diffusion-9"
    world.settle()
    assert (world.launched, world.status.phase) == ([], Phase.PENDING)
    blocked = find(world.status.conditions, "Blocked")
    assert blocked is not None
    assert (blocked.status, blocked.reason) == ("True", "NewerDefinition")


def test_a_finished_job_s_time_to_live_is_read_beside_fields_to_come() -> None:
    world = World(job_object(runPolicy={"ttlSecondsAfterFinished": 60}))
    world.settle()
    for stage in Stage:
        world.complete(f"mascot-{stage.value}-1")
        world.settle()
    newer(world, "runPolicy")
    world.wait(61)
    world.settle()
    assert world.gone


OLD_STAGE = {"name": "personalize", "state": "Running", "attempt": 1, "jobName": "mascot-personalize-1"}
FAILED_STAGE = {
    "name": "reinforce",
    "state": "Restarting",
    "attempt": 2,
    "restarts": {"failures": 1},
    "failure": {"attempt": 2, "reason": "Error", "exitCode": 1},
}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({}, {"phase": Phase.PENDING}, id="none"),
        pytest.param({"phase": "Personalizing"}, {"phase": Phase.PERSONALIZING, "stages": []}, id="no stages"),
        pytest.param(
            {"phase": "Personalizing", "stages": [OLD_STAGE]},
            {"stages.0.nodes": None, "stages.0.restarts.failures": 0, "stages.0.metrics": {}},
            id="a stage before it had nodes, restarts and metrics",
        ),
        pytest.param(
            {"stages": [FAILED_STAGE]},
            {"stages.0.failure.log": [], "stages.0.restarts.disruptions": 0, "stages.0.state": StageState.RESTARTING},
            id="a failure before it had a log",
        ),
        pytest.param(
            {"phase": "Personalizing", "queue": {"position": 3}, "stages": [OLD_STAGE | {"gpuHours": 1.5}]},
            {"phase": Phase.PERSONALIZING, "stages.0.attempt": 1},
            id="fields to come",
        ),
        pytest.param(
            {"phase": "Draining", "stages": [OLD_STAGE | {"state": "Draining"}]},
            {"phase": Phase.PENDING, "stages.0.state": StageState.RUNNING},
            id="words to come",
        ),
        pytest.param(
            {"stages": [OLD_STAGE | {"progress": {"step": 3, "total": 9, "epoch": 1}}]},
            {"stages.0.progress.step": 3},
            id="a field to come deep inside",
        ),
    ],
)
def test_statuses_of_other_versions_are_read(status: dict[str, Any], expected: dict[str, Any]) -> None:
    read = InstructBoothJobStatus.from_object(job_object() | {"status": status})
    for path, value in expected.items():
        found: Any = read
        for part in path.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        assert found == value, path


def test_a_status_with_fields_to_come_is_gone_on_with() -> None:
    """The operator was rolled back, the definition was not."""
    world = World()
    world.settle()
    world.run("mascot-personalize-1")
    world.settle()
    world.job["status"] |= {"queue": {"position": 3}}
    world.job["status"]["stages"][0] |= {"gpuHours": 1.5}
    world.complete("mascot-personalize-1")
    world.settle()
    assert world.launched == ["mascot-personalize-1", "mascot-reinforce-1"]
