"""Properties of plan() over histories that nobody wrote: whatever cluster, user and reaper of operators do."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instructbooth.contract import STAGES, ExitCode, Stage
from instructbooth.reconcile.actions import Plan
from instructbooth.reconcile.observed import Evidence, Pod
from instructbooth.reconcile.patch import merge_patch
from instructbooth.reconcile.plan import is_finished
from instructbooth.spec.status import StageState
from tests.unit.reconcile.world import World, job_object

MOVES = (
    "reconcile",
    "collect",
    "run",
    "complete",
    "fail",
    "user-error",
    "checkpointed",
    "disrupt",
    "delete",
    "wait",
    "suspend",
    "resume",
    "preempt",
    "late",
    "clock-forward",
    "clock-back",
    "no-room",
)
# (what happens, after how many writes the next reconcile is cut off by a kill; None: it is not)
histories = st.lists(st.tuples(st.sampled_from(MOVES), st.none() | st.integers(0, 4)), max_size=40)
policies = st.fixed_dictionaries(
    {"backoffLimit": st.integers(0, 2), "disruptionLimit": st.integers(0, 2)},
    optional={
        "activeDeadlineSeconds": st.integers(1, 2000),
        "queueName": st.just("team"),
        "ttlSecondsAfterFinished": st.integers(0, 100),
    },
)


def move(world: World, name: str, kill_after: int | None, earlier: World | None = None) -> None:
    """One thing happens; `earlier` is the world as an operator sees it whose watch is late."""
    alive = [child for child in world.live if not child.suspended]
    target = alive[-1].name if alive else None
    match name, target:
        case "reconcile", _:
            world.reconcile(kill_after)
        case "late", _:
            world.reconcile(kill_after, seen=(earlier or world).children)
        case "collect", _:
            world.collect()
        case "clock-forward", _:
            world.wait(3600)
        case "clock-back", _:
            world.wait(-3600)
        case "wait", _:
            world.wait(30)
        case (("suspend" | "resume"), _):
            world.edit(suspend=name == "suspend")
        case _, None:
            for child in world.live:  # what Kueue does
                world.change(child.name, suspended=False)
        case "preempt", str(child):
            world.change(child, suspended=True, started=None, active=0, ready=0)
        case "no-room", str(child):
            gang = world.children[child].parallelism
            there = tuple(Pod(f"p{rank}", rank, unschedulable="no node is free", gang=gang) for rank in range(gang))
            world.evidence[child] = Evidence(there)
        case "run", str(child):
            world.run(child)
        case "complete", str(child):
            world.complete(child)
        case "fail", str(child):
            world.fail(child, 1)
        case "user-error", str(child):
            world.fail(child, ExitCode.USER_ERROR, '{"reason": "SubjectImagesInvalid", "message": "a.png"}')
        case "checkpointed", str(child):
            world.fail(child, ExitCode.CHECKPOINTED)
        case "disrupt", str(child):
            world.disrupt(child)
        case "delete", str(child):
            del world.children[child]
            if child not in (stage.job_name for stage in world.status.stages):
                world.launched.remove(child)  # created by an operator that died then: nobody knows that it ever was


def check(world: World, before: World) -> None:
    """What holds at every moment."""
    live = [child.stage for child in world.live]
    assert len(live) == len(set(live)), "two live gangs of one stage"
    for name in world.launched[len(before.launched) :]:
        number = STAGES.index(Stage(name.rsplit("-", 2)[1]))
        for previous in before.status.stages[:number]:
            child = before.children.get(previous.job_name or "")
            done = previous.state is StageState.SUCCEEDED or (child is not None and child.complete)
            assert done, f"{name} began before {previous.name.value} had ended well"
    assert len(set(world.launched)) == len(world.launched), "an attempt was started twice"
    for stage in STAGES:
        attempts = [int(name.rsplit("-", 1)[1]) for name in world.launched if f"-{stage.value}-" in name]
        assert attempts == sorted(attempts), "attempts went back"
    if "status" in before.job and is_finished(before.status):
        assert world.job["status"] == before.job["status"], "finished was not final"
        assert world.launched == before.launched, "a gang was started after the end"
    for old, new in zip(before.status.stages, world.status.stages, strict=False):
        assert new.attempt >= old.attempt
        assert new.restarts.failures >= old.restarts.failures
        assert new.restarts.disruptions >= old.restarts.disruptions
        assert new.attempt == old.attempt or new.attempt == old.attempt + 1, "an attempt was skipped"
        assert old.state is not StageState.SUCCEEDED or new == old, "a stage that had succeeded changed"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, policies)
def test_whatever_happens(history: list[tuple[str, int | None]], policy: dict[str, object]) -> None:
    world = World(job_object(runPolicy=policy))
    earlier = deepcopy(world)
    for name, kill_after in history:
        before = deepcopy(world)
        move(world, name, kill_after, earlier)
        check(world, before)
        earlier = before
        first, second = world.plan(), deepcopy(world).plan()
        assert first == second, "the same question had two answers"
        assert first == shuffled(world).plan(), "the order in which children were seen made a difference"
        assert first.requeue_after is None or first.requeue_after >= 0
        assert goes_on(world, first), "nobody would look at that gang again"
    world.settle()  # fails unless the plan comes to rest
    resting = world.plan()
    assert resting.actions == () or world.gone
    assert resting.events == ()
    assert merge_patch(world.job["status"], resting.status.to_wire()) == {}


def goes_on(world: World, made: Plan) -> bool:
    """Whether a gang that has not begun is looked at again though nothing more may happen."""
    waiting = any(not child.suspended and not child.ready + child.succeeded for child in world.live)
    again = made.requeue_after is not None or made.look_again is not None
    over = world.gone or is_finished(made.status) or world.job["spec"]["runPolicy"].get("suspend", False)
    return not waiting or again or over or bool(made.actions)


def shuffled(world: World) -> World:
    """The same world, its children seen in the opposite order."""
    other = deepcopy(world)
    other.children = dict(reversed(other.children.items()))
    return other


def run_to_the_end(world: World, kill_at: int | None) -> tuple[World, int]:
    """A job with one failure and one disruption. The operator is killed once, after its `kill_at`-th write.

    Returns the world at its end and how many writes there were.
    """
    writes = 0
    troubles = ["fail", "disrupt"]
    for _ in range(200):
        made = world.plan()
        count = len(made.actions) + 1
        left = None if kill_at is None or not writes <= kill_at < writes + count else kill_at - writes
        world.reconcile(left)
        writes += count if left is None else left
        if left is not None:
            kill_at = None
        world.collect()
        if is_finished(world.status):
            return world, writes
        world.wait(7)
        for child in world.live:
            if child.stage.value == "reinforce" and troubles:
                move(world, troubles.pop(0), None)
            elif child.ready:
                world.complete(child.name)
            else:
                world.run(child.name)
    raise AssertionError("the job did not end")


def test_a_crash_between_any_two_writes_changes_nothing_in_the_end() -> None:
    undisturbed, writes = run_to_the_end(World(), None)
    assert writes > 15
    assert [s.attempt for s in undisturbed.status.stages] == [1, 3, 1]
    for kill_at in range(writes):
        world, _ = run_to_the_end(World(), kill_at)
        assert world.launched == undisturbed.launched, f"killed after write {kill_at}"
        for ours, theirs in zip(world.status.stages, undisturbed.status.stages, strict=True):
            assert (ours.state, ours.attempt, ours.restarts) == (theirs.state, theirs.attempt, theirs.restarts)
            assert (ours.artifact, ours.metrics) == (theirs.artifact, theirs.metrics)
