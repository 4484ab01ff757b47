"""The pod of a trainer: what core/v1 wants to know, from what the user said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instructbooth.contract import COMMAND, CONTAINER, STAGES, Env, Label, Path, Port, Stage
from instructbooth.reconcile.mounts import hub_sources, mounts
from instructbooth.reconcile.names import base_name
from instructbooth.spec.job import ResolvedJob

USER = 65532
GRACE_SECONDS = 60  # from SIGTERM to SIGKILL: time to save a checkpoint
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class TrainerDefaults:
    """What the operator was installed with, as far as pods show it.

    Attributes:
        image: unless a job names its own.
        image_pull_policy: of that image.
        image_pull_secrets: core/v1 LocalObjectReferences, beside those of the job.
        tolerations: core/v1 Tolerations, beside those of the job.
        node_selector: labels of nodes; the job's own win.
    """

    image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: Sequence[Mapping[str, Any]] = ()
    tolerations: Sequence[Mapping[str, Any]] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)


def pod_labels(job: ResolvedJob, stage: Stage, attempt: int) -> dict[str, str]:
    """The labels of children; ours cannot be overridden."""
    return {
        Label.JOB: base_name(job.name),
        Label.STAGE: stage.value,
        Label.ATTEMPT: str(attempt),
        Label.MANAGED_BY: Label.MANAGER,
    }


def pod_template(
    job: ResolvedJob, stage: Stage, attempt: int, inputs: Mapping[Stage, int], defaults: TrainerDefaults, nodes: int
) -> dict[str, Any]:
    """core/v1 PodTemplateSpec of one attempt of a stage.

    Args:
        inputs: the attempts of earlier stages that succeeded.
        nodes: pods of the attempt.
    """
    template, policy = job.spec.pod_template, job.spec.run_policy
    labels = pod_labels(job, stage, attempt)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # not every file of a large cache, each time a gang begins
            "seccompProfile": {"type": "RuntimeDefault"},
            **(template.security_context or {}),
        },
        "containers": [_container(job, stage, _environment(job, stage, attempt, inputs, nodes), defaults)],
        "volumes": [*(mount.volume for mount in mounts(job, stage)), *template.volumes],
        **_placement(job, nodes, labels),
    }
    optional = {
        "nodeSelector": {**defaults.node_selector, **template.node_selector},
        "tolerations": [*template.tolerations, *defaults.tolerations],
        "schedulerName": template.scheduler_name,
        "runtimeClassName": template.runtime_class_name,
        "imagePullSecrets": [*template.image_pull_secrets, *defaults.image_pull_secrets],
        "serviceAccountName": template.service_account_name,
        "priorityClassName": policy.priority_class_name,
    }
    return {
        "metadata": {
            "labels": {**template.labels, **labels},
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(Port.METRICS),
                "prometheus.io/path": "/metrics",
                **template.annotations,
            },
        },
        "spec": pod | {key: value for key, value in optional.items() if value},
    }


def _container(
    job: ResolvedJob, stage: Stage, environment: list[dict[str, Any]], defaults: TrainerDefaults
) -> dict[str, Any]:
    template, shape = job.spec.pod_template, job.spec.stage(stage)
    limits = {name: str(amount) for name, amount in shape.resources.limits.items()}
    if shape.gpus_per_node:
        limits[GPU] = str(shape.gpus_per_node)
    return {
        "name": CONTAINER,
        "image": template.image or defaults.image,
        # Of an image of the user's own Kubernetes decides by its tag: `latest` is always pulled.
        **({} if template.image else {"imagePullPolicy": defaults.image_pull_policy}),
        "command": list(COMMAND),
        "workingDir": Path.WORK,
        "env": [*environment, *template.env],
        "ports": [
            {"name": "rendezvous", "containerPort": Port.COORDINATOR, "protocol": "TCP"},
            {"name": "metrics", "containerPort": Port.METRICS, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {name: str(amount) for name, amount in shape.resources.requests.items()},
            "limits": limits,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The trainer writes its Outcome; where it could not, the end of the log says what happened.
        "terminationMessagePath": Path.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*(mount.to_volume_mount() for mount in mounts(job, stage)), *template.volume_mounts],
    }


def _environment(
    job: ResolvedJob, stage: Stage, attempt: int, inputs: Mapping[Stage, int], nodes: int
) -> list[dict[str, Any]]:
    secret = job.spec.artifacts.credentials_secret_ref
    earlier = {name.value: inputs[name] for name in STAGES if name in inputs}
    env: list[dict[str, Any]] = [
        {"name": Env.CONFIG, "value": f"{Path.CONFIG_DIR}/{Path.CONFIG_KEY}"},
        {"name": Env.STAGE, "value": stage.value},
        {"name": Env.ATTEMPT, "value": str(attempt)},
        {"name": Env.INPUTS, "value": json.dumps(earlier)},
        {"name": Env.NODES, "value": str(nodes)},
        {"name": Env.POD_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": Env.STALL_TIMEOUT, "value": str(job.spec.run_policy.stall_timeout_seconds)},
        {"name": "HOME", "value": Path.WORK},
        _secret_env(Env.ACCESS_KEY, secret.name, secret.access_key_field),
        _secret_env(Env.SECRET_KEY, secret.name, secret.secret_key_field),
    ]
    tokens = [hub.token_secret_ref for hub in hub_sources(job.spec, stage).values() if hub.token_secret_ref]
    if tokens:
        env.append(_secret_env(Env.HUB_TOKEN, tokens[0].name, tokens[0].key))
    return env


# What the operator sets itself, in every stage: podTemplate.env may not.
RESERVED_ENV = frozenset(
    {
        *(value for name, value in vars(Env).items() if not name.startswith("_") and value != Env.HUB_TOKEN),
        "HOME",
    }
)


def _secret_env(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _placement(job: ResolvedJob, nodes: int, labels: dict[str, str]) -> dict[str, Any]:
    """Affinity and spread: as given, or pods of a gang prefer different nodes without insisting on it."""
    template = job.spec.pod_template
    given: dict[str, Any] = {}
    if template.affinity:
        given["affinity"] = template.affinity
    if template.topology_spread_constraints:
        given["topologySpreadConstraints"] = template.topology_spread_constraints
    if given or nodes == 1:
        return given
    host, selector = "kubernetes.io/hostname", {"matchLabels": labels}
    term = {"weight": 100, "podAffinityTerm": {"topologyKey": host, "labelSelector": selector}}
    return {
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": host,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
            }
        ],
    }
