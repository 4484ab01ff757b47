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

from instructbooth.reconcile.observed import ChildJob, Evidence, Pod, elapsed, parse_time
from instructbooth.reconcile.policies import blocked
from instructbooth.reconcile.policies.retry import PARTLY_PLACED
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.status import Failure, StageStatus

_SPREAD = 0.5  # of the timeout: the last of many gangs gives way so much later than the first
_PAUSE_SECONDS = 60.0  # before it begins anew, half as long to half as long again; the scheduler looks within ten


def seconds_left(job: ResolvedJob, child: ChildJob, evidence: Evidence, now: datetime) -> float | None:
    """Seconds until the gang gives its nodes back (not positive: now); None if it is not to."""
    timeout, placed = job.spec.run_policy.placement_timeout_seconds, _placed(evidence)
    if not timeout or not placed or _said(child, evidence) is None:
        return None
    newest = max(pod.placed for pod in placed if pod.placed)
    hold = timeout * (1 + _SPREAD * _share(job, child.name, "hold"))
    return hold - elapsed(newest, now).total_seconds()


def failure(job: ResolvedJob, child: ChildJob, evidence: Evidence) -> Failure:
    """What is written about an attempt that gives way."""
    policy = job.spec.run_policy
    message = (
        f"{len(_placed(evidence))} of {child.parallelism} pods found a node, and in "
        f"{policy.placement_timeout_seconds} s (runPolicy.placementTimeoutSeconds) the others did not: "
        f"{_said(child, evidence)}; the gang gives its nodes back for others, and tries again in "
        f"{_pause(job, child.name).total_seconds():.0f} s"
    )
    return Failure(attempt=child.attempt, reason=PARTLY_PLACED, message=message)


def blocker(failure: Failure | None) -> blocked.Blocker | None:
    """Why a gang that gave way is not there."""
    given_way = failure is not None and failure.reason == PARTLY_PLACED
    return blocked.Blocker(PARTLY_PLACED, failure.message) if failure and given_way else None


def pause_left(job: ResolvedJob, stage: StageStatus, failure: Failure | None, now: datetime) -> float:
    """Seconds until a gang that gave way may begin anew. `failure`: how its last attempt ended."""
    if failure is None or failure.reason != PARTLY_PLACED or (ended := parse_time(failure.time)) is None:
        return 0.0
    return max(0.0, (_pause(job, stage.job_name or "") - elapsed(ended, now)).total_seconds())


def _placed(evidence: Evidence) -> list[Pod]:
    """Pods that hold a place."""
    return [pod for pod in evidence.pods if pod.placed and not pod.ended and pod.deletion_asked is None]


def _said(child: ChildJob, evidence: Evidence) -> str | None:
    """Why there is no place for the rest, in the words of who refuses it: the scheduler, or a quota."""
    for pod in evidence.pods:
        if pod.unschedulable:
            return pod.unschedulable
    return blocked.not_created(child, evidence)


def _pause(job: ResolvedJob, child: str) -> timedelta:
    longest = min(_PAUSE_SECONDS, float(job.spec.run_policy.placement_timeout_seconds))
    return timedelta(seconds=int(longest * (0.5 + _share(job, child, "pause"))))


def _share(job: ResolvedJob, child: str, what: str) -> float:
    """A number in [0, 1) that is always the same for an attempt of a stage of a job, and another one for each."""
    digest = hashlib.sha256(f"{job.uid}/{child}/{what}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
