"""runPolicy.suspend, and gangs that somebody else suspends (Kueue, an administrator): who did it, and who is charged.

A suspended gang's pods get SIGTERM, save and go, and with them their GPUs; the same attempt goes on later.
"""

from __future__ import annotations

from instructbooth.reconcile.observed import ChildJob, Evidence
from instructbooth.reconcile.policies.retry import Cause, Diagnosis
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import StageState, StageStatus


def in_queue(policy: RunPolicy, child: ChildJob) -> bool:
    """Whether `suspend` of the child is Kueue's. Its webhook may have put the child into a queue of its own accord."""
    return (child.queue or policy.queue_name) is not None


def by_another(policy: RunPolicy, stage: StageStatus, child: ChildJob) -> bool:
    """Whether the child was suspended by somebody else than the operator.

    The label says so, written together with `suspend`; operators before it only noted it in the status.
    """
    ours = child.suspended_by_operator or stage.state is StageState.SUSPENDED
    return child.suspended and (in_queue(policy, child) or not ours)


def ended_as_asked(stage: StageStatus, child: ChildJob, diagnosis: Diagnosis, evidence: Evidence) -> bool:
    """Whether the gang only did what suspending asks for, be it the user's or Kueue's. Nobody is charged for that.

    The Job controller may see the pods' exit code before they are gone, and gives a suspended child up for it: the
    resume is then a new attempt. Pods that ended after they were asked to go ended for that, some with a checkpoint,
    some for want of their peers; and those that are gone were asked to go too.
    """
    asked_first = all(
        pod.deletion_asked is not None and (pod.exit is None or pod.exit.time >= pod.deletion_asked)
        for pod in evidence.pods
        if pod.ended
    )
    blameless = diagnosis.cause is Cause.FAILURE and asked_first
    stopped = child.suspended or let_go_again(stage, child, evidence)
    return stopped and (blameless or diagnosis.cause is Cause.DISRUPTION)


def let_go_again(stage: StageStatus, child: ChildJob, evidence: Evidence) -> bool:
    """Whether Kueue stopped this attempt, let it go while its former pods still saved, and its gang is not whole yet.

    A stage that Kueue lets go for the first time waits for its whole gang too. But it has made no progress, and none of
    its pods was asked to go before it began. What befalls those is charged: else they would begin anew for ever.
    """
    if stage.state is not StageState.WAITING:
        return False
    asked = [pod.deletion_asked for pod in evidence.pods if pod.deletion_asked is not None]
    former = child.started is not None and any(time <= child.started for time in asked)
    return former or stage.progress is not None
