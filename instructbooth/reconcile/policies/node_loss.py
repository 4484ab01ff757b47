"""A lost node: pods that should be gone and of which no kubelet says so. The gang starts again elsewhere.

Which pods those are, a pod says itself (`Pod.astray`, `Pod.unreachable`); retry.py tells the cause from its echoes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from instructbooth.reconcile.observed import ASTRAY_AFTER, ChildFailure, ChildJob, Evidence
from instructbooth.reconcile.pod import GRACE_SECONDS
from instructbooth.reconcile.policies import retry
from instructbooth.reconcile.policies.retry import Diagnosis
from instructbooth.spec.status import Failure


def holds_up(evidence: Evidence, now: datetime) -> bool:
    """Whether a pod that should be gone, and did not end, keeps the gang from being whole.

    A finished pod that is being deleted (it was collected, or somebody tidied up) says nothing of its node: it stays
    for as long as the Job controller has not counted it, minutes perhaps where that has much to do.
    """
    return any(pod.astray(now) and pod.phase not in ("Succeeded", "Failed") for pod in evidence.pods)


def diagnosis(attempt: int, evidence: Evidence, now: datetime) -> Diagnosis:
    """What is to be said of a gang of which a pod does not end, before the Job controller says anything."""
    return retry.diagnose(attempt, ChildFailure(retry.NODE_LOST, "a pod does not end", now), evidence)


def seconds_to_look(child: ChildJob, failure: Failure | None, now: datetime) -> float:
    """Seconds until it is time to see whether pods of a child that is being deleted are astray; 0: now.

    Args:
        child: with a deletion under way.
        failure: how this attempt ended. Where its node is known to be lost, nobody waits for that node's kubelet.
        now: the time.
    """
    if failure is not None and failure.reason == retry.NODE_LOST:
        return 0.0
    due = (child.deleted or now) + timedelta(seconds=GRACE_SECONDS) + ASTRAY_AFTER
    return max(0.0, (due - now).total_seconds())
