"""What was seen of the world when a plan is made. Parsed from objects as the API server returns them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from instructbooth.contract import CONTAINER, Env, Label, Stage
from instructbooth.spec.status import Progress

JsonObject = Mapping[str, Any]


def parse_time(text: str | None) -> datetime | None:
    """A Kubernetes timestamp (RFC 3339, UTC)."""
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00"))


def format_time(time: datetime) -> str:
    """A time as the API server writes it: UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""Label and annotation of a pod: its rank."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Label of a Job: the LocalQueue that it waits in. Kueue may put it there itself."""
CLOCKS_AGREE = timedelta(minutes=1)
LONG_AGO = timedelta(days=1)


def elapsed(since: datetime, now: datetime) -> timedelta:
    """Time since a moment that another clock told (the API server's, a node's).

    If that lies in the future by more than clocks may differ, one of them is wrong, and nobody knows for how long: then
    it counts as long ago. Otherwise whoever waits for it would wait as long as the clock is wrong, hours perhaps.
    """
    return LONG_AGO if since - now > CLOCKS_AGREE else now - since


def _condition(obj: JsonObject, kind: str) -> JsonObject | None:
    """The condition of that type that holds."""
    conditions: Iterable[JsonObject] = obj.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


DECISIVE = ("Complete", "FailureTarget", "Failed")
"""Conditions of a child Job that say how it ended. FailureTarget comes as soon as one pod decided it, Failed when the
last pod has gone."""


@dataclass(frozen=True)
class ChildFailure:
    """Why the Job controller gave a child up."""

    reason: str
    message: str
    time: datetime


@dataclass(frozen=True)
class ChildJob:
    """A child Job: one attempt of a stage."""

    name: str
    stage: Stage
    attempt: int
    parallelism: int
    created: datetime
    suspended: bool = False
    suspended_by_operator: bool = False
    queue: str | None = None
    deleting: bool = False
    deleted: datetime | None = None  # when its deletion was asked for
    complete: bool = False
    failure: ChildFailure | None = None
    active: int = 0
    ready: int = 0
    succeeded: int = 0
    started: datetime | None = None
    uid: str = ""

    @property
    def finished(self) -> bool:
        """No pod of it will run any more (they may still be shutting down)."""
        return self.complete or self.failure is not None

    @property
    def live(self) -> bool:
        """It runs pods or may yet."""
        return not self.finished and not self.deleting

    def released(self, now: datetime) -> datetime:
        """When its pods could begin. The Job controller writes that down a moment after it has made them, and a child
        that waited in a queue is much older by then.
        """
        return self.started or now

    @classmethod
    def from_object(cls, obj: JsonObject) -> ChildJob:
        """Read a batch/v1 Job that carries the contract's labels. Raises KeyError or ValueError if it does not."""
        meta, spec, status = obj["metadata"], obj["spec"], obj.get("status", {})
        failed = _condition(obj, "FailureTarget") or _condition(obj, "Failed")
        created = parse_time(meta["creationTimestamp"])
        assert created is not None
        return cls(
            name=meta["name"],
            stage=Stage(meta["labels"][Label.STAGE]),
            attempt=int(meta["labels"][Label.ATTEMPT]),
            parallelism=spec.get("parallelism", 1),
            created=created,
            suspended=spec.get("suspend", False),
            suspended_by_operator=Label.SUSPENDED in meta["labels"],
            queue=meta["labels"].get(QUEUE_LABEL),
            deleting="deletionTimestamp" in meta,
            deleted=parse_time(meta.get("deletionTimestamp")),
            complete=_condition(obj, "Complete") is not None,
            failure=None
            if failed is None
            else ChildFailure(
                failed.get("reason", "Failed"),
                failed.get("message", ""),
                parse_time(failed.get("lastTransitionTime")) or created,
            ),
            active=status.get("active", 0),
            ready=status.get("ready", 0),
            succeeded=status.get("succeeded", 0),
            started=parse_time(status.get("startTime")),
            uid=meta.get("uid", ""),
        )


@dataclass(frozen=True)
class Exit:
    """How the trainer's container ended."""

    code: int
    reason: str
    message: str
    time: datetime


ASTRAY_AFTER = timedelta(seconds=30)  # what a kubelet needs, after the kill, to say that a pod is gone


@dataclass(frozen=True)
class Pod:
    """A pod of a gang.

    Attributes:
        rank: its index, None if it has none (yet).
        unschedulable: why no node is found for it, in the scheduler's words.
        ignored: since when no scheduler has said anything of it.
        placed: when one was.
        running: since when its container runs.
        reason: the kubelet's, where it never came to a container: Evicted, UnexpectedAdmissionError.
        unreachable: since when its node answers nobody.
        deletion_asked: when somebody asked it to go.
        deletion_due: when its grace to do so was over.
        address: its IP address, once it has one.
        gang: how many pods its gang has.
    """

    name: str
    rank: int | None
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    exit: Exit | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    ignored: datetime | None = None
    placed: datetime | None = None
    running: datetime | None = None
    disruption: str = ""
    disrupted: datetime | None = None
    deletion_asked: datetime | None = None
    deletion_due: datetime | None = None
    unreachable: datetime | None = None
    node: str = ""
    uid: str = ""
    address: str = ""
    gang: int = 1

    @property
    def ended(self) -> bool:
        """Nothing of it runs any more, as far as its kubelet could say."""
        return self.exit is not None or self.phase in ("Succeeded", "Failed")

    def astray(self, now: datetime) -> bool:
        """Whether it should be gone and nobody confirms it: its node, or the kubelet there, is lost."""
        return self.deletion_due is not None and now - self.deletion_due >= ASTRAY_AFTER

    @classmethod
    def from_object(cls, obj: JsonObject) -> Pod:
        """Read a core/v1 Pod."""
        meta, status = obj["metadata"], obj.get("status", {})
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        disruption = conditions.get("DisruptionTarget", {})
        disrupted = disruption.get("status") == "True"
        scheduled = conditions.get("PodScheduled", {})
        unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
        statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        trainer: JsonObject = next((c for c in statuses if c["name"] == CONTAINER), {})
        waiting: JsonObject = next((c["state"]["waiting"] for c in statuses if "waiting" in c.get("state", {})), {})
        index = meta.get("annotations", {}).get(COMPLETION_INDEX)
        deletion = parse_time(meta.get("deletionTimestamp"))
        grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
        return cls(
            name=meta["name"],
            rank=None if index is None else int(index),
            phase=status.get("phase", "Pending"),
            reason=status.get("reason", ""),
            message=status.get("message", ""),
            exit=_exit(trainer.get("state", {}).get("terminated"), parse_time(meta.get("creationTimestamp"))),
            waiting_reason=waiting.get("reason", ""),
            waiting_message=waiting.get("message", ""),
            unschedulable=scheduled.get("message", "") if unschedulable else "",
            ignored=None if scheduled or status.get("nominatedNodeName") else parse_time(meta.get("creationTimestamp")),
            placed=parse_time(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
            disruption=(disruption.get("message") or disruption.get("reason", "")) if disrupted else "",
            disrupted=parse_time(disruption.get("lastTransitionTime")) if disrupted else None,
            running=parse_time(trainer.get("state", {}).get("running", {}).get("startedAt")),
            # deletionTimestamp is when the grace period is over, not when it was asked for.
            deletion_asked=None if deletion is None else deletion - grace,
            deletion_due=deletion,
            unreachable=_unreachable(conditions, status.get("phase", "")),
            node=obj.get("spec", {}).get("nodeName", ""),
            uid=meta.get("uid", ""),
            address=status.get("podIP", ""),
            gang=_gang(obj),
        )


def _unreachable(conditions: Mapping[str, JsonObject], phase: str) -> datetime | None:
    """When the node controller marked the pods of a silent node.

    It sets Ready to False and leaves ContainersReady as the kubelet wrote it last. Without readiness gates, which our
    pods have not, a kubelet never writes the two so: no look at the node is needed.
    """
    ready, containers = conditions.get("Ready", {}), conditions.get("ContainersReady", {})
    lost = phase == "Running" and ready.get("status") == "False" and containers.get("status") == "True"
    return parse_time(ready.get("lastTransitionTime")) if lost else None


def _gang(pod: JsonObject) -> int:
    """What the pod itself was told."""
    containers = pod.get("spec", {}).get("containers") or ()
    told = (item.get("value") for c in containers for item in c.get("env") or () if item["name"] == Env.NODES)
    return int(next(told, None) or 1)


def _exit(terminated: JsonObject | None, created: datetime | None) -> Exit | None:
    if terminated is None:
        return None
    finished = parse_time(terminated.get("finishedAt")) or created
    assert finished is not None
    return Exit(terminated["exitCode"], terminated.get("reason", ""), terminated.get("message", ""), finished)


@dataclass(frozen=True)
class Warning:
    """A Kubernetes Event of type Warning about a child or one of its pods: what no status says (a volume not found)."""

    object_name: str
    reason: str
    message: str


@dataclass(frozen=True)
class Rejection:
    """The API server refused to create a child."""

    kind: str
    name: str
    reason: str
    message: str
    final: bool  # trying again cannot help: the manifest itself is invalid


@dataclass(frozen=True)
class Evidence:
    """Pods of one child and warnings about them: looked at only when something ended or does not start.

    `late`: they were listed some time before the child was observed.
    """

    pods: tuple[Pod, ...] = ()
    warnings: tuple[Warning, ...] = ()
    late: bool = False

    @property
    def unplaced(self) -> bool:
        """Whether the whole gang is there and no node is found for any pod of it."""
        whole = len(self.pods) >= max((pod.gang for pod in self.pods), default=1)
        return whole and all(pod.unschedulable and pod.deletion_asked is None and not pod.ended for pod in self.pods)


@dataclass(frozen=True)
class Waiting:
    """Why Kueue does not let a child go: in one word, and in Kueue's own, or in ours until Kueue is `heard`."""

    reason: str
    message: str
    heard: bool = True


@dataclass(frozen=True)
class Silence:
    """For how long rank 0 has not moved, as the operator saw it.

    Attributes:
        seconds: since its heartbeat was seen to change, or since it could first be asked.
        heard: whether it has ever answered.
        answers: whether it answered when it was asked last.
        heartbeat: what it said last, by its own clock.
    """

    seconds: float
    heard: bool
    answers: bool
    heartbeat: str | None = None


@dataclass(frozen=True)
class Observed:
    """The world at `now`, as far as one job is concerned.

    Attributes:
        now: the time; plans know no other clock.
        children: child Jobs owned by the job.
        evidence: by child name, where it was looked at.
        progress: by child name, what rank 0 said last.
        silence: by child name, since when it has said nothing new.
        waiting: by child name, what Kueue says of it, where it was asked; None: nothing was to be learned.
        rejection: the API server's answer to this very plan, if it refused a child.
    """

    now: datetime
    children: tuple[ChildJob, ...] = ()
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)
    silence: Mapping[str, Silence] = field(default_factory=dict)
    waiting: Mapping[str, Waiting | None] = field(default_factory=dict)
    rejection: Rejection | None = None
