"""metav1.Condition: set one, and its transition time moves only when its status does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from instructbooth.spec.status import Condition

ACCEPTED = "Accepted"
PROGRESSING = "Progressing"
BLOCKED = "Blocked"
QUEUED = "Queued"
SUCCEEDED = "Succeeded"
FAILED = "Failed"


@dataclass(frozen=True)
class Claim:
    """What a condition is to say: whether it holds, why in one word, why for a person."""

    type: str
    holds: bool
    reason: str
    message: str = ""


def find(conditions: Sequence[Condition], kind: str) -> Condition | None:
    """The condition of that type."""
    return next((c for c in conditions if c.type == kind), None)


def holds(conditions: Sequence[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and true."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"


def with_claim(conditions: Sequence[Condition], claim: Claim, now: str, generation: int) -> list[Condition]:
    """The conditions with one of them set; the same list again if it already said so."""
    status: Literal["True", "False"] = "True" if claim.holds else "False"
    old = find(conditions, claim.type)
    new = Condition(
        type=claim.type,
        status=status,
        reason=claim.reason,
        message=claim.message,
        last_transition_time=old.last_transition_time if old and old.status == status else now,
        observed_generation=generation,
    )
    if old is None:
        return [*conditions, new]
    return [new if c.type == claim.type else c for c in conditions]
