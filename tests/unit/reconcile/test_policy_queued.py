"""A queue: what is shown while a gang waits for Kueue, who is charged when Kueue stops one, and what the clocks do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from instructbooth.contract import PEER_LOST, ExitCode, Stage
from instructbooth.reconcile.conditions import find
from instructbooth.reconcile.observed import ChildFailure, Evidence, Exit, Pod, Silence, Waiting
from instructbooth.reconcile.policies import queued
from instructbooth.reconcile.policies.blocked import UNBEGUN_SECONDS
from instructbooth.spec.status import Condition, Phase, Progress, Restarts, StageState
from tests.unit.reconcile.world import World, job_object

P1, P2 = "mascot-personalize-1", "mascot-personalize-2"
PENDING = (
    "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 200m more needed"
)
PREEMPTED = "Preempted to accommodate a workload (UID: 1) due to prioritization in the ClusterQueue"


def started(**policy: object) -> World:
    world = World(job_object(runPolicy={"queueName": "team", **policy}))
    world.settle()
    return world


def condition(world: World, kind: str) -> Condition:
    found = find(world.status.conditions, kind)
    assert found is not None
    return found


def admit(world: World, child: str) -> None:
    world.change(child, suspended=False, started=world.now)
    world.run(child)
    world.settle()


def stop(world: World, child: str) -> None:
    """What Kueue does to make room: suspend, and take the start time away."""
    world.change(child, suspended=True, started=None, active=0, ready=0)


def workload(*conditions: tuple[str, str, str, str], **status: Any) -> dict[str, Any]:
    keys = ("type", "status", "reason", "message")
    said = [dict(zip(keys, values, strict=True)) for values in conditions]
    return {"metadata": {"creationTimestamp": "2026-11-23T09:00:00Z"}, "status": {"conditions": said, **status}}


@pytest.mark.parametrize(
    ("workloads", "said"),
    [
        (
            [],
            Waiting(
                "Pending", f"Kueue has made no Workload for the Job {P1} yet; `kubectl describe job {P1}` may tell why"
            ),
        ),
        ([workload()], Waiting("Pending", "Kueue has not looked at it yet")),
        ([workload(("QuotaReserved", "False", "Pending", PENDING))], Waiting("Pending", PENDING)),
        (
            [workload(("QuotaReserved", "False", "Inadmissible", "LocalQueue team doesn't exist"))],
            Waiting("Inadmissible", "LocalQueue team doesn't exist"),
        ),
        # While its pods are going, and once they are gone.
        (
            [
                workload(
                    ("Evicted", "True", "Preempted", PREEMPTED),
                    ("QuotaReserved", "True", "QuotaReserved", "reserved"),
                    ("Admitted", "False", "NoReservation", "The workload has no reservation"),
                )
            ],
            Waiting("Preempted", PREEMPTED),
        ),
        (
            [workload(("QuotaReserved", "False", "Pending", PENDING), ("Evicted", "True", "Preempted", PREEMPTED))],
            Waiting("Preempted", f"{PREEMPTED}; {PENDING}"),
        ),
        (
            [workload(("QuotaReserved", "False", "Pending", PREEMPTED), ("Evicted", "True", "Preempted", PREEMPTED))],
            Waiting("Preempted", PREEMPTED),
        ),
        # Admitted again, and an eviction of the past.
        (
            [
                workload(
                    ("Evicted", "False", "QuotaReserved", PREEMPTED), ("QuotaReserved", "False", "Pending", PENDING)
                )
            ],
            Waiting("Pending", PENDING),
        ),
        (
            [
                workload(
                    ("QuotaReserved", "True", "QuotaReserved", "reserved"),
                    admissionChecks=[
                        {"name": "budget", "state": "Pending", "message": "nobody has signed"},
                        {"name": "nodes", "state": "Ready"},
                    ],
                )
            ],
            Waiting("AdmissionCheck", "budget: nobody has signed"),
        ),
        (
            [
                workload(
                    ("Finished", "True", "FailedToStart", "conflicting nodeSelector"), ("QuotaReserved", "True", "", "")
                )
            ],
            Waiting("FailedToStart", "conflicting nodeSelector"),
        ),
    ],
)
def test_kueue_s_words(workloads: list[dict[str, Any]], said: Waiting) -> None:
    assert queued.waiting(workloads, P1) == said


def test_the_newest_of_several_workloads_speaks() -> None:
    old, new = (
        workload(("QuotaReserved", "False", "Pending", "old")),
        workload(("QuotaReserved", "False", "Pending", "new")),
    )
    new["metadata"]["creationTimestamp"] = "2026-11-23T09:00:01Z"
    assert queued.waiting([new, old], P1).message == "new"


@pytest.mark.parametrize(("age", "again"), [(0, 2), (8, 2), (40, 10), (480, 120), (86_400, 120)])
def test_kueue_is_asked_ever_less_often(age: float, again: float) -> None:
    world = started()
    world.wait(age)
    made = world.plan()
    assert made.requeue_after == again
    assert made.ask_kueue == (P1, world.children[P1].uid)


def test_kueue_is_asked_soon_after_a_gang_was_made() -> None:
    """Nobody is woken for what was just made."""
    made = World(job_object(runPolicy={"queueName": "team"})).plan()
    assert made.requeue_after == 2
    assert World(job_object()).plan().requeue_after == UNBEGUN_SECONDS, "and without a queue its beginning is news"


def test_a_queued_gang_waits_and_says_what_kueue_says() -> None:
    world = started(activeDeadlineSeconds=60)
    child = world.children[P1]
    assert child.suspended
    assert world.manifests[f"Job/{P1}"]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert (world.status.phase, world.stage(Stage.PERSONALIZE).state) == (Phase.QUEUED, StageState.WAITING)
    assert (condition(world, "Queued").reason, condition(world, "Queued").message) == (
        "Pending",
        "waits for the queue team",
    )
    assert (condition(world, "Progressing").status, condition(world, "Progressing").reason) == ("False", "Queued")
    world.waiting[P1] = Waiting("Pending", PENDING)
    world.settle()
    assert condition(world, "Queued").message == PENDING
    world.waiting[P1] = None  # nothing to be learned: what was known stays
    world.settle()
    assert (condition(world, "Queued").status, condition(world, "Queued").message) == ("True", PENDING)
    world.wait(1000)
    made = world.plan()
    assert made.actions == ()  # Kueue lets it go, not we
    assert made.pull_from is None
    admit(world, P1)
    assert (world.status.phase, world.stage(Stage.PERSONALIZE).state) == (Phase.PERSONALIZING, StageState.RUNNING)
    assert (condition(world, "Queued").status, condition(world, "Queued").reason) == ("False", "NotQueued")
    assert world.status.active_since is not None
    assert world.plan().requeue_after == 60  # a thousand seconds in the queue are not active ones
    assert [event.reason for event in world.events] == ["StageStarted", "Queued"]


def test_without_a_queue_nothing_is_said_of_one() -> None:
    world = World(job_object())
    world.settle()
    world.complete(P1)
    world.settle()
    assert find(world.status.conditions, "Queued") is None
    assert world.plan().ask_kueue is None


def test_each_stage_has_its_turn_in_the_queue() -> None:
    world = started()
    for stage in Stage:
        child = f"mascot-{stage.value}-1"
        assert (world.children[child].suspended, world.status.phase) == (True, Phase.QUEUED)
        admit(world, child)
        world.complete(child)
        world.settle()
    assert world.status.phase is Phase.SUCCEEDED
    assert condition(world, "Queued").status == "False"


def test_the_priority_class_of_the_queue_is_a_label() -> None:
    world = started(workloadPriorityClassName="urgent")
    assert world.manifests[f"Job/{P1}"]["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "urgent"


def pod(rank: int, code: int | None, world: World, *, asked: float | None = 0.0, ended: float = 0.0) -> Pod:
    """A pod of a gang that was asked to go so many seconds from now, and ended so many from now."""
    said = f'{{"reason": "{PEER_LOST}", "message": "a peer is gone"}}' if code == ExitCode.TRANSIENT else ""
    end = None if code is None else Exit(code, "Error", said, world.now + timedelta(seconds=ended))
    due = None if asked is None else world.now + timedelta(seconds=asked)
    return Pod(f"p{rank}", rank, "Failed" if end else "Running", exit=end, deletion_asked=due)


@pytest.mark.parametrize(
    ("codes", "asked", "ended", "charged"),
    [
        ((ExitCode.CHECKPOINTED,), 0.0, 2.0, Restarts()),
        ((ExitCode.CHECKPOINTED,), None, 0.0, Restarts()),
        ((ExitCode.CHECKPOINTED, ExitCode.TRANSIENT), 0.0, 0.0, Restarts()),  # a peer was gone in the same second
        ((ExitCode.TRANSIENT,), 0.0, 2.0, Restarts()),
        ((), 0.0, 0.0, Restarts()),  # its pods are gone
        ((1,), 0.0, 3.0, Restarts()),
        ((1,), 0.0, -3.0, Restarts(failures=1)),  # it had failed by itself, before
        ((1,), None, 0.0, Restarts(failures=1)),
    ],
)
@pytest.mark.parametrize("by_kueue", [True, False])
def test_who_is_charged_for_a_gang_that_ends_while_suspended(
    by_kueue: bool, codes: tuple[int, ...], asked: float | None, ended: float, charged: Restarts
) -> None:
    world = started() if by_kueue else World(job_object())
    world.settle()
    admit(world, P1)
    if by_kueue:
        stop(world, P1)
    else:
        world.edit(suspend=True)
        world.settle()
    world.end(P1, *(pod(rank, code, world, asked=asked, ended=ended) for rank, code in enumerate(codes)))
    said = "Container trainer for pod lab/p0 failed with exit code 75 matching FailJob rule at index 3"
    world.change(P1, failure=ChildFailure("PodFailurePolicy", said, world.now))
    world.settle()
    assert world.stage(Stage.PERSONALIZE).restarts == charged


def test_a_user_s_mistake_is_one_while_suspended_too() -> None:
    world = started()
    admit(world, P1)
    stop(world, P1)
    world.end(P1, pod(0, ExitCode.USER_ERROR, world, ended=1.0))
    world.settle()
    assert world.status.phase is Phase.FAILED


def preempted() -> World:
    """A job that Kueue stops 50 s after it began. Nothing is forgiven to it, and it may run for 60 s."""
    world = started(disruptionLimit=0, backoffLimit=0, activeDeadlineSeconds=60)
    admit(world, P1)
    world.wait(50)
    stop(world, P1)
    world.waiting[P1] = Waiting("Preempted", PREEMPTED)
    world.settle()
    return world


def test_a_preempted_gang_goes_on_as_the_same_attempt_and_nobody_is_charged() -> None:
    world = preempted()
    assert (world.status.phase, world.status.active_seconds, world.status.active_since) == (Phase.QUEUED, 50, None)
    assert world.stage(Stage.PERSONALIZE).state is StageState.WAITING
    assert (condition(world, "Queued").reason, condition(world, "Queued").message) == ("Preempted", PREEMPTED)
    assert world.events[-1].message == f"Preempted: {PREEMPTED}"
    world.wait(1000)
    world.settle()
    admit(world, P1)
    stage = world.stage(Stage.PERSONALIZE)
    assert (world.launched, stage.attempt, stage.restarts) == ([P1], 1, Restarts())
    assert world.plan().requeue_after == 10


def test_a_preempted_gang_that_is_given_up_waits_on_as_a_new_attempt() -> None:
    """Its exit code was seen before its pods were gone. The clock does not run in between, nor is anybody charged."""
    world = preempted()
    world.fail(P1, ExitCode.CHECKPOINTED)
    for _ in range(6):  # step by step: the end is written, the child deleted, the next one made
        world.reconcile()
        assert (world.status.phase, world.status.active_since) == (Phase.QUEUED, None)
        assert condition(world, "Queued").message == PREEMPTED
        world.wait(100)
        world.collect()
    stage = world.stage(Stage.PERSONALIZE)
    assert (world.launched, stage.restarts, stage.failure) == ([P1, P2], Restarts(), None)
    assert [event.reason for event in world.events] == ["StageStarted", "Queued", "Queued"]
    admit(world, P2)
    assert world.plan().requeue_after == 10


def test_a_gang_that_kueue_has_just_let_go_is_neither_blocked_nor_hanging_nor_too_large() -> None:
    """The Job controller makes the pods, then writes the start time: for a moment only the child's age is known."""
    world = World(job_object(runPolicy={"queueName": "team", "stallTimeoutSeconds": 30, "shrinkAfterSeconds": 60}))
    world.job["spec"]["personalization"] = {"nodes": 2, "minNodes": 1}
    world.settle()
    admit(world, P1)
    world.progress[P1] = Progress(step=1, total=10)
    world.silence[P1] = Silence(5.0, heard=True, answers=True)
    world.settle()
    stop(world, P1)
    world.settle()
    world.wait(5000)
    world.settle()
    world.silence = {}  # nobody is asked while nobody runs
    world.evidence[P1] = Evidence((Pod("p0", 0, unschedulable="0/2 nodes are available"),))
    world.change(P1, suspended=False)
    made = world.reconcile()
    assert (made.actions, made.look_at) == ((), None)
    assert find(world.status.conditions, "Blocked") is None
    world.change(P1, started=world.now)
    world.wait(30)
    world.reconcile()
    assert condition(world, "Blocked").reason == "Unschedulable"  # now it is true
    assert (world.launched, world.stage(Stage.PERSONALIZE).restarts) == ([P1], Restarts())
    world.wait(30)
    world.settle()
    assert world.stage(Stage.PERSONALIZE).failure is not None  # and a minute after it was let go, it may shrink


def test_a_queued_gang_that_the_user_suspends_starts_anew_uncharged() -> None:
    world = started()
    admit(world, P1)
    world.edit(suspend=True)
    world.settle()
    assert (world.children, world.status.phase) == ({}, Phase.SUSPENDED)
    assert condition(world, "Queued").status == "False"
    world.edit(suspend=False)
    world.settle()
    assert (world.launched, world.stage(Stage.PERSONALIZE).restarts) == ([P1, P2], Restarts())


@pytest.mark.parametrize("ready", [0, 1])
@pytest.mark.parametrize("seen", [True, False], ids=["pods are seen", "pods are gone"])
def test_a_gang_that_kueue_lets_go_again_while_its_former_pods_still_save_is_not_charged(
    seen: bool, ready: int
) -> None:
    """Seen with Kueue 0.14 on a busy machine: who wanted the room went away within the grace of the pods."""
    world = World(job_object(personalization={"nodes": 2}, runPolicy={"queueName": "team", "disruptionLimit": 0}))
    world.settle()
    admit(world, P1)
    if not seen:  # then its progress tells that it had begun
        world.progress[P1] = Progress(step=1, total=10)
        world.settle()
    stop(world, P1)
    world.settle()
    world.change(P1, suspended=False, started=world.now, ready=ready)  # one rank may have come anew
    world.settle()
    assert world.status.phase is Phase.PERSONALIZING
    assert world.stage(Stage.PERSONALIZE).state is StageState.WAITING
    pods = (pod(0, ExitCode.CHECKPOINTED, world, asked=-1, ended=1.0),) if seen else ()
    world.end(P1, *pods)
    said = f"Container trainer for pod lab/p0 failed with exit code {ExitCode.CHECKPOINTED} matching FailJob rule"
    world.change(P1, failure=ChildFailure("PodFailurePolicy", said, world.now))
    world.settle()
    stage = world.stage(Stage.PERSONALIZE)
    assert (world.launched, stage.restarts, world.status.phase) == ([P1, P2], Restarts(), Phase.QUEUED)
    admit(world, P2)
    world.fail(P2, 1)  # but this one is
    world.settle()
    assert world.stage(Stage.PERSONALIZE).restarts == Restarts(failures=1)


@pytest.mark.parametrize(
    ("fields", "charged"),
    [
        ({"exit": 1}, Restarts(failures=1)),
        ({"disruption": "preempted"}, Restarts(disruptions=1)),
        ({"disruption": "drained", "asked": 5}, Restarts(disruptions=1)),
        (None, Restarts(failures=1)),
    ],
    ids=["exit", "disruption", "drained", "gone"],
)
def test_what_befalls_a_queued_gang_before_all_of_it_runs_is_charged(
    fields: dict[str, Any] | None, charged: Restarts
) -> None:
    """Else it would begin anew for ever: nobody has stopped it yet."""
    world = started()
    world.change(P1, suspended=False, started=world.now)
    world.settle()
    pods = []
    if fields is not None:
        made = pod(0, fields.get("exit"), world, asked=fields.get("asked"), ended=6)
        if said := fields.get("disruption"):
            made = replace(made, phase="Failed", disruption=said, disrupted=world.now)
        pods = [made]
    world.end(P1, *pods)
    world.settle()
    assert world.stage(Stage.PERSONALIZE).restarts == charged


def test_an_earlier_failure_delays_no_restart_that_is_not_charged() -> None:
    world = started()
    admit(world, P1)
    world.fail(P1, 1)
    world.settle()
    world.wait(5)
    world.settle()
    admit(world, P2)
    stop(world, P2)
    world.settle()
    world.fail(P2, ExitCode.CHECKPOINTED)
    world.settle()
    assert world.launched[-1] == "mascot-personalize-3"


def test_what_the_user_suspends_while_kueue_stops_it_is_suspended_and_not_queued() -> None:
    world = started()
    admit(world, P1)
    stop(world, P1)
    world.fail(P1, ExitCode.CHECKPOINTED)
    world.reconcile()
    assert condition(world, "Queued").status == "True"
    world.edit(suspend=True)
    world.reconcile()  # the child is still there
    assert (world.status.phase, condition(world, "Queued").status) == (Phase.SUSPENDED, "False")


def test_a_failure_of_its_own_is_charged_with_a_queue_too() -> None:
    world = started()
    admit(world, P1)
    world.fail(P1, 1)
    world.settle()
    assert world.stage(Stage.PERSONALIZE).restarts == Restarts(failures=1)
    assert condition(world, "Queued").status == "False"  # it waits for its back-off, not for Kueue
    world.wait(5)
    world.settle()
    admit(world, P2)
    world.disrupt(P2)
    world.settle()
    assert world.stage(Stage.PERSONALIZE).restarts == Restarts(failures=1, disruptions=1)


def unqueued(**policy: object) -> World:
    """A job that names no queue, whose first gang has been created."""
    world = World(job_object(runPolicy=policy))
    world.reconcile()
    return world


def test_a_queue_that_kueue_chose_itself_is_obeyed() -> None:
    """A LocalQueue `default` in the namespace: Kueue's webhook suspends and labels the Job as it is created."""
    world = unqueued()
    world.change(P1, suspended=True, queue="default", started=None)
    made = world.reconcile()
    assert made.actions == (), "two controllers would write the same field in turns"
    assert made.ask_kueue is not None
    world.settle()
    assert (world.status.phase, condition(world, "Queued").message) == (Phase.QUEUED, "waits for the queue default")
    admit(world, P1)
    assert (world.status.phase, condition(world, "Queued").status) == (Phase.PERSONALIZING, "False")
    stop(world, P1)
    world.settle()
    assert (world.status.phase, world.children[P1].suspended) == (Phase.QUEUED, True)
    world.edit(suspend=True)  # Kueue would set the child's field back
    world.settle()
    assert (world.children, world.status.phase) == ({}, Phase.SUSPENDED)


def test_a_job_that_somebody_else_suspended_is_left_to_them() -> None:
    """Kueue, where it manages Jobs without a queue too; or an administrator."""
    world = unqueued()
    world.run(P1)
    world.settle()
    stop(world, P1)
    made = world.reconcile()
    assert (made.actions, made.ask_kueue) == ((), None)
    world.settle()
    assert (world.status.phase, world.children[P1].suspended) == (Phase.QUEUED, True)
    said = condition(world, "Queued")
    assert (said.status, said.reason, said.message) == ("True", queued.SUSPENDED.reason, queued.SUSPENDED.message)
    admit(world, P1)
    assert (world.status.phase, world.launched) == (Phase.PERSONALIZING, [P1])
    assert world.stage(Stage.PERSONALIZE).restarts == Restarts()


def test_a_suspend_of_the_user_s_beside_it_leaves_it_theirs() -> None:
    world = unqueued()
    world.run(P1)
    world.settle()
    stop(world, P1)
    world.settle()
    for suspend in (True, False):
        world.edit(suspend=suspend)
        world.settle()
        assert world.children[P1].suspended, "it is not the operator's to let go"
    assert world.status.phase is Phase.QUEUED


@pytest.mark.parametrize("code", [ExitCode.CHECKPOINTED, ExitCode.TRANSIENT])
def test_a_gang_that_ends_because_somebody_else_stopped_it_does_not_come_back_by_itself(code: ExitCode) -> None:
    """The Job controller may see the pods' exit code before they are gone, and gives the suspended child up."""
    world = unqueued(disruptionLimit=0, backoffLimit=0)
    world.run(P1)
    world.settle()
    stop(world, P1)
    world.fail(P1, code)
    asked = tuple(replace(pod, deletion_asked=world.now - timedelta(seconds=5)) for pod in world.evidence[P1].pods)
    world.evidence[P1] = Evidence(asked)
    for _ in range(3):
        world.wait(600)
        world.settle()
        assert (world.launched, world.status.phase) == ([P1], Phase.QUEUED)
    world.change(P1, suspended=False)
    world.settle()
    assert (world.launched, world.stage(Stage.PERSONALIZE).restarts) == ([P1, P2], Restarts())


def test_a_user_s_mistake_ends_a_job_whose_gang_somebody_else_stopped() -> None:
    world = unqueued()
    world.run(P1)
    world.settle()
    stop(world, P1)
    world.fail(P1, ExitCode.USER_ERROR, '{"reason": "SubjectImagesInvalid", "message": "a.png"}')
    world.settle()
    assert condition(world, "Failed").reason == "SubjectImagesInvalid"


def test_a_gang_that_somebody_stopped_and_deleted_starts_anew() -> None:
    world = unqueued()
    world.run(P1)
    world.settle()
    stop(world, P1)
    world.fail(P1, ExitCode.CHECKPOINTED)
    world.settle()
    world.change(P1, deleting=True, deleted=world.now)
    world.collect()
    world.settle()
    assert world.launched == [P1, P2]


def test_what_the_operator_suspended_it_lets_go_though_it_died_before_it_said_so() -> None:
    world = unqueued()
    world.run(P1)
    world.settle()
    world.edit(suspend=True)
    world.reconcile(1)  # killed after that: the child is stopped, the status does not know
    assert (world.children[P1].suspended, world.stage(Stage.PERSONALIZE).state) == (True, StageState.RUNNING)
    world.edit(suspend=False)
    world.settle()
    assert (world.children[P1].suspended, world.status.phase) == (False, Phase.PERSONALIZING)


def test_what_an_operator_without_the_label_suspended_is_let_go() -> None:
    world = unqueued()
    world.run(P1)
    world.edit(suspend=True)
    world.settle()
    world.change(P1, suspended_by_operator=False)
    world.edit(suspend=False)
    world.settle()
    assert (world.children[P1].suspended, world.status.phase) == (False, Phase.PERSONALIZING)
