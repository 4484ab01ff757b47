"""What a plan asks for: data, carried out by the operator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from instructbooth.spec.status import InstructBoothJobStatus


@dataclass(frozen=True)
class Apply:
    """Create a child, unless it is there already. A child that exists is never changed by it."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class SetSuspend:
    """Suspend or resume a child Job."""

    name: str
    suspend: bool


@dataclass(frozen=True)
class DeleteChild:
    """Delete a child Job, and let its name go only when the last of its pods is gone (foreground)."""

    name: str


@dataclass(frozen=True)
class ForgetPod:
    """Remove a pod that no kubelet confirms to be gone, without waiting for one (grace 0), if it still is that pod."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteSelf:
    """Delete the InstructBoothJob; its children follow by their owner reference."""


Action = Apply | SetSuspend | DeleteChild | ForgetPod | DeleteSelf


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event about the job, posted before the status that it tells of is written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Haste(Enum):
    """How soon pods must be looked at."""

    NOW = "now"  # a gang has ended or hangs: nothing goes on before
    SOON = "soon"  # it has begun and is not whole: a node may be lost
    IN_TURN = "in turn"  # it has not begun, like perhaps a thousand others


@dataclass(frozen=True)
class Look:
    """A child whose pods are to be looked at.

    `unplaced`: that no node is found for any of them is known. A plan is only wanted when that is over.
    """

    child: str
    haste: Haste = Haste.NOW
    unplaced: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do about a job now.

    Attributes:
        status: the status to write, last of all, if it differs.
        actions: first, in order; each may be repeated without harm.
        events: posted before the status is written, so that a crash loses none.
        requeue_after: seconds after which to look again though nothing may have happened; None: only if something does.
        look_at: the pods that must be listed before this plan may be carried out. The reconciler lists them and plans
            again, until this is None.
        look_again: (seconds, look): when to look at a gang again that does not start, if no plan is made before.
        ask_kueue: (name, uid) of the child that waits in a queue: what Kueue says of it may be read, and the plan made
            again. It may be carried out without.
        pull_from: the child whose rank 0 to pull progress from until the next plan.
    """

    status: InstructBoothJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    look_at: Look | None = None
    look_again: tuple[float, Look] | None = None
    ask_kueue: tuple[str, str] | None = None
    pull_from: str | None = None
