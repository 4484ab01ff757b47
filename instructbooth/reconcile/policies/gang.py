"""One stage, one step further: start a gang, watch it, end it, start the next attempt.

The order of writes is what makes a crash between any two of them harmless. A child is created before the status says
so, and found again by its name. How a child ended is written to the status before the child, and with it the evidence,
is deleted. The next attempt starts when the last pod of the one before is gone: at most one gang of a stage lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from instructbooth.contract import Stage
from instructbooth.reconcile.actions import Action, Apply, DeleteChild, ForgetPod, Haste, Look, SetSuspend
from instructbooth.reconcile.children import child_job, snapshot
from instructbooth.reconcile.names import child_name
from instructbooth.reconcile.observed import (
    ChildJob,
    Evidence,
    Observed,
    Waiting,
    elapsed,
    format_time,
)
from instructbooth.reconcile.pod import TrainerDefaults
from instructbooth.reconcile.policies import blocked, elastic, node_loss, queued, retry, room, stall, suspend, visible
from instructbooth.reconcile.policies.retry import Cause, Diagnosis
from instructbooth.spec.job import ResolvedJob, RunPolicy
from instructbooth.spec.status import Failure, StageState, StageStatus

REJECTED_AGAIN_SECONDS = 30.0
GOING_SECONDS = 10.0  # between two looks at pods that are on their way out
UNDECIDED_FOR = timedelta(seconds=120)  # a node is known to be lost within one minute, a pod is killed within another


@dataclass(frozen=True)
class Scene:
    """What a step depends on beside the stage's own status. `inputs`: the attempts of earlier stages that succeeded."""

    job: ResolvedJob
    observed: Observed
    inputs: Mapping[Stage, int]
    defaults: TrainerDefaults

    @property
    def policy(self) -> RunPolicy:
        """What the user may change at any time."""
        return self.job.spec.run_policy


@dataclass(frozen=True)
class Step:
    """What to do about one stage.

    Attributes:
        stage: its status from now on.
        actions: in order.
        requeue_after: seconds after which to look again.
        look_at: the pods that must be looked at before this step can be made.
        look_again: (seconds, look): when to look at pods again that do not start.
        blocker: what keeps the gang from starting.
        queued: why it waits for Kueue, where it does.
        ask_kueue: (name, uid) of the child that Kueue may be asked about.
        refusal: (reason, message) of the job's failure, if the stage has failed for good.
        pull: whether rank 0 may be asked for its progress.
    """

    stage: StageStatus
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None
    look_at: Look | None = None
    look_again: tuple[float, Look] | None = None
    blocker: blocked.Blocker | None = None
    queued: Waiting | None = None
    ask_kueue: tuple[str, str] | None = None
    refusal: tuple[str, str] | None = None
    pull: bool = False

    @property
    def done(self) -> bool:
        """The stage has succeeded: on to the next one."""
        return self.stage.state is StageState.SUCCEEDED


def advance(scene: Scene, stage: StageStatus) -> Step:
    """The next step of a stage that has neither succeeded nor failed."""
    children = [child for child in scene.observed.children if child.stage is stage.name]
    newest = max(children, key=lambda child: child.attempt, default=None)
    if newest is not None and newest.attempt > stage.attempt:
        stage = _adopt(stage, newest)
    child = next((child for child in children if child.attempt == stage.attempt), None)
    step = _next(scene, stage, child)
    strays = tuple(DeleteChild(c.name) for c in children if c.attempt < stage.attempt and not c.deleting)
    return replace(step, actions=(*strays, *step.actions))


def _next(scene: Scene, stage: StageStatus, child: ChildJob | None) -> Step:
    if stage.attempt == 0:
        return _launch(scene, stage, 1)
    if stage.state is StageState.RESTARTING:
        step = _restart(scene, stage, child)
        # From the end of a gang that Kueue stopped to the next attempt's place in the queue it waits all the time.
        return step if child is None else replace(step, queued=_queued(scene, stage, child))
    if child is None:
        return _end(scene, stage, retry.child_deleted(stage.attempt, stage.job_name or ""))
    evidence = scene.observed.evidence.get(child.name)
    if child.complete:
        return Step(stage, look_at=Look(child.name)) if evidence is None else Step(_succeed(scene, stage, evidence))
    if child.failure is not None:
        if evidence is None:
            return Step(stage, look_at=Look(child.name))
        if retry.undecided(evidence) and scene.observed.now - child.failure.time < UNDECIDED_FOR:
            return Step(stage, requeue_after=GOING_SECONDS, queued=_queued(scene, stage, child))
        diagnosis = retry.diagnose(stage.attempt, child.failure, evidence)
        if suspend.ended_as_asked(stage, child, diagnosis, evidence):
            return Step(_restarting(scene, stage), requeue_after=0.0, queued=_queued(scene, stage, child))
        return _end(scene, stage, diagnosis)
    if child.deleting:
        return _end(scene, stage, retry.child_deleted(stage.attempt, child.name))
    return _watch(scene, stage, child, evidence)


def _queued(scene: Scene, stage: StageStatus, child: ChildJob | None = None) -> Waiting | None:
    """Why the stage waits for Kueue, in our words; None where it does not."""
    queue = scene.policy.queue_name
    if child is None:
        return None if queue is None else queued.by_default(queue)
    return queued.by_default(child.queue or queue) if suspend.by_another(scene.policy, stage, child) else None


def _adopt(stage: StageStatus, child: ChildJob) -> StageStatus:
    """The operator was killed after it created the child and before it wrote so."""
    return _changed(
        stage,
        state=StageState.RUNNING,
        attempt=child.attempt,
        nodes=child.parallelism,
        job_name=child.name,
        start_time=stage.start_time or format_time(child.created),
        progress=None,
    )


def _launch(scene: Scene, stage: StageStatus, attempt: int) -> Step:
    if scene.policy.suspend:
        return Step(stage)
    if rejection := scene.observed.rejection:
        if not rejection.final:
            return Step(stage, requeue_after=REJECTED_AGAIN_SECONDS, blocker=blocked.rejected(rejection))
        words = blocked.rejected(rejection)
        message = f"{words.message}; correct spec.podTemplate or the stage's resources in a new job"
        failure = Failure(attempt=attempt, reason=words.reason, message=message)
        return _give_up(scene, stage, failure, (words.reason, message))
    # A number of nodes in the status of a stage that does not run is what the last attempt found room for.
    nodes = stage.nodes or scene.job.spec.stage(stage.name).nodes
    child = child_job(scene.job, stage.name, attempt, scene.inputs, scene.defaults, nodes)
    waiting = _queued(scene, stage)
    started = _changed(
        stage,
        state=StageState.WAITING if waiting else StageState.RUNNING,
        attempt=attempt,
        nodes=nodes,
        job_name=child_name(scene.job.name, stage.name, attempt),
        start_time=stage.start_time or format_time(scene.observed.now),
        progress=None,
    )
    # A stage that succeeded had it; whatever went wrong since, the second attempt looks whether it is still there.
    shared = () if scene.inputs and attempt == 1 else (snapshot(scene.job),)
    actions = tuple(Apply(manifest) for manifest in (*shared, child))
    again = queued.FIRST_LOOK_SECONDS if waiting else blocked.UNBEGUN_SECONDS
    return Step(started, actions, requeue_after=again, queued=waiting)


def _watch(scene: Scene, stage: StageStatus, child: ChildJob, evidence: Evidence | None) -> Step:
    """A live child: suspend or resume it, see whether its pods start, copy what rank 0 says."""
    policy, now = scene.policy, scene.observed.now
    if policy.suspend and suspend.in_queue(scene.policy, child):
        # Kueue owns the child's suspend field and would set it back: let the gang go, and start anew on resume.
        return Step(_restarting(scene, stage), requeue_after=0.0)
    if policy.suspend and suspend.by_another(scene.policy, stage, child):
        return Step(stage)  # it is theirs after the resume, too
    if policy.suspend:
        actions = () if child.suspended else (SetSuspend(child.name, True),)
        return Step(_changed(stage, state=StageState.SUSPENDED), actions)
    if suspend.by_another(scene.policy, stage, child):
        return _wait_for_kueue(scene, stage, child)
    if child.suspended:
        return Step(_changed(stage, state=StageState.RUNNING), (SetSuspend(child.name, False),))
    if stage.state is not StageState.WAITING or blocked.started(child):
        stage = _changed(stage, state=StageState.RUNNING)
    if blocked.overdue(child, now):
        if evidence is None:
            return Step(stage, look_at=Look(child.name, _haste(stage, child)))
        shrinks_in = elastic.seconds_left(scene.job.spec, stage, child, evidence, now)
        ends_in = room.seconds_left(scene.job, child, evidence, now) if shrinks_in is None else shrinks_in
        no_room, astray = ends_in is not None and ends_in <= 0, node_loss.holds_up(evidence, now)
        lame = room.never_started(child, evidence, now)
        if evidence.late and (no_room or astray or lame):
            return Step(stage, look_at=Look(child.name))  # no gang is ended for what may be over by now
        if astray:
            return _end(scene, stage, node_loss.diagnosis(stage.attempt, evidence, now))
        if lame:
            return _end(scene, stage, lame)
        if no_room:
            return _without_room(scene, stage, child, evidence, smaller=shrinks_in is not None)
        blocker = blocked.blocker(scene.job.spec, stage.name, child, evidence, now)
        again = blocked.look_again_seconds(child, now), Look(child.name, _haste(stage, child), evidence.unplaced)
        own = snapshot(scene.job)
        # Later stages take the snapshot for granted: somebody may have deleted it.
        missing = blocker and blocker.reason == blocked.NOT_MOUNTED and own["metadata"]["name"] in blocker.message
        return Step(stage, (Apply(own),) if missing else (), ends_in, look_again=again, blocker=blocker)
    if not blocked.started(child):
        return Step(stage, requeue_after=blocked.look_again_seconds(child, now))
    if progress := scene.observed.progress.get(child.name):
        stage = _changed(stage, progress=visible.merged(stage.progress, progress))
    silence = scene.observed.silence.get(child.name)
    left = stall.seconds_left(policy, stage, silence)
    if silence is not None and left is not None and left <= 0:
        if evidence is None:
            return Step(stage, look_at=Look(child.name))
        if stall.hangs(evidence):
            return _end(scene, stage, stall.diagnosis(stage, policy, silence))
        left = GOING_SECONDS  # a pod of it is on its way out: how that ends is seen elsewhere
    return Step(stage, requeue_after=left, pull=True)


def _without_room(scene: Scene, stage: StageStatus, child: ChildJob, evidence: Evidence, *, smaller: bool) -> Step:
    """End a gang that found no room, charged to nobody: the next one is smaller, or comes later."""
    if not smaller:
        given_way = room.failure(scene.job, child, evidence, scene.observed.now)
        return Step(_restarting(scene, stage, given_way), requeue_after=0.0)
    nodes = elastic.smaller(scene.job.spec.stage(stage.name), child, evidence)
    failure = elastic.failure(stage, nodes, child, evidence, scene.policy)
    return Step(_restarting(scene, stage, failure, nodes=nodes), requeue_after=0.0)


def _haste(stage: StageStatus, child: ChildJob) -> Haste:
    """How soon to look at a gang that is not whole. Of its attempt something was heard, or a pod of it has begun."""
    begun = stage.progress is not None or child.ready + child.succeeded > 0
    return Haste.SOON if begun else Haste.IN_TURN


def _wait_for_kueue(scene: Scene, stage: StageStatus, child: ChildJob) -> Step:
    """Nothing is to be done. What Kueue says is shown; while nothing is known, what it said last stays."""
    said = scene.observed.waiting.get(child.name)
    asks = suspend.in_queue(scene.policy, child) and child.name not in scene.observed.waiting
    return Step(
        _changed(stage, state=StageState.WAITING),
        queued=said or _queued(scene, stage, child),
        requeue_after=queued.look_again_seconds(child, scene.observed.now),
        ask_kueue=(child.name, child.uid) if asks else None,
    )


def _succeed(scene: Scene, stage: StageStatus, evidence: Evidence) -> StageStatus:
    outcome = retry.outcome_of(evidence)
    # The last reward stays visible; whole percents are those of a finished stage.
    progress = scene.observed.progress.get(stage.job_name or "", stage.progress)
    return _changed(
        stage,
        state=StageState.SUCCEEDED,
        completion_time=format_time(scene.observed.now),
        progress=progress,
        artifact=outcome.artifact if outcome else None,
        metrics=outcome.metrics if outcome else {},
    )


def _end(scene: Scene, stage: StageStatus, diagnosis: Diagnosis) -> Step:
    """An attempt ended badly: charge it, then restart or give up. Nothing is deleted before this is written."""
    restarts = retry.charge(stage.restarts, diagnosis.cause)
    refusal = retry.refusal(stage.name, restarts, diagnosis, scene.policy)
    if refusal is not None:
        return _give_up(scene, stage, diagnosis.failure, refusal)
    assert diagnosis.cause is not Cause.USER_ERROR
    return Step(_restarting(scene, stage, diagnosis.failure, restarts=restarts), requeue_after=0.0)


def _give_up(scene: Scene, stage: StageStatus, failure: Failure, refusal: tuple[str, str]) -> Step:
    now = format_time(scene.observed.now)
    failure = failure.model_copy(update={"time": now})
    failed = _changed(stage, state=StageState.FAILED, failure=failure, completion_time=now)
    return Step(failed, refusal=refusal)


def _restart(scene: Scene, stage: StageStatus, child: ChildJob | None) -> Step:
    """The end of attempt N is in the status: clear it away, wait, start attempt N + 1."""
    failure, now = _own_failure(stage), scene.observed.now
    blocker = room.blocker(failure)
    if child is None:
        pause = room.pause_left(scene.job, stage, failure, now)
        if pause > 0 and not scene.policy.suspend:
            return Step(stage, requeue_after=pause, blocker=blocker)
        return _launch(scene, stage, stage.attempt + 1)
    if child.deleting:
        return replace(_clear_away(scene, stage, child), blocker=blocker)
    if suspend.by_another(scene.policy, stage, child) and not suspend.in_queue(scene.policy, child):
        # Nobody would stop the next attempt, and whoever stopped this one wants it stopped.
        return Step(stage, requeue_after=queued.look_again_seconds(child, now))
    if child.failure is not None:
        wait = retry.backoff(failure, stage.restarts) - elapsed(child.failure.time, now)
        if wait.total_seconds() > 0:
            return Step(stage, requeue_after=wait.total_seconds())
    return Step(stage, (DeleteChild(child.name),), blocker=blocker)


def _own_failure(stage: StageStatus) -> Failure | None:
    """How this attempt ended, if it failed. The status keeps the failure of an earlier one when nobody is charged."""
    return stage.failure if stage.failure is not None and stage.failure.attempt == stage.attempt else None


def _clear_away(scene: Scene, stage: StageStatus, child: ChildJob) -> Step:
    """A child goes when its last pod has. Pods that nobody confirms to be gone are removed: their node is lost.

    What still runs there can only write where nobody looks any more (docs/decisions/0006-fencing.md).
    """
    now = scene.observed.now
    wait = node_loss.seconds_to_look(child, _own_failure(stage), now)
    if wait > 0:
        return Step(stage, requeue_after=wait)
    evidence = scene.observed.evidence.get(child.name)
    if evidence is None:
        return Step(stage, look_at=Look(child.name))
    astray = tuple(ForgetPod(pod.name, pod.uid) for pod in evidence.pods if pod.astray(now))
    return Step(stage, astray, requeue_after=GOING_SECONDS)


def _restarting(scene: Scene, stage: StageStatus, failure: Failure | None = None, **fields: Any) -> StageStatus:
    """On the way to the next attempt, which tries all nodes again unless it is told otherwise.

    Args:
        failure: why the last one ended, where somebody is to be told.
        fields: others that change.
    """
    if failure is not None:
        fields["failure"] = failure.model_copy(update={"time": format_time(scene.observed.now)})
    return _changed(stage, **{"state": StageState.RESTARTING, "nodes": None, **fields})


def _changed(stage: StageStatus, **fields: Any) -> StageStatus:
    return stage.model_copy(update=fields)
