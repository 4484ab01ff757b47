"""Manifests of everything a job owns: the snapshot, and a child Job per attempt of a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from instructbooth.contract import API_VERSION, CONTAINER, KIND, ExitCode, Label, Path, Stage
from instructbooth.reconcile.names import base_name, child_name, snapshot_name
from instructbooth.reconcile.observed import QUEUE_LABEL
from instructbooth.reconcile.pod import TrainerDefaults, pod_labels, pod_template
from instructbooth.spec.job import ResolvedJob

PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"


def snapshot(job: ResolvedJob) -> dict[str, Any]:
    """The resolved job as an immutable ConfigMap: what the trainer reads, whatever happens to the operator."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, snapshot_name(job.name)),
        "immutable": True,
        "data": {Path.CONFIG_KEY: _in_lines(job.to_wire(), depth=2)},
    }


def _in_lines(value: Any, depth: int) -> str:
    """JSON for people: a line for each part of the spec. With `indent` Python writes it ten times slower."""
    if not depth or not isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    lines = (f"{json.dumps(key)}: {_in_lines(item, depth - 1)}" for key, item in sorted(value.items()))
    return "{\n" + ",\n".join(lines) + "\n}"


def child_job(
    job: ResolvedJob,
    stage: Stage,
    attempt: int,
    inputs: Mapping[Stage, int],
    defaults: TrainerDefaults,
    nodes: int | None = None,
) -> dict[str, Any]:
    """The Indexed Job of one attempt. It never restarts a pod: one rank down and the whole gang starts anew.

    Args:
        nodes: pods of the attempt, where there is no room for all that the stage asks for.
    """
    policy, nodes = job.spec.run_policy, nodes or job.spec.stage(stage).nodes
    metadata = _metadata(job, child_name(job.name, stage, attempt))
    metadata["labels"] |= pod_labels(job, stage, attempt)
    if policy.queue_name:
        metadata["labels"][QUEUE_LABEL] = policy.queue_name
    if policy.workload_priority_class_name:
        metadata["labels"][PRIORITY_LABEL] = policy.workload_priority_class_name
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    *(_fail_on(code) for code in ExitCode if code is not ExitCode.OK),
                ]
            },
            # A queued Job begins suspended: Kueue lets it go when there is room.
            "suspend": policy.suspend or policy.queue_name is not None,
            "template": pod_template(job, stage, attempt, inputs, defaults, nodes),
        },
    }


def _fail_on(code: ExitCode) -> dict[str, Any]:
    """A rule of its own for each code: the Job's Failed message then names it, even when the pod is gone."""
    return {
        "action": "FailJob",
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [int(code)]},
    }


def _metadata(job: ResolvedJob, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": job.namespace,
        "labels": {Label.JOB: base_name(job.name), Label.MANAGED_BY: Label.MANAGER},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.name,
                "uid": job.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
