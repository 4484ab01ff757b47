"""Why a gang ended, who is charged for it, and whether it may try again.

Two budgets, counted per stage: `backoffLimit` for failures of the application, `disruptionLimit` for what the cluster
did (eviction, preemption, node loss, a stop that the trainer answered with a checkpoint). A user's mistake is never
tried again. The schedule of back-offs is the Job controller's own idea (10 s doubling), with a smaller start and cap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from instructbooth.contract import LOG_LINES, PEER_LOST, STALLED, ExitCode, Outcome, Stage
from instructbooth.reconcile.observed import ChildFailure, Evidence, Exit, Pod, format_time
from instructbooth.reconcile.outcome import parse_outcome
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import Failure, Restarts

FIRST_BACKOFF_SECONDS = 5
MAX_BACKOFF_SECONDS = 300

DISRUPTED = "Disrupted"
CHECKPOINTED = "Checkpointed"
CHILD_DELETED = "ChildDeleted"
NODE_LOST = "NodeLost"
NO_ROOM = "NoRoom"  # elastic.py
PARTLY_PLACED = "PartlyPlaced"  # room.py
NOT_STARTED = "PodNotStarted"  # room.py
# Ends that have cost their time already, or have a pause of their own: a disruption waited for its node, a stall for
# its timeout.
_HAS_WAITED = frozenset(
    {DISRUPTED, CHECKPOINTED, CHILD_DELETED, NODE_LOST, STALLED, NO_ROOM, PARTLY_PLACED, NOT_STARTED}
)


class Cause(StrEnum):
    """Who is charged."""

    USER_ERROR = "UserError"
    FAILURE = "Failure"
    DISRUPTION = "Disruption"


@dataclass(frozen=True)
class Diagnosis:
    """Why an attempt ended."""

    cause: Cause
    failure: Failure


@dataclass(frozen=True)
class _End:
    """How one pod's end began. Of several, the earliest is the root: the others fell with it."""

    time: datetime
    order: int  # within a second, which is all that Kubernetes tells: what a pod did itself, before what was done to it
    rank: int
    cause: Cause
    pod: Pod


def diagnose(attempt: int, failure: ChildFailure, evidence: Evidence) -> Diagnosis:
    """The root cause of a failed child, from its pods where they are still there, else from the Job's own words."""
    ends = [end for pod in evidence.pods for end in _ends(pod, failure.time)]
    if not ends:
        return _from_job(attempt, failure)
    # A mistake that one rank recognized is the cause, even if another fell over its consequences first. And who lost
    # a peer on a node that is lost may have noticed before the node controller did.
    mistakes = [end for end in ends if end.cause is Cause.USER_ERROR]
    if any(end.pod.unreachable for end in ends):
        ends = [end for end in ends if end.pod.exit is None or not _is_victim(end.pod.exit)]
    first = min(mistakes or ends, key=lambda end: (end.time, end.order, end.rank))
    return Diagnosis(first.cause, _failure(attempt, first))


def undecided(evidence: Evidence) -> bool:
    """Whether all who ended say that somebody else did, and somebody has not ended.

    A peer's node may be lost: survivors can notice at once, the node controller needs most of a minute.
    """
    ended = [pod for pod in evidence.pods if pod.exit is not None and pod.exit.code != ExitCode.OK]
    silent = [pod for pod in evidence.pods if not pod.ended and pod.unreachable is None and pod.disrupted is None]
    return bool(silent) and bool(ended) and all(_is_victim(pod.exit) for pod in ended if pod.exit)


def _ends(pod: Pod, fallback: datetime) -> Iterable[_End]:
    rank = pod.rank if pod.rank is not None else 1 << 30
    if pod.unreachable is not None:
        yield _End(pod.unreachable, 0, rank, Cause.DISRUPTION, pod)
    if pod.disrupted is not None:
        yield _End(pod.disrupted, 0, rank, Cause.DISRUPTION, pod)
    if pod.exit is not None and pod.exit.code != ExitCode.OK:
        yield _End(pod.exit.time, 2 if _is_victim(pod.exit) else 1, rank, _cause_of(pod.exit.code), pod)
    if pod.deletion_asked is not None:
        yield _End(pod.deletion_asked, 3, rank, Cause.DISRUPTION, pod)
    if pod.phase == "Failed" and pod.exit is None:  # the node turned it away before a container ran
        yield _End(fallback, 4, rank, Cause.DISRUPTION, pod)


def _is_victim(end: Exit) -> bool:
    """Whether the process itself says that it fell because another one had: the survivors of a kill do at once."""
    outcome = parse_outcome(end.message)
    return outcome is not None and outcome.reason == PEER_LOST


def _cause_of(code: int) -> Cause:
    if code == ExitCode.USER_ERROR:
        return Cause.USER_ERROR
    return Cause.DISRUPTION if code == ExitCode.CHECKPOINTED else Cause.FAILURE


def _failure(attempt: int, end: _End) -> Failure:
    pod, code = end.pod, end.pod.exit.code if end.pod.exit else None
    reason, message = _words(end)
    return Failure(attempt=attempt, rank=pod.rank, exit_code=code, reason=reason, message=message, log=_log(pod.exit))


def _log(end: Exit | None) -> list[str]:
    """The last lines of a container's log: its own, or those that the kubelet found where it left no word."""
    if end is None:
        return []
    outcome = parse_outcome(end.message)
    return (outcome.log if outcome else end.message.splitlines())[-LOG_LINES:]


def _words(end: _End) -> tuple[str, str]:
    pod = end.pod
    outcome = parse_outcome(pod.exit.message) if pod.exit else None
    if end.cause is Cause.DISRUPTION and pod.unreachable is not None:
        node = f"the node {pod.node}" if pod.node else "the node"
        return NODE_LOST, f"{node} of rank {pod.rank} answers nobody since {format_time(pod.unreachable)}"
    if end.cause is Cause.DISRUPTION:
        reason = CHECKPOINTED if pod.exit and pod.exit.code == ExitCode.CHECKPOINTED else DISRUPTED
        said = [
            pod.disruption,
            f"{pod.reason}: {pod.message}" if pod.reason else "",
            outcome.message if outcome else "",
        ]
        return reason, "; ".join(filter(None, said)) or f"the pod {pod.name} was stopped"
    assert pod.exit is not None
    if outcome:
        return outcome.reason, outcome.message
    if pod.exit.reason == "OOMKilled":
        return "OutOfMemory", f"rank {pod.rank} was killed for memory; raise resources.limits.memory of the stage"
    how = f"rank {pod.rank} ended with exit code {pod.exit.code}"
    if pod.exit.code > 128:
        how += f" (signal {pod.exit.code - 128})"
    return pod.exit.reason if pod.exit.reason not in ("", "Error") else "TrainerFailed", how


def _from_job(attempt: int, failure: ChildFailure) -> Diagnosis:
    """Without pods: the Job's Failed message names the rule of its podFailurePolicy, and so the exit code."""
    found = re.search(r"exit code (\d+)", failure.message)
    code = int(found.group(1)) if found else None
    if "DisruptionTarget" in failure.message:
        cause, reason = Cause.DISRUPTION, DISRUPTED
    elif code is not None:
        cause = _cause_of(code)
        reason = CHECKPOINTED if cause is Cause.DISRUPTION else "TrainerFailed"
    else:
        cause, reason = Cause.FAILURE, failure.reason
    message = failure.message or "the pods were gone before they could be asked"
    return Diagnosis(cause, Failure(attempt=attempt, exit_code=code, reason=reason, message=message))


def child_deleted(attempt: int, name: str) -> Diagnosis:
    """Someone deleted a child Job that had not ended."""
    message = f"the Job {name} was deleted from outside"
    return Diagnosis(Cause.DISRUPTION, Failure(attempt=attempt, reason=CHILD_DELETED, message=message))


def charge(restarts: Restarts, cause: Cause) -> Restarts:
    """The restarts with one more of that cause; a user's mistake is not a restart."""
    match cause:
        case Cause.FAILURE:
            return Restarts(failures=restarts.failures + 1, disruptions=restarts.disruptions)
        case Cause.DISRUPTION:
            return Restarts(failures=restarts.failures, disruptions=restarts.disruptions + 1)
        case Cause.USER_ERROR:
            return restarts


def refusal(stage: Stage, restarts: Restarts, diagnosis: Diagnosis, policy: RunPolicy) -> tuple[str, str] | None:
    """Why the gang may not start again, as (reason, message) of the job; None if it may. `restarts` are charged."""
    failure = diagnosis.failure
    said = f"{failure.reason}: {failure.message}"
    match diagnosis.cause:
        case Cause.USER_ERROR:
            return failure.reason, f"{stage.value}: {failure.message}"
        case Cause.FAILURE if restarts.failures > policy.backoff_limit:
            limit, count = f"runPolicy.backoffLimit is {policy.backoff_limit}", restarts.failures
            return "BackoffLimitExceeded", f"{stage.value} failed {count} times and {limit}; last: {said}"
        case Cause.DISRUPTION if restarts.disruptions > policy.disruption_limit:
            limit, count = f"runPolicy.disruptionLimit is {policy.disruption_limit}", restarts.disruptions
            return "DisruptionLimitExceeded", f"{stage.value} was disrupted {count} times and {limit}; last: {said}"
    return None


def backoff(failure: Failure | None, restarts: Restarts) -> timedelta:
    """How long to wait after a failure: 5 s, 10 s, ... 300 s. Not after what has waited already."""
    if failure is None or failure.reason in _HAS_WAITED or restarts.failures == 0:
        return timedelta()
    doublings = min(restarts.failures - 1, 10)
    return timedelta(seconds=min(FIRST_BACKOFF_SECONDS * 2**doublings, MAX_BACKOFF_SECONDS))


def outcome_of(evidence: Evidence) -> Outcome | None:
    """What rank 0 said at its end."""
    first = next((pod for pod in evidence.pods if pod.rank == 0 and pod.exit is not None), None)
    return parse_outcome(first.exit.message) if first and first.exit else None
