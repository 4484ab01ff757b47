"""A control plane for the benchmark: real etcd, API server, controllers, scheduler, and KWOK in the place of kubelets.

Everything that a cluster runs on its masters is here, with the flags of `make cluster`; nothing else shares it. The
API server writes down each request of the controllers that are compared.
"""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks.operator import stages
from instructbooth.cli.ports import free_port
from tests.integration.operator.plane import ControlPlane, JsonObject

NODES, GPUS_PER_NODE = 50, 8
# At the default of 20 requests a second the Job controller is the bottleneck of every scale test.
_FAST_CLIENT = ("--kube-api-qps=500", "--kube-api-burst=1000")
# These stand for fifty machines and for one of its own, and must not wait for what shares this one with them. KWOK that
# reads its watch late has it ended, and all pods sent anew, which makes it later still (stages.py).
_ELSEWHERE, _AHEAD = ("kwok", "etcd"), ("nice", "-n", "-15")
_TOKENS = (
    "admin,admin,1,system:masters\nkwok,kwok,2,system:masters\n"
    "controllers,system:kube-controller-manager,3\nscheduler,system:kube-scheduler,4\n"
)
_NAMESPACES_OF_CONTROLLERS = ("instructbooth-system", "kubeflow-system", "jobset-system")


def machine_address() -> str:
    """An address of this machine that is not the loopback: webhooks are called there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return str(probe.getsockname()[0])


class BenchPlane(ControlPlane):
    """The control plane with scheduler, KWOK and 50 nodes of 8 GPUs. `pod_stages`: what KWOK does with pods."""

    def __init__(self, folder: Path, pod_stages: list[JsonObject]) -> None:
        super().__init__(folder)
        self.audit_log = folder / "audit.log"
        self._pod_stages = pod_stages

    def start(self) -> None:
        """Start everything and wait until all nodes are ready."""
        (self.folder / "tokens.csv").write_text(_TOKENS)
        for user in ("admin", "kwok", "controllers", "scheduler"):
            self.user(user, user)
        self.start_etcd("--quota-backend-bytes=8589934592", "--auto-compaction-retention=5m")
        self.start_api_server()
        self._spawn("kube-controller-manager", *self.controller_manager_flags(), *_FAST_CLIENT)
        self._spawn(
            "kube-scheduler",
            f"--kubeconfig={self.kubeconfig('scheduler')}",
            f"--secure-port={free_port()}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            *_FAST_CLIENT,
        )
        self._start_kwok()
        for number in range(NODES):
            self.request("POST", "/api/v1/nodes", _node(f"gpu-{number}"))
        self.wait("the nodes", self._nodes_ready, 900)

    def user(self, name: str, token: str) -> Path:
        """The path of a new kubeconfig for whoever holds that token."""
        config = self._kubeconfig(name)
        config["users"][0]["user"]["token"] = token
        self.kubeconfig(name).write_text(yaml.safe_dump(config))
        return self.kubeconfig(name)

    def service_account(self, namespace: str, name: str) -> Path:
        """The path of a kubeconfig for a ServiceAccount."""
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
        answer = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", asked)
        return self.user(name, answer["status"]["token"])

    def start_process(self, name: str, command: list[str], environment: dict[str, str]) -> int:
        """Start a controller beside the control plane; returns its process id."""
        self._run(name, command, environment)
        return self._processes[name].pid

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def alive(self) -> None:
        """Raises RuntimeError, with the end of its log, if a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-2000:]}")

    def metrics(self) -> str:
        """The API server's own /metrics."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": "Bearer admin"})
        with urllib.request.urlopen(request, context=self._tls, timeout=60) as answer:
            return str(answer.read().decode())

    def api_server_flags(self) -> list[str]:
        """Those of the tests' control plane, the audit log, and webhooks at their endpoints (no kube-proxy is here)."""
        users = [f"system:serviceaccounts:{namespace}" for namespace in _NAMESPACES_OF_CONTROLLERS]
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [{"level": "Metadata", "userGroups": users}, {"level": "None"}],
        }
        (self.folder / "audit.yaml").write_text(yaml.safe_dump(policy))
        return [
            *super().api_server_flags(),
            f"--audit-policy-file={self.folder}/audit.yaml",
            f"--audit-log-path={self.audit_log}",
            "--enable-aggregator-routing=true",
            "--max-requests-inflight=800",
            "--max-mutating-requests-inflight=400",
        ]

    def _run(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        super()._run(name, [*(_AHEAD if name in _ELSEWHERE else ()), *command], environment)

    def _start_kwok(self) -> None:
        config = self.folder / "stages.yaml"
        config.write_text(yaml.safe_dump_all(self._pod_stages))
        self._spawn(
            "kwok",
            f"--kubeconfig={self.kubeconfig('kwok')}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{free_port()}",
            f"--config={config}",
            f"--disregard-status-with-annotation-selector={'='.join(stages.FINISHED)}",
        )

    def _nodes_ready(self) -> bool:
        self.alive()
        nodes = self.request("GET", "/api/v1/nodes?resourceVersion=0")["items"]
        return len(nodes) == NODES and all(_is_ready(node) for node in nodes)


def _is_ready(node: JsonObject) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    tainted = any(taint["effect"] == "NoSchedule" for taint in node["spec"].get("taints", ()))
    return not tainted and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _node(name: str) -> JsonObject:
    capacity = {
        "cpu": "64",
        "memory": "512Gi",
        "pods": "110",
        "ephemeral-storage": "1Ti",
        "nvidia.com/gpu": str(GPUS_PER_NODE),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        },
        "status": {"capacity": capacity, "allocatable": capacity},
    }


@contextmanager
def running(folder: Path, pod_stages: list[JsonObject]) -> Iterator[BenchPlane]:
    """A control plane, ended afterwards."""
    plane = BenchPlane(folder, pod_stages)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
