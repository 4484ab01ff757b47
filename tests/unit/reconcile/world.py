"""A world that obeys: Jobs as the Job controller would treat them, small enough to be driven by a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from instructbooth.contract import API_VERSION, KIND, Label, Outcome, Stage
from instructbooth.reconcile.actions import (
    Action,
    Apply,
    DeleteChild,
    DeleteSelf,
    Event,
    ForgetPod,
    Haste,
    Look,
    Plan,
    SetSuspend,
)
from instructbooth.reconcile.conditions import find
from instructbooth.reconcile.observed import (
    QUEUE_LABEL,
    ChildFailure,
    ChildJob,
    Evidence,
    Exit,
    Observed,
    Pod,
    Rejection,
    Silence,
    Waiting,
)
from instructbooth.reconcile.patch import merge_patch
from instructbooth.reconcile.plan import plan
from instructbooth.reconcile.pod import TrainerDefaults
from instructbooth.spec.status import InstructBoothJobStatus, Progress, StageStatus

START = datetime(2026, 11, 23, 9, 0, 0, tzinfo=UTC)
DEFAULTS = TrainerDefaults(image="instructbooth/trainer:test")
JsonObject = dict[str, Any]


def job_object(name: str = "mascot", **spec: Any) -> JsonObject:
    """A small valid job; keyword arguments replace parts of its spec, merged one level deep."""
    parts: JsonObject = {
        "subject": {"images": {"configMap": {"name": "pictures"}}, "identifier": "sks", "className": "mascot"},
        "model": {"source": {"s3": {"prefix": "models/base"}}},
        "reinforcement": {
            "nodes": 2,
            "prompts": {"inline": ["a {subject} on a beach"]},
            "rewards": [{"name": "clip-score"}],
        },
        "evaluation": {"prompts": {"inline": ["a {subject} at night"]}, "metrics": [{"name": "clip-score"}]},
        "artifacts": {
            "endpoint": "http://minio:9000",
            "bucket": "runs",
            "credentialsSecretRef": {"name": "minio-credentials"},
        },
    }
    for key, value in spec.items():
        parts[key] = {**parts.get(key, {}), **value}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": "lab", "uid": "0a1b2c3d", "generation": 1},
        "spec": parts,
    }


def success(stage: Stage) -> Outcome:
    metrics = {"base/clip-score": 0.25, "reinforced/clip-score": 0.5} if stage is Stage.EVALUATE else {"loss": 0.125}
    return Outcome("Completed", artifact=f"s3://runs/{stage.value}", metrics=metrics)


@dataclass
class World:
    """Everything there is: the job, its children with their pods, the time."""

    job: JsonObject = field(default_factory=job_object)
    now: datetime = START
    children: dict[str, ChildJob] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    late: dict[str, Evidence] = field(default_factory=dict)  # as a look that may wait has shown it, where it differs
    progress: dict[str, Progress] = field(default_factory=dict)
    silence: dict[str, Silence] = field(default_factory=dict)
    waiting: dict[str, Waiting | None] = field(default_factory=dict)
    rejection: Rejection | None = None
    manifests: dict[str, JsonObject] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    gone: bool = False
    asked: Look | None = None  # what the last plan wanted to look at before it knew any pods

    @property
    def status(self) -> InstructBoothJobStatus:
        return InstructBoothJobStatus.from_object(self.job)

    def stage(self, stage: Stage) -> StageStatus:
        return next(s for s in self.status.stages if s.name is stage)

    @property
    def live(self) -> list[ChildJob]:
        return [child for child in self.children.values() if child.live]

    def plan(self, seen: Mapping[str, ChildJob] | None = None) -> Plan:
        """The plan that is carried out: with the pods of a child looked at, where the first answer asks for them.

        `seen`: children as a late watch has them. A child that the status names is asked for before it is missed.
        """
        children = dict(self.children if seen is None else seen)
        for stage in self.status.stages:
            if stage.job_name is not None and stage.job_name not in children and stage.job_name in self.children:
                children[stage.job_name] = self.children[stage.job_name]
        observed = Observed(
            now=self.now,
            children=tuple(children.values()),
            progress=dict(self.progress),
            silence=dict(self.silence),
            waiting=dict(self.waiting),
            rejection=self.rejection,
        )
        made = plan(deepcopy(self.job), observed, DEFAULTS)
        self.asked = made.look_at
        looked: dict[str, Evidence] = {}
        while made.look_at is not None:
            child, now = made.look_at.child, made.look_at.haste is Haste.NOW
            there = self.evidence.get(child, Evidence())
            assert child not in looked or (now and looked[child].late), "looked already"
            looked[child] = there if now else replace(self.late.get(child, there), late=True)
            made = plan(deepcopy(self.job), replace(observed, evidence=dict(looked)), DEFAULTS)
        return made

    def reconcile(self, steps: int | None = None, seen: Mapping[str, ChildJob] | None = None) -> Plan:
        """Plan and carry out; with `steps`, the operator is killed after so many writes; `seen` as for `plan`."""
        made = self.plan(seen)
        for action in made.actions[:steps]:
            self._do(action)
        if steps is None or steps > len(made.actions):
            self._write(made)
        return made

    def settle(self, limit: int = 50) -> None:
        """Reconcile until nothing is left to do at this moment."""
        for _ in range(limit):
            made = self.reconcile()
            self.collect()
            if self.gone:
                return
            if not made.actions and made.requeue_after != 0.0 and not self.changes(self.plan()):
                return
        raise AssertionError("the plan does not come to rest")

    def changes(self, made: Plan) -> JsonObject:
        return merge_patch(self.job.get("status", {}), made.status.to_wire())

    def _write(self, made: Plan) -> None:
        if self.gone or not self.changes(made):
            return
        self.job["status"] = made.status.to_wire()
        self.events += made.events

    def _do(self, action: Action) -> None:
        match action:
            case Apply(manifest):
                name = manifest["metadata"]["name"]
                self.manifests.setdefault(f"{manifest['kind']}/{name}", manifest)
                if manifest["kind"] == "Job" and name not in self.children:
                    self._create(manifest)
            case SetSuspend(name, suspend):
                if name in self.children:
                    self.change(name, suspended=suspend, suspended_by_operator=suspend, ready=0)
            case DeleteChild(name):
                if name in self.children:
                    self.change(name, deleting=True, deleted=self.now)
            case ForgetPod(name, _):
                self.evidence = {
                    child: Evidence(tuple(pod for pod in found.pods if pod.name != name), found.warnings)
                    for child, found in self.evidence.items()
                }
            case DeleteSelf():
                self.gone = True

    def _create(self, manifest: JsonObject) -> None:
        labels = manifest["metadata"]["labels"]
        name = manifest["metadata"]["name"]
        self.launched.append(name)
        self.children[name] = ChildJob(
            name=name,
            stage=Stage(labels[Label.STAGE]),
            attempt=int(labels[Label.ATTEMPT]),
            parallelism=manifest["spec"]["parallelism"],
            created=self.now,
            suspended=manifest["spec"]["suspend"],
            queue=labels.get(QUEUE_LABEL),
            started=self.now,
        )

    def change(self, name: str, **fields: Any) -> None:
        self.children[name] = replace(self.children[name], **fields)

    # What the cluster does.
    def collect(self) -> None:
        """The garbage collector and the Job controller finish deletions."""
        for name in [name for name, child in self.children.items() if child.deleting]:
            if any(pod.deletion_due or pod.unreachable for pod in self.evidence.get(name, Evidence()).pods):
                continue  # a pod whose kubelet never says that it is gone
            del self.children[name]
            self.evidence.pop(name, None)

    def run(self, name: str) -> None:
        self.change(name, active=self.children[name].parallelism, ready=self.children[name].parallelism)

    def complete(self, name: str) -> None:
        child = self.children[name]
        message = json.dumps(vars(success(child.stage)))
        self.evidence[name] = Evidence((Pod("p0", 0, "Succeeded", exit=Exit(0, "Completed", message, self.now)),))
        self.change(name, complete=True, active=0, ready=0, succeeded=child.parallelism)

    def fail(self, name: str, code: int, message: str = "", rank: int = 0) -> None:
        pod = Pod(f"p{rank}", rank, "Failed", exit=Exit(code, "Error", message, self.now))
        self.end(name, pod)

    def disrupt(self, name: str) -> None:
        self.end(name, Pod("p0", 0, "Failed", disruption="preempted", disrupted=self.now))

    def end(self, name: str, *pods: Pod) -> None:
        self.evidence[name] = Evidence(pods)
        self.change(name, failure=ChildFailure("PodFailurePolicy", "said no more", self.now), active=0, ready=0)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def edit(self, **policy: Any) -> None:
        """The user edits runPolicy."""
        self.job["spec"]["runPolicy"] = {**self.job["spec"].get("runPolicy", {}), **policy}
        self.job["metadata"]["generation"] += 1


def after(seconds: float) -> datetime:
    """So many seconds after the start."""
    return START + timedelta(seconds=seconds)


def started(**policy: object) -> World:
    """A job whose first gang is there."""
    world = World(job_object(runPolicy=policy))
    world.settle()
    return world


def reason(world: World, kind: str) -> str | None:
    """That of a condition, if it holds."""
    found = find(world.status.conditions, kind)
    return found.reason if found and found.status == "True" else None
