"""runPolicy.ttlSecondsAfterFinished: a finished job goes after so many seconds; its artifacts stay."""

from __future__ import annotations

from datetime import datetime

from instructbooth.reconcile.observed import parse_time
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import InstructBoothJobStatus


def seconds_to_live(status: InstructBoothJobStatus, policy: RunPolicy, now: datetime) -> float | None:
    """Seconds until the finished job is to be deleted (not positive: now); None: it stays."""
    finished = parse_time(status.completion_time)
    if policy.ttl_seconds_after_finished is None or finished is None:
        return None
    return policy.ttl_seconds_after_finished - (now - finished).total_seconds()
