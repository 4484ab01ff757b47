"""Ours: the operator as the chart installs it, with InstructBoothJobs of three two-pod stages."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import urllib.request
from pathlib import Path

import yaml

from benchmarks.operator.contender import PODS_PER_STAGE, Contender
from benchmarks.operator.install import helm_objects, install
from benchmarks.operator.plane import BenchPlane
from instructbooth.cli.ports import free_port
from instructbooth.contract import GROUP, PLURAL, STAGES, VERSION, Label
from tests.integration.operator.bench import Rank0
from tests.integration.operator.plane import ROOT, JsonObject

NAMESPACE = "instructbooth-system"
PARTS = ("personalization", "reinforcement", "evaluation")
KUBE_VERSION = "--kube-version=1.35.4"
WANTED = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "CustomResourceDefinition")


class Ours(Contender):
    """Our operator. What rank 0 says is served here: KWOK's pods answer nothing."""

    name = "ours"
    stages = len(STAGES)
    group, plural = f"apis/{GROUP}/{VERSION}", PLURAL
    condition = "Succeeded"
    pod_label = Label.JOB
    histogram = "instructbooth_reconcile_seconds"
    lag_histogram = "instructbooth_event_loop_lag_seconds"
    namespaces = (NAMESPACE,)

    def __init__(
        self,
        plane: BenchPlane,
        gpus_per_pod: int,
        wrapper: tuple[str, ...] = (),
        flags: tuple[str, ...] = (),
    ) -> None:
        super().__init__(plane, gpus_per_pod)
        self._port = free_port()
        self._spec = yaml.safe_load((ROOT / "examples/demo/job.yaml").read_text())
        for part in PARTS:
            self._spec["spec"][part] |= {"nodes": PODS_PER_STAGE, "gpusPerNode": gpus_per_pod}
        self._wrapper = wrapper
        self._flags = flags
        self._rank0 = Rank0()

    def start(self) -> None:
        """Install the chart's CRD and roles, start the operator with the flags of the chart's Deployment."""
        chart = helm_objects(ROOT / "charts/instructbooth", NAMESPACE, KUBE_VERSION)
        namespace: JsonObject = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        install(self.plane, [namespace, *(obj for obj in chart if obj["kind"] in WANTED)])
        deployment = next(o for o in chart if o["kind"] == "Deployment" and "operator" in o["metadata"]["name"])
        pod = deployment["spec"]["template"]["spec"]
        kubeconfig = self.plane.service_account(NAMESPACE, pod["serviceAccountName"])
        environment = {
            **os.environ,
            **{entry["name"]: entry["value"] for entry in pod["containers"][0]["env"] if "value" in entry},
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": "operator-1",
            "KUBECONFIG": str(kubeconfig),
        }
        script = Path(sys.executable).with_name("instructbooth-operator")
        command = [*self._wrapper, str(script), f"--listen-port={self._port}", f"--progress-url={self._rank0.url}"]
        self.start_process("instructbooth-operator", [*command, *self._flags], environment)
        self.wait("our operator", self._ready)

    def stop(self) -> None:
        """End the operator."""
        super().stop()
        self._rank0.close()

    def manifest(self, name: str, namespace: str) -> JsonObject:
        """The demo's job with two pods in each stage."""
        return {**self._spec, "metadata": {"name": name, "namespace": namespace}}

    def versions(self) -> dict[str, str]:
        """The packages that the operator's speed depends on."""
        packages = ("instructbooth", "kopf", "kubernetes", "pydantic", "aiohttp")
        return {package: importlib.metadata.version(package) for package in packages}

    def metrics(self) -> str:
        """Its /metrics."""
        return self._get("/metrics")

    def health_urls(self) -> list[str]:
        """Its liveness probe."""
        return [f"http://127.0.0.1:{self._port}/healthz"]

    def _ready(self) -> bool:
        self.plane.alive()
        try:
            return self._get("/readyz") == "ok\n"
        except OSError:
            return False

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=30) as answer:
            return str(answer.read().decode())
