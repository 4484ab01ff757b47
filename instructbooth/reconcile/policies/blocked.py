"""Pods that cannot start: the kubelet's or the scheduler's own words, and the way out.

Blocked is a condition, not a failure: nothing is restarted, and what was missing may still come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from instructbooth.contract import Stage
from instructbooth.reconcile.mounts import hub_sources
from instructbooth.reconcile.observed import ChildJob, Evidence, Rejection, elapsed
from instructbooth.spec.job import InstructBoothJobSpec

GRACE = timedelta(seconds=10)  # what every pod needs to be scheduled, mounted and started
FIRST_LOOK_SECONDS = GRACE.total_seconds() + 0.5
# At a child that the Job controller has not begun, should nobody hear that it has: thousands may wait for that.
UNBEGUN_SECONDS = 120.0
_LOOK_AGAIN_SECONDS = (5.0, 25.0)  # what a kubelet says is in the status within 30 s, however long it took to come

_CONFIG_ERRORS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_IMAGE_ERRORS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
NOT_MOUNTED = "VolumeNotMounted"
_MOUNT_WARNINGS = frozenset({"FailedMount", "FailedAttachVolume"})
_CREATE_WARNING = "FailedCreate"
TELLING = _MOUNT_WARNINGS | {_CREATE_WARNING}
"""Reasons of those warnings that `blocker` understands."""
NOT_SCHEDULED = "NotScheduled"
UNSCHEDULABLE = "Unschedulable"
# Reasons whose words change all the time without saying anything new: the first words are kept.
CHATTY = frozenset({"ImagePullFailed", UNSCHEDULABLE, "PodsNotCreated", NOT_SCHEDULED})
DEFAULT_SCHEDULER = "default-scheduler"
SILENCE = timedelta(minutes=1)  # for which a scheduler may hold pods back until their whole group is there
_QUOTA = "exceeded quota"  # the admission plug-in's words


@dataclass(frozen=True)
class Blocker:
    """What keeps a gang from starting."""

    reason: str
    message: str


def started(child: ChildJob) -> bool:
    """Whether every pod of the gang runs, or has run."""
    return child.ready + child.succeeded >= child.parallelism


def overdue(child: ChildJob, now: datetime) -> bool:
    """Whether the gang should have started by now. Before the Job controller has begun there is nothing to look at."""
    return not started(child) and elapsed(child.released(now), now) >= GRACE


def look_again_seconds(child: ChildJob, now: datetime) -> float:
    """When to look again at a gang that has not started: soon at first, ever less often."""
    if child.started is None:
        return UNBEGUN_SECONDS
    age = elapsed(child.released(now), now).total_seconds()
    shortest, longest = _LOOK_AGAIN_SECONDS
    if age < GRACE.total_seconds():
        return FIRST_LOOK_SECONDS - age
    return min(max(age / 4, shortest), longest)


def blocker(
    spec: InstructBoothJobSpec, stage: Stage, child: ChildJob, evidence: Evidence, now: datetime
) -> Blocker | None:
    """What keeps the gang from starting; None if nothing is known to."""
    field = {Stage.PERSONALIZE: "personalization", Stage.REINFORCE: "reinforcement", Stage.EVALUATE: "evaluation"}
    for pod in sorted(evidence.pods, key=lambda pod: pod.rank if pod.rank is not None else 1 << 30):
        if pod.waiting_reason in _CONFIG_ERRORS:
            remedy = _secret_remedy(spec, stage, pod.waiting_message)
            return Blocker(pod.waiting_reason, f"{pod.waiting_message}; {remedy}")
        if pod.waiting_reason in _IMAGE_ERRORS:
            way_out = "check podTemplate.image (or the operator's trainer image) and podTemplate.imagePullSecrets"
            return Blocker("ImagePullFailed", f"{pod.waiting_reason}: {pod.waiting_message}; {way_out}")
        if pod.unschedulable:
            part = field[stage]
            way_out = (
                f"check {part}.resources, {part}.gpusPerNode, podTemplate.nodeSelector, tolerations and volume claims"
            )
            return Blocker(UNSCHEDULABLE, f"{pod.unschedulable}; {way_out}")
    for warning in evidence.warnings:
        if warning.reason in _MOUNT_WARNINGS:
            way_out = "create the ConfigMap or claim that the spec names, in the job's namespace; the pod then starts"
            return Blocker(NOT_MOUNTED, f"{warning.message}; {way_out}")
    if refused := _not_created(child, evidence):
        way_out = "the namespace's quota, pod security or admission forbids the pod; it is tried again"
        return Blocker("PodsNotCreated", f"{refused}; {way_out}")
    return _ignored(spec, evidence, now)


def _ignored(spec: InstructBoothJobSpec, evidence: Evidence, now: datetime) -> Blocker | None:
    """Pods that are left to a scheduler which is not there, or does not know them: nobody else would ever say so."""
    scheduler = spec.pod_template.scheduler_name
    if scheduler in (None, DEFAULT_SCHEDULER):  # it is there, and may be busy
        return None
    waiting = [pod for pod in evidence.pods if pod.phase == "Pending" and not pod.node and pod.deletion_asked is None]
    ignored = [pod for pod in waiting if pod.ignored and elapsed(pod.ignored, now) >= SILENCE]
    if not ignored:
        return None
    way_out = "check podTemplate.schedulerName, that it runs, and the labels and annotations by which it knows a group"
    return Blocker(NOT_SCHEDULED, f"the scheduler {scheduler} says nothing of {len(ignored)} of its pods; {way_out}")


def refusal(child: ChildJob, evidence: Evidence) -> str | None:
    """Why there is no place for some pod of the gang, in the words of who says so: the scheduler, or a quota."""
    said = next((pod.unschedulable for pod in evidence.pods if pod.unschedulable), None)
    refused = _not_created(child, evidence)
    # Whatever else forbids a pod (a webhook that is down, a ServiceAccount that is missing) says nothing of room.
    return said or (refused if refused and _QUOTA in refused else None)


def _not_created(child: ChildJob, evidence: Evidence) -> str | None:
    """Why pods of the gang were not made, where some are missing."""
    refused = (warning.message for warning in evidence.warnings if warning.reason == _CREATE_WARNING)
    return next(refused, None) if len(evidence.pods) < child.parallelism else None


def rejected(rejection: Rejection) -> Blocker:
    """What to say when the API server would not let a child be created."""
    way_out = ""
    if rejection.reason == "Forbidden":
        way_out = (
            "; a quota, an admission policy or the operator's own role forbids it: have that changed, it is tried again"
        )
    return Blocker(rejection.reason, f"{rejection.kind} {rejection.name}: {rejection.message}{way_out}")


def _secret_remedy(spec: InstructBoothJobSpec, stage: Stage, message: str) -> str:
    """Which field names the Secret that the kubelet misses.

    Its words are `secret "name" not found` or `couldn't find key key in Secret namespace/name`.
    """
    missing = set(re.findall(r"[-a-z0-9.]+", message))
    ref = spec.artifacts.credentials_secret_ref
    if ref.name in missing:
        return (
            f"create the Secret {ref.name} (artifacts.credentialsSecretRef) in the job's namespace with the keys "
            f"{ref.access_key_field} and {ref.secret_key_field}; the pod then starts by itself"
        )
    for field, hub in hub_sources(spec, stage).items():
        if (token := hub.token_secret_ref) and token.name in missing:
            return (
                f"create the Secret {token.name} ({field}.tokenSecretRef) in the job's namespace with the key "
                f"{token.key}; the pod then starts by itself"
            )
    return "check the names in podTemplate.env and the Secrets and ConfigMaps they refer to"
