"""Half a gang: when it gives its nodes back, when it comes again, and that no two hold each other up for ever."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructbooth.contract import Stage
from instructbooth.reconcile.actions import DeleteChild
from instructbooth.reconcile.conditions import find, holds
from instructbooth.reconcile.observed import ChildJob, Evidence, Pod, Warning
from instructbooth.reconcile.policies.retry import Cause
from instructbooth.reconcile.policies.room import never_started, pause_left, seconds_left
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.status import Failure, Phase, Restarts, StageState, StageStatus
from tests.unit.reconcile.test_plan import P1, R1, R2, through
from tests.unit.reconcile.world import START, World, job_object

CHILD = ChildJob(R1, Stage.REINFORCE, 1, 4, START, started=START)
SAID = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
QUOTA = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 3, limited: 3"
REFUSED = Warning(R1, "FailedCreate", QUOTA)
WEBHOOK = Warning(R1, "FailedCreate", 'failed calling webhook "pods.example.com": connection refused')


def pods(placed: int, waiting: int, at: float = 0) -> tuple[Pod, ...]:
    """The last one that found a node did so `at` seconds after the start."""
    there = [Pod(f"p{n}", n, placed=START + timedelta(seconds=at if n == placed - 1 else 0)) for n in range(placed)]
    return (*there, *(Pod(f"p{n}", n, unschedulable=SAID) for n in range(placed, placed + waiting)))


def gone(pod: Pod) -> Pod:
    return replace(pod, deletion_asked=START)


@pytest.mark.parametrize(
    ("evidence", "waits"),
    [
        pytest.param(Evidence(pods(3, 1)), 600, id="half a gang"),
        pytest.param(Evidence(pods(3, 1, at=500)), 1100, id="since it found its last place"),
        pytest.param(Evidence(pods(3, 0), (REFUSED,)), 600, id="a quota"),
        pytest.param(Evidence(pods(3, 0), (WEBHOOK,)), None, id="no want of room"),
        pytest.param(Evidence(pods(4, 0)), None, id="a whole one that has not begun: an image is pulled, for one"),
        pytest.param(Evidence(pods(4, 0), (REFUSED,)), None, id="a quota that was there"),
        pytest.param(Evidence(pods(0, 4)), None, id="it holds nothing"),
        pytest.param(Evidence((), (REFUSED,)), None, id="not even one pod"),
        pytest.param(Evidence(pods(3, 0)), None, id="the others are still to be made"),
        pytest.param(Evidence((gone(pods(1, 0)[0]), *pods(1, 2)[1:])), None, id="what it holds is on its way out"),
        pytest.param(Evidence((replace(pods(1, 0)[0], phase="Failed"), *pods(1, 2)[1:])), None, id="or has ended"),
        pytest.param(Evidence(), None, id="no pods yet"),
    ],
)
def test_when_half_a_gang_gives_its_nodes_back(evidence: Evidence, waits: float | None) -> None:
    job = ResolvedJob.from_object(job_object(reinforcement={"nodes": 4}))
    left = seconds_left(job, CHILD, evidence, START + timedelta(seconds=500))
    if waits is None:
        assert left is None
    else:
        assert left is not None
        assert waits <= left + 500 < waits + 300  # half as long again at most
        assert seconds_left(job, CHILD, evidence, START + timedelta(seconds=550)) == pytest.approx(left - 50)


def test_a_clock_that_is_set_ahead_ends_no_gang() -> None:
    """The API server's, by which pods are placed, is ahead of the operator's."""
    job = ResolvedJob.from_object(job_object(reinforcement={"nodes": 4}))
    left = seconds_left(job, CHILD, Evidence(pods(3, 1, at=7200)), START + timedelta(seconds=7000))
    assert left is not None
    assert left >= 600


def test_nobody_gives_way_where_names_have_no_room_for_another_attempt() -> None:
    job = ResolvedJob.from_object(job_object(reinforcement={"nodes": 4}))
    child = replace(CHILD, attempt=9999)
    assert seconds_left(job, child, Evidence(pods(3, 1)), START + timedelta(days=1)) is None


@pytest.mark.parametrize(("timeout", "shortest", "longest"), [(30, 15, 45), (60, 30, 90), (600, 30, 90)])
def test_the_pause_leaves_the_scheduler_time(timeout: int, shortest: int, longest: int) -> None:
    stage = StageStatus(name=Stage.REINFORCE, job_name=R1)
    pauses = set()
    for number in range(50):
        obj = job_object(runPolicy={"placementTimeoutSeconds": timeout})
        obj["metadata"]["uid"] = str(number)
        given_way = Failure(attempt=1, reason="PartlyPlaced", time="2026-11-23T09:00:00Z")
        pauses.add(pause_left(ResolvedJob.from_object(obj), stage, given_way, START))
    assert shortest <= min(pauses) < max(pauses) < longest
    assert len(pauses) > 10


@pytest.mark.parametrize(
    ("pod", "begun", "minutes", "lame"),
    [
        pytest.param(Pod("p1", 1, placed=START, node="n1"), START, 31, True, id="on a bad node"),
        pytest.param(Pod("p1", 1, placed=START, node="n1"), START, 29, False, id="it may be a large image"),
        pytest.param(Pod("p1", 1, placed=START, node="n1"), None, 31, False, id="nothing waits for it"),
        pytest.param(
            Pod("p1", 1, placed=START, node="n1"),
            START + timedelta(minutes=40),
            41,
            False,
            id="what both missed has come",
        ),
        pytest.param(
            Pod("p1", 1, placed=START + timedelta(minutes=20), node="n1"), START, 41, False, id="it found its node late"
        ),
        pytest.param(Pod("p1", 1, "Running", placed=START, node="n1"), START, 31, False, id="it runs"),
        pytest.param(Pod("p1", 1, unschedulable=SAID), START, 31, False, id="it has no node"),
        pytest.param(gone(Pod("p1", 1, placed=START)), START, 31, False, id="it is on its way out"),
    ],
)
def test_a_pod_that_never_starts_on_its_node_ends_the_gang_that_waits_for_it(
    pod: Pod, begun: datetime | None, minutes: int, lame: bool
) -> None:
    evidence = Evidence((Pod("p0", 0, "Running" if begun else "Pending", placed=START, running=begun), pod))
    child = replace(CHILD, parallelism=2)
    found = never_started(child, evidence, START + timedelta(minutes=minutes))
    assert (found is not None) is lame
    if found:
        assert (found.cause, found.failure.reason, found.failure.rank) == (Cause.FAILURE, "PodNotStarted", 1)


def test_it_is_charged_as_a_failure_in_the_kubelet_s_words() -> None:
    world = through(World(job_object()), P1)
    stuck = Pod("p1", 1, placed=world.now, node="n1", waiting_reason="ErrImagePull", waiting_message="no route")
    world.change(R1, ready=1)
    world.evidence[R1] = Evidence((Pod("p0", 0, "Running", placed=world.now, running=world.now), stuck))
    world.wait(60)
    world.settle()
    assert blocked(world).startswith("ImagePullFailed")
    world.late[R1] = world.evidence[R1]
    world.wait(1800)
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (world.launched[-1], stage.restarts) == (R2, Restarts(failures=1))
    assert stage.failure is not None
    assert "rank 1 has not started on its node n1 for 1800 s, while 1 of 2 pods wait for it" in stage.failure.message
    assert "ErrImagePull: no route" in stage.failure.message


def test_0_keeps_them_for_ever() -> None:
    job = ResolvedJob.from_object(job_object(runPolicy={"placementTimeoutSeconds": 0}))
    assert seconds_left(job, CHILD, Evidence(pods(3, 1)), START + timedelta(days=1)) is None


def test_no_two_gangs_wait_equally_long() -> None:
    times = set()
    for number in range(20):
        obj = job_object()
        obj["metadata"]["uid"] = str(number)
        job = ResolvedJob.from_object(obj)
        times |= {seconds_left(job, replace(CHILD, name=name), Evidence(pods(3, 1)), START) for name in (R1, R2)}
    assert len(times) == 40
    assert max(times) - min(times) > 150  # type: ignore[type-var, operator]


@pytest.fixture
def world() -> World:
    """Reinforcement asks for 4 nodes, and 3 are there."""
    made = through(World(job_object(reinforcement={"nodes": 4})), P1)
    made.evidence[R1] = Evidence(tuple(replace(p, placed=p.placed and made.now) for p in pods(3, 1)))
    return made


def blocked(world: World) -> str:
    condition = find(world.status.conditions, "Blocked")
    return f"{condition.reason}: {condition.message}" if condition and condition.status == "True" else ""


def give_way(world: World) -> None:
    """Until it is written that the gang does."""
    world.wait(20)
    world.settle()
    assert blocked(world).startswith("Unschedulable")
    while world.stage(Stage.REINFORCE).state is not StageState.RESTARTING:
        again = world.reconcile().requeue_after
        if world.stage(Stage.REINFORCE).state is StageState.RUNNING:
            assert again is not None
            world.wait(again)
        assert (world.now - START).total_seconds() < 1000


def test_it_says_so_gives_them_back_and_tries_again_with_all_nodes(world: World) -> None:
    give_way(world)
    assert 600 <= (world.now - START).total_seconds() < 1000
    assert R1 in world.children  # written first
    stage = world.stage(Stage.REINFORCE)
    assert (stage.nodes, stage.restarts) == (None, Restarts())
    assert stage.failure is not None
    assert stage.failure.reason == "PartlyPlaced"
    placed = world.evidence[R1].pods[0].placed
    assert placed is not None
    words = f"in {(world.now - placed).total_seconds():.0f} s (runPolicy.placementTimeoutSeconds: 600) no other one did"
    assert stage.failure.message.startswith(f"3 of 4 pods found a node, and {words}: {SAID}")
    assert world.reconcile().actions == (DeleteChild(R1),)
    assert blocked(world) == f"PartlyPlaced: {stage.failure.message}"
    world.reconcile()
    assert world.children[R1].deleting
    assert blocked(world) == f"PartlyPlaced: {stage.failure.message}"
    world.collect()
    pause = world.reconcile().requeue_after
    assert pause is not None
    said = int(stage.failure.message.removesuffix(" s").rpartition(" ")[2])
    assert 30 <= said < 90
    assert said - 1 < pause <= said  # what was written has whole seconds
    assert blocked(world) == f"PartlyPlaced: {stage.failure.message}"
    assert world.status.phase is Phase.REINFORCING
    world.wait(pause - 1)
    world.settle()
    assert R2 not in world.launched
    world.wait(1)
    world.settle()
    assert world.launched[-1] == R2
    assert (world.children[R2].parallelism, world.stage(Stage.REINFORCE).attempt) == (4, 2)
    assert blocked(world) == ""
    told = [event for event in world.events if event.reason == "GangRestarted"]
    assert len(told) == 1
    assert "0 failures, 0 disruptions" in told[0].message


def test_a_gang_that_is_whole_since_it_was_looked_at_goes_on(world: World) -> None:
    world.late[R1] = world.evidence[R1]
    world.evidence[R1] = Evidence(pods(4, 0))
    world.wait(1000)
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (stage.state, stage.attempt, stage.failure) == (StageState.RUNNING, 1, None)


def test_what_its_pods_say_when_they_are_sent_away_is_charged_to_nobody(world: World) -> None:
    give_way(world)
    world.fail(R1, 76)
    world.settle()
    stage = world.stage(Stage.REINFORCE)
    assert (stage.state, stage.restarts) == (StageState.RESTARTING, Restarts())
    assert R1 not in world.children  # at once: the pause is of its own


def test_a_suspended_job_does_not_come_again_before_it_is_resumed(world: World) -> None:
    give_way(world)
    world.settle()
    world.edit(suspend=True)
    world.settle()
    assert world.status.phase is Phase.SUSPENDED
    assert blocked(world) == ""
    world.wait(1000)
    world.settle()
    assert R2 not in world.launched
    world.edit(suspend=False)
    world.settle()
    assert world.launched[-1] == R2


def test_an_operator_that_dies_in_the_pause_keeps_to_it_and_a_clock_set_back_does_not_lengthen_it(world: World) -> None:
    give_way(world)
    world.settle()
    again = world.reconcile().requeue_after
    world.wait(-3600)
    assert world.reconcile().requeue_after is not None  # whatever it is to wait for
    world.settle()
    assert again is not None
    assert world.launched[-1] == R2


def test_where_a_gang_may_become_smaller_it_does_instead() -> None:
    world = through(World(job_object(reinforcement={"nodes": 4, "minNodes": 3})), P1)
    world.evidence[R1] = Evidence(tuple(replace(p, placed=p.placed and world.now) for p in pods(3, 1)))
    world.wait(301)
    world.settle()
    assert (world.launched[-1], world.children[R2].parallelism) == (R2, 3)
    world.evidence[R2] = Evidence(tuple(replace(p, placed=p.placed and world.now) for p in pods(2, 1)))
    world.wait(1000)
    world.settle()
    assert blocked(world).startswith("PartlyPlaced: 2 of 3 pods found a node")
    world.wait(100)
    world.settle()
    assert (world.launched[-1], world.children[world.launched[-1]].parallelism) == ("mascot-reinforce-3", 4)


def test_deadlines_go_on_in_the_pause() -> None:
    world = through(World(job_object(reinforcement={"nodes": 4}, runPolicy={"activeDeadlineSeconds": 5000})), P1)
    world.evidence[R1] = Evidence(tuple(replace(p, placed=p.placed and world.now) for p in pods(3, 1)))
    give_way(world)
    world.settle()
    world.job["spec"]["runPolicy"]["activeDeadlineSeconds"] = 10
    world.settle()
    assert holds(world.status.conditions, "Failed")


class Cluster:
    """Nodes for one pod each, and a scheduler that knows no gangs and takes pods in the worst of orders."""

    def __init__(self, nodes: int, jobs: list[World], chance: random.Random) -> None:
        self.nodes, self.jobs, self.chance = nodes, jobs, chance

    def tick(self, seconds: float) -> None:
        """Let time pass, let gangs that are whole do their work, give places away."""
        waiting: list[tuple[World, str, int]] = []
        used = 0
        for world in self.jobs:
            world.wait(seconds)
            for child in list(world.live):
                there = world.evidence.get(child.name, Evidence()).pods
                if there and all(pod.placed for pod in there):
                    world.complete(child.name)
                    continue
                for rank in range(child.parallelism):
                    if rank < len(there) and there[rank].placed:
                        used += 1
                    else:
                        waiting.append((world, child.name, rank))
        self.chance.shuffle(waiting)
        for number, (world, name, rank) in enumerate(waiting):
            there = world.evidence.get(name, Evidence()).pods
            if not there:
                there = tuple(Pod(f"p{n}", n, unschedulable=SAID) for n in range(world.children[name].parallelism))
            if number < self.nodes - used:
                there = (*there[:rank], Pod(f"p{rank}", rank, placed=world.now), *there[rank + 1 :])
            world.evidence[name] = Evidence(there)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(2, 4), min_size=2, max_size=4), spare=st.integers(0, 2), seed=st.integers(0, 99))
def test_gangs_that_compete_all_come_through(sizes: list[int], spare: int, seed: int) -> None:
    jobs: list[World] = []
    for number, size in enumerate(sizes):
        spec: dict[str, Any] = {"reinforcement": {"nodes": size}}
        obj = job_object(f"job{number}", **spec)
        obj["metadata"]["uid"] = f"{seed}-{number}"
        jobs.append(World(obj))
    cluster = Cluster(max(sizes) + spare, jobs, random.Random(seed))
    for _ in range(24 * 360):
        for world in jobs:
            world.settle()
        if all(holds(world.status.conditions, "Succeeded") for world in jobs):
            break
        cluster.tick(10)
    for world in jobs:
        assert holds(world.status.conditions, "Succeeded"), world.status
        assert world.stage(Stage.REINFORCE).restarts == Restarts()
