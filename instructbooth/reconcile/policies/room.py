"""runPolicy.placementTimeoutSeconds: half a gang gives its nodes back when there is none for the rest.

Pods that found a node hold it, and wait for those that found none. Two such gangs may hold what the other one needs,
and without a scheduler that knows gangs both would wait for ever. So a gang is ended that found no further place for
that long, and begins anew some time later, when the other one had its chance. Both times differ from gang to gang:
of two that began to wait together one gives way first, and of two that gave way one is back first.

Nobody is charged, and the pods have not begun: they gather before they load anything. A gang of which no pod has a node
holds nothing and waits; one that may become smaller does so instead (elastic.py).
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from instructbooth.reconcile.names import MAX_ATTEMPT
from instructbooth.reconcile.observed import ChildJob, Evidence, Pod, elapsed, parse_time
from instructbooth.reconcile.policies import blocked
from instructbooth.reconcile.policies.retry import NOT_STARTED, PARTLY_PLACED, Cause, Diagnosis
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.status import Failure, StageStatus

START_TIMEOUT = timedelta(minutes=30)
"""For a pod that has a node to run its container, while others of its gang do: the largest images take ten."""

_SPREAD = 0.5  # of the timeout: the last of many gangs gives way so much later than the first
_PAUSE_SECONDS = (20.0, 60.0)  # before it begins anew, half as long to half as long again; the scheduler needs up to 10


def seconds_left(job: ResolvedJob, child: ChildJob, evidence: Evidence, now: datetime) -> float | None:
    """Seconds until the gang gives its nodes back (not positive: now); None if it is not to."""
    timeout = job.spec.run_policy.placement_timeout_seconds
    if not timeout or not _placed(evidence) or blocked.refusal(child, evidence) is None:
        return None
    if child.attempt >= MAX_ATTEMPT:  # names have room for no more
        return None
    return timeout * (1 + _SPREAD * _share(job, child.name, "hold")) - _held(evidence, now)


def failure(job: ResolvedJob, child: ChildJob, evidence: Evidence, now: datetime) -> Failure:
    """What is written about an attempt that gives way."""
    message = (
        f"{len(_placed(evidence))} of {child.parallelism} pods found a node, and in {_held(evidence, now):.0f} s "
        f"(runPolicy.placementTimeoutSeconds: {job.spec.run_policy.placement_timeout_seconds}) no other one did: "
        f"{blocked.refusal(child, evidence)}; the gang gives its nodes back for others, and tries again in "
        f"{_pause(job, child.name).total_seconds():.0f} s"
    )
    return Failure(attempt=child.attempt, reason=PARTLY_PLACED, message=message)


def blocker(failure: Failure | None) -> blocked.Blocker | None:
    """Why a gang that gave way is not there."""
    if failure is None or failure.reason != PARTLY_PLACED:
        return None
    return blocked.Blocker(PARTLY_PLACED, failure.message)


def pause_left(job: ResolvedJob, stage: StageStatus, failure: Failure | None, now: datetime) -> float:
    """Seconds until a gang that gave way may begin anew. `failure`: how its last attempt ended."""
    if failure is None or failure.reason != PARTLY_PLACED or (ended := parse_time(failure.time)) is None:
        return 0.0
    return max(0.0, (_pause(job, stage.job_name or "") - elapsed(ended, now)).total_seconds())


def never_started(child: ChildJob, evidence: Evidence, now: datetime) -> Diagnosis | None:
    """What is to be said of a pod that has a node and does not start there, while others of its gang wait for it.

    Something is wrong with that node, or with what the pod needs of it. Where nothing of a gang runs, that is shown and
    waited for (blocked.py), however long: what was missing may come at last, to one pod sooner than to another. Where
    others have waited for it, it has a bound, and is charged as a failure.
    """
    begun = [pod.running for pod in evidence.pods if pod.running]
    if not begun or now - min(begun) < START_TIMEOUT:
        return None
    for pod in _placed(evidence):
        if pod.phase == "Pending" and _since(pod, now) >= START_TIMEOUT:
            why = f"{pod.waiting_reason}: {pod.waiting_message}" if pod.waiting_reason else "its node does not say why"
            message = (
                f"rank {pod.rank} has not started on its node {pod.node} for {START_TIMEOUT.total_seconds():.0f} s, "
                f"while {len(begun)} of {child.parallelism} pods wait for it: {why}; "
                f"`kubectl describe pod {pod.name}` and the node's kubelet may tell more"
            )
            return Diagnosis(
                Cause.FAILURE, Failure(attempt=child.attempt, rank=pod.rank, reason=NOT_STARTED, message=message)
            )
    return None


def _placed(evidence: Evidence) -> list[Pod]:
    """Pods that hold a place."""
    return [pod for pod in evidence.pods if pod.placed and not pod.ended and pod.deletion_asked is None]


def _since(pod: Pod, now: datetime) -> timedelta:
    """How long a pod has had its place. No gang is ended for a clock that is set ahead: it counts from now on then."""
    return max(timedelta(), now - pod.placed) if pod.placed else timedelta()


def _held(evidence: Evidence, now: datetime) -> float:
    """Seconds since the gang found its last place."""
    return min(_since(pod, now) for pod in _placed(evidence)).total_seconds()


def _pause(job: ResolvedJob, child: str) -> timedelta:
    shortest, longest = _PAUSE_SECONDS
    middle = min(max(shortest, job.spec.run_policy.placement_timeout_seconds), longest)
    return timedelta(seconds=int(middle * (0.5 + _share(job, child, "pause"))))


def _share(job: ResolvedJob, child: str, what: str) -> float:
    """A number in [0, 1) that is always the same for an attempt of a stage of a job, and another one for each."""
    digest = hashlib.sha256(f"{job.uid}/{child}/{what}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
