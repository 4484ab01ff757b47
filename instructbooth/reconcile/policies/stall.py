"""runPolicy.stallTimeoutSeconds: a gang that hangs is started again, charged to the application's failures.

Two watchdogs. Each rank watches itself (instructbooth_trainer.runtime.watchdog): it knows where it hangs, leaves its
stack in the log and ends with a code of its own. This one is for ranks that cannot: a frozen process, a node that
answers nobody. It leaves the first one time to speak, and ends the gang by SIGTERM.

Silence is what the operator itself saw on a clock that cannot be set: pods' clocks may differ from its own.
"""

from __future__ import annotations

from instructbooth.contract import STALLED
from instructbooth.reconcile.observed import Evidence, Silence
from instructbooth.reconcile.policies.retry import Cause, Diagnosis
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import Failure, StageStatus

_LONGEST_MARGIN_SECONDS = 120.0
_BEFORE_THE_FIRST_STEP_SECONDS = (
    600.0  # when ranks gather and import, which moves nothing and takes minutes from a cold disk
)


def patience(policy: RunPolicy) -> float | None:
    """Seconds of silence after which the operator ends a gang; None: never."""
    timeout = policy.stall_timeout_seconds
    return timeout + min(_LONGEST_MARGIN_SECONDS, timeout) if timeout else None


def seconds_left(policy: RunPolicy, stage: StageStatus, silence: Silence | None) -> float | None:
    """Seconds until a gang is to be ended if it stays silent (not positive: now); None if it is not judged.

    A rank 0 that was never heard in this attempt may be out of the operator's reach (a NetworkPolicy): it is not
    judged. It watches itself all the same. Where nothing is known of its silence (the operator has just begun, or
    cannot find out where it is) the time has not begun. Before the first step it is longer.
    """
    limit = patience(policy)
    if limit is None or not (stage.progress or (silence and silence.heard)):
        return None
    # What an attempt said before it was suspended says nothing of where its new pods are.
    if not (silence and silence.heard and stage.progress and stage.progress.total):
        limit += _BEFORE_THE_FIRST_STEP_SECONDS
    return limit - (silence.seconds if silence else 0.0)


def hangs(evidence: Evidence) -> bool:
    """Whether rank 0 should be answering: its pod runs, and nobody has asked it to go."""
    return any(
        pod.rank == 0 and pod.phase == "Running" and pod.exit is None and pod.deletion_asked is None
        for pod in evidence.pods
    )


def diagnosis(stage: StageStatus, policy: RunPolicy, silence: Silence) -> Diagnosis:
    """What is written about a gang before it is ended."""
    progress = stage.progress
    place = f" at {progress.step} of {progress.total} {progress.unit or 'units'}" if progress else ""
    last = f"; its last heartbeat is of {silence.heartbeat}" if silence.heartbeat else ""
    how = "answers but has not moved" if silence.answers else "cannot be reached and has not moved"
    message = (
        f"rank 0 {how} for {silence.seconds:.0f} s{place}{last} (runPolicy.stallTimeoutSeconds is "
        f"{policy.stall_timeout_seconds}); the pods' logs may hold stacks"
    )
    return Diagnosis(Cause.FAILURE, Failure(attempt=stage.attempt, reason=STALLED, message=message))
