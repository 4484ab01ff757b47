"""plan() on its ordinary ways: three stages, adoption after a crash, the end."""

from __future__ import annotations

import json

import pytest

from instructbooth.contract import REWARD_METRIC, ExitCode, Stage
from instructbooth.reconcile.actions import DeleteChild
from instructbooth.reconcile.conditions import find
from instructbooth.reconcile.observed import Rejection
from instructbooth.spec.status import Phase, Progress, StageState
from tests.unit.reconcile.world import World, job_object

P1, R1, R2, E1 = "mascot-personalize-1", "mascot-reinforce-1", "mascot-reinforce-2", "mascot-evaluate-1"


@pytest.fixture
def world() -> World:
    return World()


def through(world: World, *names: str) -> World:
    """Settle, and let each named child run and complete."""
    world.settle()
    for name in names:
        world.run(name)
        world.wait(20)
        world.complete(name)
        world.settle()
    return world


def test_three_stages_end_in_success(world: World) -> None:
    through(world, P1, R1, E1)
    status = world.status
    assert (status.phase, status.stage, status.progress, status.reward) == (Phase.SUCCEEDED, "evaluate", "100%", "0.5")
    assert world.launched == [P1, R1, E1]
    assert status.evaluation == {"base": {"clip-score": 0.25}, "reinforced": {"clip-score": 0.5}}
    assert [stage.artifact for stage in status.stages] == [f"s3://runs/{stage.value}" for stage in Stage]
    assert status.active_seconds == 60
    assert status.active_since is None
    assert status.completion_time == "2026-11-23T09:01:00Z"
    reasons = [event.reason for event in world.events]
    assert reasons == ["StageStarted", "StageSucceeded", "StageStarted", "StageSucceeded", "StageStarted", "Succeeded"]


def test_phase_follows_the_stage(world: World) -> None:
    phases = []
    for child in (P1, R1, E1):
        world.settle()
        phases.append(world.status.phase)
        through(world, child)
    assert phases == [Phase.PERSONALIZING, Phase.REINFORCING, Phase.EVALUATING]


def test_the_next_stage_starts_in_the_step_that_sees_the_last_one_end(world: World) -> None:
    through(world)
    world.complete(P1)
    made = world.reconcile()
    assert [action.manifest["kind"] for action in made.actions] == ["Job"]  # type: ignore[union-attr]
    assert world.stage(Stage.PERSONALIZE).state is StageState.SUCCEEDED
    assert world.stage(Stage.REINFORCE).state is StageState.RUNNING


def test_later_stages_are_told_which_attempts_succeeded(world: World) -> None:
    through(world)
    world.fail(P1, ExitCode.TRANSIENT)
    world.settle()
    world.wait(10)
    world.settle()
    through(world, "mascot-personalize-2", R1)
    env = world.manifests[f"Job/{E1}"]["spec"]["template"]["spec"]["containers"][0]["env"]
    inputs = next(item["value"] for item in env if item["name"] == "INSTRUCTBOOTH_INPUTS")
    assert json.loads(inputs) == {"personalize": 2, "reinforce": 1}


def test_a_child_that_the_status_does_not_know_is_adopted(world: World) -> None:
    world.reconcile(steps=2)  # the child was created, then the operator died
    assert "status" not in world.job
    assert world.live
    world.settle()
    assert world.launched == [P1]
    stage = world.stage(Stage.PERSONALIZE)
    assert (stage.attempt, stage.nodes) == (1, 1)


def test_the_next_attempt_is_adopted_too(world: World) -> None:
    through(world, P1)
    world.fail(R1, 1)
    world.settle()
    world.wait(10)
    world.reconcile()
    world.collect()
    world.reconcile(steps=3)
    world.settle()
    assert world.launched == [P1, R1, R2]
    assert (world.stage(Stage.REINFORCE).attempt, world.stage(Stage.REINFORCE).state) == (2, StageState.RUNNING)


def test_the_end_is_written_before_the_evidence_goes(world: World) -> None:
    through(world, P1)
    world.disrupt(R1)
    first = world.reconcile()
    assert first.actions == ()
    assert world.stage(Stage.REINFORCE).failure is not None
    second = world.reconcile()
    assert second.actions == (DeleteChild(R1),)


def test_the_new_gang_waits_for_the_old_pods(world: World) -> None:
    through(world, P1)
    world.disrupt(R1)
    for _ in range(5):
        world.reconcile()
    assert world.launched == [P1, R1]  # deleting, not yet gone
    world.collect()
    world.settle()
    assert world.launched == [P1, R1, R2]


def test_a_deleted_child_is_a_disruption(world: World) -> None:
    through(world, P1)
    del world.children[R1]
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (stage.attempt, stage.restarts.disruptions, stage.restarts.failures) == (2, 1, 0)
    assert stage.failure is not None
    assert stage.failure.reason == "ChildDeleted"


def test_a_job_that_is_being_deleted_is_left_alone(world: World) -> None:
    through(world)
    world.job["metadata"]["deletionTimestamp"] = "2026-11-23T09:00:00Z"
    world.children.clear()
    made = world.plan()
    assert (made.actions, world.changes(made)) == ((), {})


def test_finished_is_final(world: World) -> None:
    through(world, P1, R1, E1)
    world.children.clear()
    world.edit(suspend=True, activeDeadlineSeconds=1)
    world.wait(10_000)
    made = world.plan()
    assert (made.actions, made.requeue_after, world.changes(made)) == ((), None, {})


def test_progress_is_copied_when_a_person_would_see_it(world: World) -> None:
    through(world)
    world.run(P1)
    world.progress[P1] = Progress(step=42, total=100, eta_seconds=187, metrics={"reward_mean": 0.61803})
    world.settle()
    assert (world.status.progress, world.status.reward) == ("42% 3m10s", None)  # it is not reinforce's
    world.progress[P1] = Progress(step=42, total=100, eta_seconds=188, metrics={"reward_mean": 0.61799})
    assert world.changes(world.plan()) == {}
    world.progress[P1] = Progress(step=43, total=100, eta_seconds=188)
    assert world.changes(world.plan())["progress"] == "43% 3m10s"


def test_the_reward_is_shown_while_reinforce_runs(world: World) -> None:
    through(world, P1)
    world.run(R1)
    world.progress[R1] = Progress(step=1, total=10, metrics={REWARD_METRIC: 0.61803})
    world.settle()
    assert world.status.reward == "0.618"


def test_progress_is_pulled_from_rank_0_while_the_gang_runs(world: World) -> None:
    through(world)
    assert world.plan().pull_from is None
    world.run(P1)
    assert world.plan().pull_from == P1


def test_observed_generation_follows_an_edit(world: World) -> None:
    through(world)
    world.edit(backoffLimit=1)
    world.settle()
    assert world.status.observed_generation == 2


def test_a_manifest_that_can_never_be_valid_fails_the_job(world: World) -> None:
    world.rejection = Rejection("Job", P1, "Invalid", "spec.tolerations[0].operator: unknown", final=True)
    world.settle()
    condition = find(world.status.conditions, "Failed")
    assert condition is not None
    assert condition.reason == "Invalid"
    assert "podTemplate" in condition.message
    assert world.launched == []


def test_a_refusal_that_may_pass_blocks_the_job(world: World) -> None:
    world.rejection = Rejection("Job", P1, "Forbidden", "exceeded quota", final=False)
    made = world.plan()
    assert made.requeue_after == 30
    assert made.actions == ()
    condition = find(made.status.conditions, "Blocked")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "Forbidden")
    assert "exceeded quota; a quota, an admission policy" in condition.message
    world.rejection = None
    world.settle()
    assert world.launched == [P1]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"env": [{"name": "INSTRUCTBOOTH_STAGE", "value": "x"}]}, "spec.podTemplate.env[0].name"),
        ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "there 2 times"),
        ({"volumes": [{"name": "ib-x", "emptyDir": {}}]}, "spec.podTemplate.volumes[0].name"),
        ({"labels": {"instructbooth.io/job": "x"}}, "spec.podTemplate.labels"),
        ({"image": ""}, "spec.podTemplate.image"),
    ],
)
def test_a_spec_that_cannot_be_run_fails_with_its_path(template: dict[str, object], said: str) -> None:
    world = World(job_object(podTemplate=template))
    world.settle()
    accepted, failed = (find(world.status.conditions, kind) for kind in ("Accepted", "Failed"))
    assert accepted is not None
    assert failed is not None
    assert (accepted.status, failed.reason) == ("False", "InvalidSpec")
    assert said in failed.message
    assert world.launched == []
    assert world.status.phase is Phase.FAILED
