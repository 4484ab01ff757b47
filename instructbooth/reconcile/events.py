"""Kubernetes Events: what changed between the status before and the status after, for people who watch."""

from __future__ import annotations

from instructbooth.contract import STAGES
from instructbooth.reconcile.actions import Event
from instructbooth.reconcile.conditions import BLOCKED, FAILED, QUEUED, SUCCEEDED, find, holds
from instructbooth.reconcile.policies.blocked import UNSCHEDULABLE
from instructbooth.spec.status import InstructBoothJobStatus, Phase, StageState, StageStatus


def events_between(old: InstructBoothJobStatus, new: InstructBoothJobStatus) -> tuple[Event, ...]:
    """The events of one step. On the way of success that is one when a stage starts and one when it ends."""
    before = {stage.name: stage for stage in old.stages}
    found: list[Event] = []
    for stage in new.stages:
        found += _of_stage(before.get(stage.name) or StageStatus(name=stage.name), stage)
    blocked = find(new.conditions, BLOCKED)
    # To wait for room is no news in a full cluster, where thousands do: the condition says it.
    if blocked and blocked.status == "True" and blocked.reason != UNSCHEDULABLE:
        previous = find(old.conditions, BLOCKED)
        if previous is None or (previous.status, previous.reason) != (blocked.status, blocked.reason):
            found.append(Event("Warning", "Blocked", f"{blocked.reason}: {blocked.message}"))
    waiting = find(new.conditions, QUEUED)
    if waiting and waiting.status == "True" and not holds(old.conditions, QUEUED):
        found.append(Event("Normal", "Queued", f"{waiting.reason}: {waiting.message}"))
    if (old.phase is Phase.SUSPENDED) != (new.phase is Phase.SUSPENDED):
        suspended = new.phase is Phase.SUSPENDED
        said = "pods save a checkpoint and stop" if suspended else "goes on from its last checkpoint"
        found.append(Event("Normal", "Suspended" if suspended else "Resumed", said))
    for kind, level in ((SUCCEEDED, "Normal"), (FAILED, "Warning")):
        if holds(new.conditions, kind) and not holds(old.conditions, kind):
            condition = find(new.conditions, kind)
            assert condition is not None
            message = condition.message if kind == SUCCEEDED else f"{condition.reason}: {condition.message}"
            found.append(Event("Normal" if level == "Normal" else "Warning", kind, message))
    return tuple(found)


def _of_stage(old: StageStatus, new: StageStatus) -> list[Event]:
    found: list[Event] = []
    if new.attempt > 0 and old.attempt == 0:
        found.append(Event("Normal", "StageStarted", f"{new.name.value}: {new.job_name}"))
    if new.state is StageState.RESTARTING and new.failure and new.failure != old.failure:
        failure = new.failure
        rank = "" if failure.rank is None else f" by rank {failure.rank}"
        code = "" if failure.exit_code is None else f", exit code {failure.exit_code}"
        counts = f"{new.restarts.failures} failures, {new.restarts.disruptions} disruptions so far"
        found.append(
            Event(
                "Warning",
                "GangRestarted",
                f"{new.name.value} attempt {failure.attempt} ended{rank}{code} ({failure.reason}: {failure.message}); "
                f"the gang starts again from its last checkpoint; {counts}",
            )
        )
    # The end of the last stage is told by the job's own Succeeded.
    if new.state is StageState.SUCCEEDED and old.state is not StageState.SUCCEEDED and new.name is not STAGES[-1]:
        found.append(Event("Normal", "StageSucceeded", f"{new.name.value}: {new.artifact or 'done'}"))
    return found
