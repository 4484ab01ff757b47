"""`plan(job, observed)`: what to do about a job now. Pure: the same question has the same answer.

One function serves every trigger (created, changed, a child's event, a timer, a restart of the operator). Its memory
is the job's own status. Carried out again and again on a world that obeys, it comes to rest: the plan is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from instructbooth.contract import STAGES, Stage
from instructbooth.reconcile.actions import DeleteChild, DeleteSelf, Haste, Plan
from instructbooth.reconcile.conditions import (
    ACCEPTED,
    BLOCKED,
    FAILED,
    PROGRESSING,
    QUEUED,
    SUCCEEDED,
    Claim,
    find,
    holds,
    with_claim,
)
from instructbooth.reconcile.events import events_between
from instructbooth.reconcile.observed import Observed, Waiting, format_time
from instructbooth.reconcile.pod import TrainerDefaults
from instructbooth.reconcile.policies import blocked, deadline, invalid_spec, queued, skew, ttl, visible
from instructbooth.reconcile.policies.gang import Scene, Step, advance
from instructbooth.spec.job import ResolvedJob, RunPolicy
from instructbooth.spec.status import Failure, InstructBoothJobStatus, Phase, StageState, StageStatus

PHASES = {
    Stage.PERSONALIZE: Phase.PERSONALIZING,
    Stage.REINFORCE: Phase.REINFORCING,
    Stage.EVALUATE: Phase.EVALUATING,
}


def plan(
    job: Mapping[str, Any],
    observed: Observed,
    defaults: TrainerDefaults,
    read: Callable[[Mapping[str, Any], bool], tuple[ResolvedJob, list[str]]] = skew.read,
) -> Plan:
    """What to do about `job`, an InstructBoothJob as the API server returns it.

    Args:
        job: with metadata, spec and status.
        observed: the rest of the world.
        defaults: what the operator was installed with.
        read: skew.read, or what says the same at less cost.

    Raises pydantic.ValidationError if the status is not one that this version understands.
    """
    old = InstructBoothJobStatus.from_object(job)
    if "deletionTimestamp" in job["metadata"]:
        return Plan(old)
    if is_finished(old):
        return _finished(job, old, observed)
    begun = old.start_time is not None or bool(observed.children)
    try:
        resolved, unknown = read(job, begun)
        mistakes = invalid_spec.conflicts(resolved.spec)
    except ValidationError as error:
        mistakes = invalid_spec.validation_messages(error)
        if begun or skew.checked_at_apply(error):
            return _held(job, old, skew.misread(mistakes), observed.now)
    if mistakes:
        return _invalid(job, old, mistakes, observed.now)
    if unknown and not begun:
        return _held(job, old, skew.blocker(unknown), observed.now)
    made = _unfinished(job, resolved, old, observed, defaults)
    return replace(made, events=events_between(old, made.status))


def is_finished(status: InstructBoothJobStatus) -> bool:
    """Whether the job has succeeded or failed. Nothing but its clean-up happens after that."""
    return holds(status.conditions, SUCCEEDED) or holds(status.conditions, FAILED)


def _finished(job: Mapping[str, Any], status: InstructBoothJobStatus, observed: Observed) -> Plan:
    """End what still lives (a gang past its deadline), and delete the job when its time has come."""
    live = tuple(DeleteChild(child.name) for child in observed.children if child.live)
    try:
        policy = RunPolicy.model_validate(job["spec"].get("runPolicy") or {}, extra="ignore")
    except ValidationError:
        return Plan(status, live)  # an invalid spec is why it failed; it says nothing that could be obeyed
    left = ttl.seconds_to_live(status, policy, observed.now)
    if left is not None and left <= 0:
        return Plan(status, (*live, DeleteSelf()))
    return Plan(status, live, requeue_after=left)


def _invalid(job: Mapping[str, Any], old: InstructBoothJobStatus, mistakes: list[str], now: datetime) -> Plan:
    message = "; ".join(mistakes)
    claims = [
        Claim(ACCEPTED, False, invalid_spec.REASON, message),
        Claim(FAILED, True, invalid_spec.REASON, message),
    ]
    new = _written(job, old, {"phase": Phase.FAILED, "completion_time": format_time(now)}, claims, now)
    return Plan(new, events=events_between(old, new), requeue_after=0.0)


def _held(job: Mapping[str, Any], old: InstructBoothJobStatus, blocker: blocked.Blocker, now: datetime) -> Plan:
    new = _written(job, old, {}, _blocked_claim(blocker, old), now)
    return Plan(new, events=events_between(old, new), requeue_after=skew.LOOK_AGAIN_SECONDS)


def _unfinished(
    job: Mapping[str, Any],
    resolved: ResolvedJob,
    old: InstructBoothJobStatus,
    observed: Observed,
    defaults: TrainerDefaults,
) -> Plan:
    stages, step = _walk(resolved, old, observed, defaults)
    spec, now = resolved.spec, observed.now
    left = deadline.seconds_left(old, spec.run_policy, now)
    late = left is not None and left <= 0
    # How a gang has ended counts, though it is late. Why one does not start does not.
    if step.look_at is not None and not (late and step.look_at.haste is not Haste.NOW):
        return Plan(old, look_at=step.look_at, requeue_after=left)
    if late and step.refusal is None and not step.done:
        stages, step = _out_of_time(old, stages, step, spec.run_policy, format_time(now))
    finished = step.done or step.refusal is not None
    fields: dict[str, Any] = {"stages": stages, **visible.columns(spec, stages, old)}
    fields["phase"] = _phase(stages, step, spec.run_policy)
    if old.start_time is None and any(stage.attempt for stage in stages):
        fields["start_time"] = format_time(now)
    if finished:
        fields["completion_time"] = format_time(now)
    new = _written(job, old, fields, _claims(stages, step, spec.run_policy, old), now)
    active = not (finished or step.queued or spec.run_policy.suspend) and new.start_time is not None
    new = deadline.run_clock(new, active, now)
    waits = [step.requeue_after, 0.0 if finished else deadline.seconds_left(new, spec.run_policy, now)]
    known = [max(0.0, wait) for wait in waits if wait is not None]
    again = min(known, default=None)
    return Plan(
        new,
        step.actions,
        requeue_after=again,
        look_again=step.look_again,
        ask_kueue=step.ask_kueue,
        pull_from=step.stage.job_name if step.pull else None,
    )


def _walk(
    resolved: ResolvedJob, old: InstructBoothJobStatus, observed: Observed, defaults: TrainerDefaults
) -> tuple[list[StageStatus], Step]:
    """Step through the stages in order, up to the first that has not succeeded; returns that step or the last."""
    known = {stage.name: stage for stage in old.stages}
    stages = [known.get(name) or StageStatus(name=name) for name in STAGES]
    inputs: dict[Stage, int] = {}
    step = Step(stages[0])
    for number, stage in enumerate(stages):
        step = Step(stage)
        if not step.done:
            step = advance(Scene(resolved, observed, inputs, defaults), stage)
            stages[number] = step.stage
        if not step.done:
            break
        inputs[stage.name] = step.stage.attempt
    return stages, step


def _out_of_time(
    old: InstructBoothJobStatus, stages: list[StageStatus], step: Step, policy: RunPolicy, now: str
) -> tuple[list[StageStatus], Step]:
    # What the step would have started was not: the stage stays as it was written last.
    stage = next((s for s in old.stages if s.name is step.stage.name), StageStatus(name=step.stage.name))
    reason, message = deadline.verdict(policy)
    failed = stage.model_copy(
        update={
            "state": StageState.FAILED,
            "completion_time": now,
            "failure": Failure(attempt=stage.attempt, reason=reason, message=message, time=now),
        }
    )
    # Its gang is ended once this is written: finished jobs have no live children.
    return [failed if s.name is failed.name else s for s in stages], Step(failed, refusal=(reason, message))


def _phase(stages: list[StageStatus], step: Step, policy: RunPolicy) -> Phase:
    if step.refusal is not None:
        return Phase.FAILED
    if step.done:
        return Phase.SUCCEEDED
    if policy.suspend:
        return Phase.SUSPENDED
    if step.queued:
        return Phase.QUEUED
    return PHASES[step.stage.name] if any(stage.attempt for stage in stages) else Phase.PENDING


def _claims(stages: list[StageStatus], step: Step, policy: RunPolicy, old: InstructBoothJobStatus) -> list[Claim]:
    claims = [Claim(ACCEPTED, True, "SpecValid")]
    if step.refusal is not None:
        reason, message = step.refusal
        claims += [Claim(PROGRESSING, False, reason), Claim(FAILED, True, reason, message)]
    elif step.done:
        message = f"artifacts: {stages[-1].artifact}" if stages[-1].artifact else "all stages are done"
        claims += [Claim(PROGRESSING, False, "Completed"), Claim(SUCCEEDED, True, "Completed", message)]
    elif policy.suspend:
        claims.append(Claim(PROGRESSING, False, "Suspended", "set runPolicy.suspend to false to go on"))
    elif step.queued:
        queue = (
            "a queue, or for whoever suspended its Job"
            if policy.queue_name is None
            else f"the queue {policy.queue_name}"
        )
        claims.append(Claim(PROGRESSING, False, "Queued", f"waits for {queue}"))
    else:
        restarting = step.stage.state is StageState.RESTARTING
        claims.append(Claim(PROGRESSING, True, "Restarting" if restarting else "Running", step.stage.name.value))
    waits = None if policy.suspend else step.queued
    return [*claims, *_queued_claim(waits, old), *_blocked_claim(step.blocker, old)]


def _queued_claim(waiting: Waiting | None, old: InstructBoothJobStatus) -> list[Claim]:
    previous = find(old.conditions, QUEUED)
    if waiting is None:
        return [Claim(QUEUED, False, "NotQueued")] if previous else []
    if previous and previous.status == "True" and not waiting.heard and previous.reason != queued.SUSPENDED.reason:
        return [Claim(QUEUED, True, previous.reason, previous.message)]  # what Kueue said last is worth more
    return [Claim(QUEUED, True, waiting.reason, waiting.message)]


def _blocked_claim(blocker: blocked.Blocker | None, old: InstructBoothJobStatus) -> list[Claim]:
    previous = find(old.conditions, BLOCKED)
    if blocker is not None:
        message = blocker.message
        if previous and previous.reason == blocker.reason and blocker.reason in blocked.CHATTY:
            message = previous.message
        return [Claim(BLOCKED, True, blocker.reason, message)]
    return [Claim(BLOCKED, False, "Unblocked")] if previous else []


def _written(
    job: Mapping[str, Any], old: InstructBoothJobStatus, fields: dict[str, Any], claims: list[Claim], now: datetime
) -> InstructBoothJobStatus:
    generation = job["metadata"].get("generation", 0)
    conditions = list(old.conditions)
    for claim in claims:
        conditions = with_claim(conditions, claim, format_time(now), generation)
    return old.model_copy(update={**fields, "conditions": conditions, "observed_generation": generation})
