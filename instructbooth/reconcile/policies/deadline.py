"""runPolicy.activeDeadlineSeconds: bounds the time a job is active. A suspended or queued job's clock stands still."""

from __future__ import annotations

from datetime import datetime, timedelta

from instructbooth.reconcile.observed import format_time, parse_time
from instructbooth.spec.job import RunPolicy
from instructbooth.spec.status import InstructBoothJobStatus


def active_time(status: InstructBoothJobStatus, now: datetime) -> timedelta:
    """How long the job has been active in all."""
    since = parse_time(status.active_since)
    return timedelta(seconds=status.active_seconds) + (now - since if since else timedelta())


def run_clock(status: InstructBoothJobStatus, active: bool, now: datetime) -> InstructBoothJobStatus:
    """The status with its clock started, stopped or left alone."""
    if active == (status.active_since is not None):
        return status
    if active:
        return status.model_copy(update={"active_since": format_time(now)})
    seconds = max(0, int(active_time(status, now).total_seconds()))
    return status.model_copy(update={"active_since": None, "active_seconds": seconds})


def seconds_left(status: InstructBoothJobStatus, policy: RunPolicy, now: datetime) -> float | None:
    """Seconds to the deadline (negative: past it); None if there is none or the clock stands still."""
    if policy.active_deadline_seconds is None or status.active_since is None:
        return None
    return policy.active_deadline_seconds - active_time(status, now).total_seconds()


def verdict(policy: RunPolicy) -> tuple[str, str]:
    """Reason and message of a job that ran out of time."""
    limit = policy.active_deadline_seconds
    return (
        "DeadlineExceeded",
        f"the job was active for longer than runPolicy.activeDeadlineSeconds ({limit} s); its checkpoints and "
        "artifacts are kept: give a new job more time",
    )
