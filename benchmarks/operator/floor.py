"""The floor: the very same gangs as bare Jobs, created directly. Nobody reconciles, nobody writes a status.

What is left is what Kubernetes itself does for a gang of two pods: no operator that uses Jobs can be faster.
"""

from __future__ import annotations

from typing import Any

import yaml

from benchmarks.operator.contender import PODS_PER_STAGE, Contender
from benchmarks.operator.plane import BenchPlane
from instructbooth.contract import Stage
from instructbooth.reconcile.children import child_job
from instructbooth.reconcile.pod import TrainerDefaults
from instructbooth.spec.job import InstructBoothJobSpec, ResolvedJob
from tests.integration.operator.plane import ROOT, JsonObject


class Floor(Contender):
    """Jobs of two pods, made from the operator's own template."""

    name = "floor"
    group, plural = "apis/batch/v1", "jobs"
    condition = "Complete"
    pod_label = "batch.kubernetes.io/job-name"

    def __init__(self, plane: BenchPlane, gpus_per_pod: int) -> None:
        super().__init__(plane, gpus_per_pod)
        spec: dict[str, Any] = yaml.safe_load((ROOT / "examples/demo/job.yaml").read_text())["spec"]
        spec["reinforcement"] |= {"nodes": PODS_PER_STAGE, "gpusPerNode": gpus_per_pod}
        self._spec = InstructBoothJobSpec.model_validate(spec)

    def start(self) -> None:
        """Nothing to start."""

    def manifest(self, name: str, namespace: str) -> JsonObject:
        """The Job of a reinforce stage, without an owner."""
        job = ResolvedJob(namespace=namespace, name=name, uid="0", spec=self._spec)
        made = child_job(
            job, Stage.REINFORCE, 1, {Stage.PERSONALIZE: 1}, TrainerDefaults("instructbooth/trainer:bench")
        )
        made["metadata"] = {"name": name, "namespace": namespace, "labels": made["metadata"]["labels"]}
        return made

    def versions(self) -> dict[str, str]:
        """Kubernetes' own are those of the control plane."""
        return {}
