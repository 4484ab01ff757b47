"""Rendering the chart with Helm, as `helm install` would."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.machine import binary

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "instructbooth"
RELEASE, NAMESPACE = "instructbooth", "instructbooth-system"
# Without a cluster Helm assumes a version of its own; the chart's tests mean the one that `make cluster` raises.
KUBERNETES = "1.35.0"
Object = dict[str, Any]

# Sets of values that render each branch of the chart at least once: name -> arguments of helm.
VARIANTS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "minio": ("--set", "minio.enabled=true"),
    "minio-ephemeral": ("--set", "minio.enabled=true,minio.persistence.enabled=false"),
    "minio-existing": ("--set", "minio.enabled=true,minio.existingSecret=mine,minio.persistence.existingClaim=mine"),
    "namespaced": ("--set", "watchNamespaces={team-a,team-b}"),
    "monitored": (
        *("--set", "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true"),
        *("--set", "metrics.prometheusRule.enabled=true,metrics.prometheusRule.labels.release=prometheus"),
    ),
    "fenced": (
        *("--set", "networkPolicy.enabled=true,minio.enabled=true,watchNamespaces={team-a,team-b}"),
        *("--set-json", 'networkPolicy.metricsFrom=[{"podSelector":{"matchLabels":{"app":"prometheus"}}}]'),
        *("--set-json", 'networkPolicy.minioFrom=[{"namespaceSelector":{}}]'),
    ),
    "bare": (
        *("--set", "crds.install=false,rbac.create=false,rbac.aggregate=false,dashboard.enabled=false"),
        *("--set", "serviceAccount.create=false,serviceAccount.name=mine"),
    ),
    "everything": (
        *("--set", "operator.podLabels.a=b,operator.podAnnotations.a=b,operator.nodeSelector.a=b,commonLabels.team=x"),
        *("--set", "operator.priorityClassName=high,imagePullSecrets[0].name=pull,minio.nodeSelector.a=b"),
        *("--set", "metrics.service.annotations.a=b,serviceAccount.annotations.a=b,dashboard.annotations.a=b"),
        *("--set-json", 'operator.tolerations=[{"key":"a","operator":"Exists"}]'),
        *("--set-json", 'operator.extraEnv=[{"name":"HTTPS_PROXY","value":"http://proxy:3128"}]'),
        *("--set-json", 'operator.affinity={"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}'),
        *(
            "--set-json",
            'networkPolicy={"enabled":true,"metricsFrom":[{"namespaceSelector":{}}],"minioFrom":[{"podSelector":{}}]}',
        ),
        *("--set", "minio.enabled=true,minio.persistence.storageClass=fast,minio.persistence.keep=false"),
        *("--set-json", 'minio.tolerations=[{"key":"a","operator":"Exists"}]'),
    ),
}


def helm(*args: str) -> subprocess.CompletedProcess[str]:
    """Run helm; the caller looks at its exit code."""
    return subprocess.run([binary("helm"), *args], capture_output=True, text=True, check=False)


def template(*args: str) -> str:
    """The chart's manifests as text. Raises ValueError with Helm's message if it refuses the values."""
    done = helm("template", RELEASE, str(CHART), "-n", NAMESPACE, "--kube-version", KUBERNETES, *args)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return done.stdout


def render(*args: str) -> list[Object]:
    """The chart's objects."""
    return [obj for obj in yaml.safe_load_all(template(*args)) if obj]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of that kind and name; AssertionError if there is not exactly one."""
    found = [obj for obj in objects if (obj["kind"], obj["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def pod_templates(objects: list[Object]) -> dict[str, Object]:
    """`<kind>/<name>` -> pod template of everything that makes pods."""
    return {
        f"{obj['kind']}/{obj['metadata']['name']}": obj["spec"]["template"]
        for obj in objects
        if obj["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job"}
    }
