"""The peer: Kubeflow Trainer with JobSet, both as their authors ship them, out of their Go modules.

Roles, CRDs, webhooks and the runtime come from the modules at run time. The webhooks and the certificates that the
controllers make for them work as in a cluster; what the kubelet does there is done here: the Secret with the
certificate is laid into the folder where a pod would have it mounted (a mount namespace gives each controller its own).
"""

from __future__ import annotations

import base64
import os
import urllib.request

import yaml

from benchmarks.operator.contender import PODS_PER_STAGE, Contender
from benchmarks.operator.install import collection, install, kustomize_objects, module_folder, module_version
from benchmarks.operator.plane import BenchPlane, machine_address
from instructbooth.cli.ports import free_port
from tests.integration.operator.plane import JsonObject, Refused, unverified
from tests.machine import binary

TRAINER, JOBSET = "github.com/kubeflow/trainer/v2", "sigs.k8s.io/jobset"
TRAINER_NAMESPACE, JOBSET_NAMESPACE = "kubeflow-system", "jobset-system"
TRAINER_NAME = "kubeflow-trainer-controller-manager"
RUNTIME = "torch-distributed"
CERTIFICATES = "/tmp/k8s-webhook-server/serving-certs"
# As a container has it: a folder of its own where the certificate is mounted.
_MOUNTED = 'mkdir -p "$0" "$1" && mount --bind "$0" "$1" && shift && exec "$@"'
_INSTALLED = (
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Secret",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
)


class Kubeflow(Contender):
    """Kubeflow Trainer and JobSet with TrainJobs of two pods."""

    name = "kubeflow"
    group, plural = "apis/trainer.kubeflow.org/v1alpha1", "trainjobs"
    condition = "Complete"
    pod_label = "jobset.sigs.k8s.io/jobset-name"
    histogram = "controller_runtime_reconcile_time_seconds"
    namespaces = (TRAINER_NAMESPACE, JOBSET_NAMESPACE)

    def __init__(self, plane: BenchPlane, gpus_per_pod: int) -> None:
        super().__init__(plane, gpus_per_pod)
        self._ports = {name: free_port() for name in ("trainer-metrics", "trainer-health", "trainer-webhook")}
        self._ports |= {name: free_port() for name in ("jobset-metrics", "jobset-health", "jobset-webhook")}

    def start(self) -> None:
        """Install and start JobSet, then the Trainer on it."""
        jobset = kustomize_objects(module_folder("jobset", JOBSET) / "config/default")
        config = next(yaml.safe_load(text) for o in jobset if o["kind"] == "ConfigMap" for text in o["data"].values())
        config |= {"webhook": {"port": self._ports["jobset-webhook"]}}
        config["leaderElection"]["resourceNamespace"] = JOBSET_NAMESPACE  # a pod would know its own
        path = self.plane.folder / "jobset.yaml"
        path.write_text(yaml.safe_dump(config))
        self._install(jobset, JOBSET_NAMESPACE, "jobset-webhook-service", self._ports["jobset-webhook"])
        self._start(
            "jobset",
            JOBSET_NAMESPACE,
            "jobset-controller-manager",
            "jobset-webhook-server-cert",
            f"--config={path}",
            "--zap-log-level=2",  # as config/default has it
            f"--metrics-bind-address=127.0.0.1:{self._ports['jobset-metrics']}",
            f"--health-probe-bind-address=127.0.0.1:{self._ports['jobset-health']}",
        )
        module = module_folder("kubeflow-trainer", TRAINER)
        folders = [module / "manifests/base" / part for part in ("crds", "rbac", "webhook")]
        trainer = kustomize_objects(*folders, namespace=TRAINER_NAMESPACE)
        space: JsonObject = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TRAINER_NAMESPACE}}
        secret: JsonObject = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "kubeflow-trainer-webhook-cert", "namespace": TRAINER_NAMESPACE},
        }
        objects = [space, secret, *trainer]
        self._install(objects, TRAINER_NAMESPACE, TRAINER_NAME, self._ports["trainer-webhook"])
        self._start(
            "trainer-controller-manager",
            TRAINER_NAMESPACE,
            TRAINER_NAME,
            "kubeflow-trainer-webhook-cert",
            f"--webhook-server-port={self._ports['trainer-webhook']}",
            f"--metrics-bind-address=127.0.0.1:{self._ports['trainer-metrics']}",
            "--metrics-secure=false",
            f"--health-probe-bind-address=127.0.0.1:{self._ports['trainer-health']}",
        )
        runtime = yaml.safe_load((module / "manifests/base/runtimes/torch_distributed.yaml").read_text())
        self.wait("the Trainer's webhook", lambda: self._created(runtime))
        # A job that is refused now would be refused N times later.
        self.wait("both webhooks", self._admitted)

    def manifest(self, name: str, namespace: str) -> JsonObject:
        """A TrainJob on their torch runtime with two pods."""
        resources = {"limits": {"nvidia.com/gpu": str(self.gpus_per_pod)}, "requests": {"cpu": "500m", "memory": "1Gi"}}
        return {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "runtimeRef": {"name": RUNTIME},
                "trainer": {"numNodes": PODS_PER_STAGE, "resourcesPerNode": resources},
            },
        }

    def versions(self) -> dict[str, str]:
        """The modules' versions."""
        return {
            "kubeflow-trainer": module_version("kubeflow-trainer", TRAINER),
            "jobset": module_version("jobset", JOBSET),
        }

    def metrics(self) -> str:
        """Both controllers' /metrics."""
        secure = f"https://127.0.0.1:{self._ports['jobset-metrics']}/metrics"
        request = urllib.request.Request(secure, headers={"Authorization": "Bearer admin"})
        with urllib.request.urlopen(request, timeout=30, context=unverified()) as answer:
            text = str(answer.read().decode())
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['trainer-metrics']}/metrics", timeout=30) as answer:
            return text + str(answer.read().decode())

    def health_urls(self) -> list[str]:
        """Both liveness probes."""
        return [f"http://127.0.0.1:{self._ports[name]}/healthz" for name in ("jobset-health", "trainer-health")]

    def _install(self, objects: list[JsonObject], namespace: str, service: str, port: int) -> None:
        meta = {"name": service, "namespace": namespace}
        address = {"addresses": [{"ip": machine_address()}], "ports": [{"port": port, "protocol": "TCP"}]}
        route: list[JsonObject] = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {"ports": [{"port": 443, "targetPort": port}]},
            },
            {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": [address]},
        ]
        install(self.plane, [*(obj for obj in objects if obj["kind"] in _INSTALLED), *route])

    def _start(self, name: str, namespace: str, account: str, secret: str, *flags: str) -> None:
        folder = self.plane.folder / f"{name}-certificates"
        folder.mkdir(exist_ok=True)
        kubeconfig = self.plane.service_account(namespace, account)
        inside = ["sh", "-c", _MOUNTED, str(folder), CERTIFICATES, binary(name), f"--kubeconfig={kubeconfig}", *flags]
        self.start_process(name, ["unshare", "--mount", *inside], dict(os.environ))
        path = f"/api/v1/namespaces/{namespace}/secrets/{secret}"
        data = self.wait(f"the certificate of {name}", lambda: self._data(path))
        for key, value in data.items():
            (folder / key).write_bytes(base64.b64decode(value))

    def _data(self, path: str) -> JsonObject | None:
        self.plane.alive()
        data: JsonObject | None = self.plane.request("GET", path).get("data")
        return data if data and "tls.crt" in data else None

    def _created(self, runtime: JsonObject) -> bool:
        self.plane.alive()
        try:
            self.plane.apply(f"{collection(self.plane, runtime)}/{RUNTIME}", runtime)
        except (Refused, OSError):
            return False
        return True

    def _admitted(self) -> bool:
        self.plane.alive()
        job = self.manifest("probe", "default")
        jobset = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": "probe", "namespace": "default"},
            "spec": {"replicatedJobs": []},
        }
        try:
            self.plane.request("POST", f"{self.path('default')}?dryRun=All", job)
            self.plane.request("POST", f"{collection(self.plane, jobset)}?dryRun=All", jobset)
        except (Refused, OSError) as error:
            return "webhook" not in str(error)
        return True
