"""runPolicy.queueName: a gang waits until Kueue lets it go, or lets it go on. Nobody is charged, and no clock runs.

Kueue keeps a Workload for each child Job, and says in its conditions why it waits. That is shown to people word for
word; what the operator does depends on the child's `suspend` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from instructbooth.reconcile.observed import ChildJob, JsonObject, Waiting, elapsed

PENDING = "Pending"
NOT_SERVED = Waiting(
    "KueueMissing",
    "this cluster serves no Workloads of kueue.x-k8s.io/v1beta1, and nobody but Kueue lets a gang go that has a queue: "
    "install Kueue, or make the job again without a queue",
)
SUSPENDED = Waiting(
    "Suspended",
    "its Job was suspended, and not by the operator: whoever did that lets it go on. Where Kueue manages all Jobs it "
    "suspends those without a queue: then make the job again with runPolicy.queueName",
)
FIRST_LOOK_SECONDS = 2.0
_LOOK_AGAIN_SECONDS = (
    FIRST_LOOK_SECONDS,
    120.0,
)  # Kueue may say something else at any time, but the start is seen at once


def look_again_seconds(child: ChildJob, now: datetime) -> float:
    """When to ask Kueue again: soon at first, ever less often."""
    shortest, longest = _LOOK_AGAIN_SECONDS
    return min(max(elapsed(child.created, now).total_seconds() / 4, shortest), longest)


def by_default(queue: str | None) -> Waiting:
    """What to say as long as Kueue's own words are not known.

    Args:
        queue: None where somebody stopped a child that is in no queue.
    """
    if queue is None:
        return SUSPENDED
    return Waiting(PENDING, f"waits for the queue {queue}", heard=False)


def waiting(workloads: Iterable[JsonObject], child: str) -> Waiting:
    """Kueue's words about a child, from the Workloads that it made for it."""
    newest = max(workloads, key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")), default=None)
    if newest is None:
        message = f"Kueue has made no Workload for the Job {child} yet; `kubectl describe job {child}` may tell why"
        return Waiting(PENDING, message)
    status: JsonObject = newest.get("status") or {}
    conditions = {found["type"]: found for found in status.get("conditions") or ()}
    reserved, admitted = conditions.get("QuotaReserved", {}), conditions.get("Admitted", {})
    # Finished: Kueue could not start the Job and has given it up.
    ends = (conditions.get(kind, {}) for kind in ("Finished", "Evicted"))
    said: list[JsonObject] = [end for end in ends if end.get("status") == "True"]
    if reserved.get("status") != "True":
        said.append(reserved)
    elif not said and admitted.get("status") != "True":
        checks = [check for check in status.get("admissionChecks") or () if check.get("state") != "Ready"]
        said += [_of_check(check) for check in checks] or [admitted]
    reason = next((found["reason"] for found in said if found.get("reason")), PENDING)
    messages = dict.fromkeys(found["message"] for found in said if found.get("message"))
    return Waiting(reason, "; ".join(messages) or "Kueue has not looked at it yet")


def _of_check(check: Mapping[str, str]) -> JsonObject:
    return {"reason": "AdmissionCheck", "message": f"{check['name']}: {check.get('message') or check.get('state')}"}
