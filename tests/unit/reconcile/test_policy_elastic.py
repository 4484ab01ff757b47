"""Gangs for which there is no room: when they become smaller, by how much, and that they grow again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from instructbooth.contract import Env, Stage
from instructbooth.reconcile.actions import DeleteChild
from instructbooth.reconcile.observed import ChildJob, Evidence, Pod, Warning
from instructbooth.reconcile.policies.elastic import seconds_left, smaller
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.status import Restarts, StageState, StageStatus
from tests.unit.reconcile.test_plan import P1, R1, R2, through
from tests.unit.reconcile.world import START, World, job_object

R3, R4 = "mascot-reinforce-3", "mascot-reinforce-4"
CHILD = ChildJob(R1, Stage.REINFORCE, 1, 4, START, started=START)
STATUS = StageStatus(name=Stage.REINFORCE, attempt=1, nodes=4)
SAID = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
REFUSED = Warning(R1, "FailedCreate", "exceeded quota: gpus")
WEBHOOK = Warning(R1, "FailedCreate", 'failed calling webhook "pods.example.com": connection refused')


def pods(placed: int, waiting: int) -> Evidence:
    there = [Pod(f"p{n}", n, "Running") for n in range(placed)]
    return Evidence((*there, *(Pod(f"p{n}", n, unschedulable=SAID) for n in range(placed, placed + waiting))))


def elastic_job(least: int | None, **policy: Any) -> dict[str, Any]:
    shape = {"nodes": 4} if least is None else {"nodes": 4, "minNodes": least}
    return job_object(reinforcement=shape, runPolicy=policy)


@pytest.mark.parametrize(
    ("least", "nodes", "evidence", "age", "left"),
    [
        pytest.param(2, 4, pods(3, 1), 100, 200, id="it may still find room"),
        pytest.param(2, 4, pods(3, 1), 300, 0, id="now"),
        pytest.param(2, 4, pods(3, 1), -3600, 300, id="a clock that is an hour behind"),
        pytest.param(2, 2, pods(1, 1), 300, None, id="as small as may be"),
        pytest.param(None, 4, pods(3, 1), 300, None, id="all or none"),
        pytest.param(2, 4, pods(4, 0), 300, None, id="not for lack of room"),
        pytest.param(2, 4, Evidence(), 300, None, id="no pods yet"),
        pytest.param(2, 4, Evidence(pods(3, 0).pods, (REFUSED,)), 300, 0, id="a quota"),
        pytest.param(2, 4, Evidence(pods(4, 0).pods, (REFUSED,)), 300, None, id="a quota that was there"),
        pytest.param(2, 4, Evidence((), (WEBHOOK,)), 300, None, id="a webhook that is down is no want of room"),
    ],
)
def test_when_a_gang_is_given_up_for_a_smaller_one(
    least: int | None, nodes: int, evidence: Evidence, age: int, left: float | None
) -> None:
    spec = ResolvedJob.from_object(elastic_job(least)).spec
    child = replace(CHILD, parallelism=nodes)
    assert seconds_left(spec, STATUS, child, evidence, START + timedelta(seconds=age)) == left


@pytest.mark.parametrize(
    ("least", "evidence", "nodes"),
    [
        (1, pods(3, 1), 3),
        (1, pods(1, 3), 1),
        (2, pods(1, 3), 2),
        (1, pods(0, 4), 1),
        (3, pods(0, 4), 3),
        (1, Evidence((*pods(3, 1).pods[1:], Pod("p0", 0, "Failed"))), 2),
    ],
)
def test_the_next_attempt_has_as_many_nodes_as_found_a_place(least: int, evidence: Evidence, nodes: int) -> None:
    shape = ResolvedJob.from_object(elastic_job(least)).spec.stage(Stage.REINFORCE)
    assert smaller(shape, CHILD, evidence) == nodes


@pytest.fixture
def world() -> World:
    """Reinforcement asks for 4 nodes, is content with 2, and 3 are there."""
    made = through(World(elastic_job(2)), P1)
    made.evidence[R1] = pods(3, 1)
    return made


def env_of(world: World, child: str) -> dict[str, str]:
    container = world.manifests[f"Job/{child}"]["spec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item.get("value", "") for item in container["env"]}


def test_a_gang_without_room_comes_back_smaller_and_says_so(world: World) -> None:
    world.wait(20)
    world.settle()
    assert world.stage(Stage.REINFORCE).nodes == 4
    assert any(c.type == "Blocked" and c.status == "True" and SAID in c.message for c in world.status.conditions)
    world.wait(279)
    assert world.reconcile().requeue_after == 1
    world.wait(1)
    assert world.reconcile().actions == ()  # written first
    stage = world.stage(Stage.REINFORCE)
    assert (stage.state, stage.nodes, stage.restarts) == (StageState.RESTARTING, 3, Restarts())
    assert stage.failure is not None
    assert stage.failure.reason == "NoRoom"
    assert stage.failure.message == (
        f"no room for 4 nodes in 300 s (runPolicy.shrinkAfterSeconds): {SAID}; the next attempt has 3"
    )
    assert world.reconcile().actions == (DeleteChild(R1),)
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (world.launched[-1], stage.nodes, stage.attempt) == (R2, 3, 2)
    manifest = world.manifests[f"Job/{R2}"]["spec"]
    assert (manifest["completions"], manifest["parallelism"]) == (3, 3)
    assert (env_of(world, R1)[Env.NODES], env_of(world, R2)[Env.NODES]) == ("4", "3")


def test_a_gang_that_found_room_since_it_was_looked_at_keeps_its_size(world: World) -> None:
    world.wait(300)
    world.late[R1], world.evidence[R1] = pods(3, 1), pods(4, 0)
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (stage.state, stage.attempt, stage.nodes) == (StageState.RUNNING, 1, 4)


def test_a_gang_that_a_quota_makes_smaller_says_so(world: World) -> None:
    world.evidence[R1] = Evidence(pods(3, 0).pods, (REFUSED,))
    world.wait(300)
    world.settle()
    failure = world.stage(Stage.REINFORCE).failure
    assert (world.launched[-1], world.stage(Stage.REINFORCE).nodes) == (R2, 3)
    assert failure is not None
    assert "(runPolicy.shrinkAfterSeconds): exceeded quota: gpus; the next attempt has 3" in failure.message


def test_it_shrinks_step_by_step_down_to_the_least_and_then_waits(world: World) -> None:
    world.wait(300)
    world.settle()
    world.evidence[R2] = pods(0, 3)
    world.wait(300)
    world.settle()
    assert (world.launched[-1], world.stage(Stage.REINFORCE).nodes) == (R3, 2)
    world.evidence[R3] = pods(1, 1)
    world.wait(10_000)
    world.settle()
    assert world.launched[-1] == R3
    assert any(c.type == "Blocked" and c.status == "True" and SAID in c.message for c in world.status.conditions)


@pytest.mark.parametrize("trouble", ["disrupt", "fail"])
def test_whatever_ends_a_small_gang_the_next_one_tries_all_nodes_again(world: World, trouble: str) -> None:
    world.wait(300)
    world.settle()
    world.run(R2)
    world.settle()
    if trouble == "fail":
        world.fail(R2, 1)
    else:
        world.disrupt(R2)
    world.settle()
    world.wait(5)
    world.settle()
    assert (world.launched[-1], world.stage(Stage.REINFORCE).nodes) == (R3, 4)


def test_a_killed_operator_makes_the_small_gang_all_the_same(world: World) -> None:
    world.wait(300)
    world.reconcile()
    world.reconcile()
    world.collect()
    world.reconcile(steps=3)  # the small gang was created, the status was not written
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (world.launched[-1], stage.nodes, stage.attempt) == (R2, 3, 2)
    assert R4 not in world.launched
