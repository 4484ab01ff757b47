"""A control plane of its own: etcd, API server, controller manager. Real, without nodes: the tests play the kubelet.

Not the cluster that `make cluster` raises, because here the operator is killed, the API server is stopped, and nobody
else's operator may help. Same binaries; up in seconds.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from instructbooth.cli.ports import free_port
from tests.machine import BIN, binary

ROOT = Path(__file__).resolve().parents[3]
JsonObject = dict[str, Any]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
# `admin` may do everything, `operator` what the chart grants, `controllers` what they do anywhere, `stranger` nothing.
TOKENS = """\
admin,admin,1,system:masters
operator,operator,2
controllers,system:kube-controller-manager,3
stranger,stranger,4
"""


class Refused(Exception):
    """The API server said no."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def unverified() -> ssl.SSLContext:
    """TLS to a server of the test's own, which made its certificate itself."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class ControlPlane:
    """Starts with `start()` and `start_controllers()`, ends with `stop()`: only processes that it started itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etcd_port, self.peer_port, self.port, self.manager_port = (free_port() for _ in range(4))
        self.url = f"https://127.0.0.1:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tls = unverified()

    def start(self) -> None:
        """Start etcd and the API server, and wait until it is ready."""
        (self.folder / "tokens.csv").write_text(TOKENS)
        for user in ("admin", "operator", "controllers", "stranger"):
            self.kubeconfig(user).write_text(yaml.safe_dump(self._kubeconfig(user)))
        self.start_etcd()
        self.start_api_server()

    def start_controllers(self) -> None:
        """Start the controller manager: its garbage collector learns late of kinds that come after it."""
        self._spawn(
            "kube-controller-manager",
            *self.controller_manager_flags(),
            "--kube-api-qps=500",  # many jobs at a time: at its default of 20 it would be what is measured
            "--kube-api-burst=1000",
            "--controllers=job-controller,garbage-collector-controller,namespace-controller,serviceaccount-controller",
        )

    def start_etcd(self, *flags: str) -> None:
        """Start etcd, which never waits for the disk; its data outlive its process."""
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        self._spawn(
            "etcd",
            f"--data-dir={self.folder}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=error",
            *flags,
        )

    def controller_manager_flags(self) -> list[str]:
        """Flags of the controller manager, except for which controllers it runs."""
        return [
            f"--kubeconfig={self.kubeconfig('controllers')}",
            f"--secure-port={self.manager_port}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            # As in a real cluster, each controller has the rights that RBAC gives it, and no more.
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.folder}/sa.key",
        ]

    def start_api_server(self) -> None:
        """Start the API server and wait until it is ready."""
        if not (self.folder / "sa.key").exists():
            key = ["openssl", "genrsa", "-out", str(self.folder / "sa.key"), "2048"]
            subprocess.run(key, check=True, capture_output=True)
        self._spawn("kube-apiserver", *self.api_server_flags())
        self.wait("the API server", self.ready, 300)

    def api_server_flags(self) -> list[str]:
        """Flags of the API server."""
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.folder}/certificates",
            "--service-cluster-ip-range=10.97.0.0/24",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/sa.key",
            f"--service-account-signing-key-file={self.folder}/sa.key",
        ]

    def stop(self, *names: str) -> None:
        """Stop the named processes, or all, in the reverse order of their start."""
        for name in names or reversed(list(self._processes)):
            process = self._processes.pop(name)
            process.kill()
            process.wait()

    def kubeconfig(self, user: str) -> Path:
        """Path of a user's kubeconfig."""
        return self.folder / f"{user}.kubeconfig"

    def request(
        self, method: str, path: str, body: JsonObject | None = None, content_type: str = "application/json"
    ) -> JsonObject:
        """A request as administrator. Raises Refused."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "Bearer admin", "Content-Type": content_type, "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:
                parsed: JsonObject = json.loads(answer.read())
                return parsed
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode()) from None

    def apply(self, path: str, manifest: JsonObject) -> JsonObject:
        """Server-side apply as administrator."""
        return self.request(
            "PATCH", f"{path}?fieldManager=test&force=true", manifest, content_type="application/apply-patch+yaml"
        )

    @staticmethod
    def wait(what: str, condition: Any, seconds: float = 60) -> Any:
        """Poll until `condition()` is true; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")

    def ready(self) -> bool:
        """Whether the API server serves."""
        ready = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": "Bearer admin"})
        try:
            # Before that some of Kubernetes' own roles are missing, and a controller manager that starts gives up.
            urllib.request.urlopen(ready, context=self._tls, timeout=30).close()
            self.request("GET", "/api/v1/namespaces/default")
        except (Refused, OSError):
            return False
        return True

    def _spawn(self, name: str, *flags: str) -> None:
        self._run(name, [binary(name), *flags])

    def _run(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment)

    def _kubeconfig(self, user: str) -> JsonObject:
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "plane", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": user}}],
            "current-context": "plane",
        }


@contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    """A control plane with CRD and operator's rights, ended afterwards; skips where nobody built its binaries."""
    if os.environ.get("CLUSTER") in ("kind", "current") and not (BIN / "kube-apiserver").exists():
        pytest.skip("needs the binaries that `make cluster` builds from source")
    plane = ControlPlane(folder)
    try:
        plane.start()
        crd = yaml.safe_load((ROOT / "crds/instructboothjobs.instructbooth.io.yaml").read_text())
        plane.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}", crd)
        plane.wait("the CRD", lambda: "instructbooth.io" in str(plane.request("GET", "/apis")))
        plane.start_controllers()
        _grant(plane)
        _wait_for_garbage_collector(plane)
        yield plane
    finally:
        plane.stop()


def _wait_for_garbage_collector(plane: ControlPlane) -> None:
    """On a busy machine it needs a minute or two to begin, and until then nothing that is deleted goes."""
    path = "/api/v1/namespaces/default/configmaps"
    plane.wait("the namespace default", lambda: "default" in str(plane.request("GET", "/api/v1/namespaces")))
    owner = plane.request("POST", path, {"metadata": {"name": "owner"}})["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    plane.request("POST", path, {"metadata": {"name": "owned", "ownerReferences": [reference]}})
    plane.request("DELETE", f"{path}/owner", {"propagationPolicy": "Background"})
    left = {"owner", "owned"}

    def collected() -> bool:
        return not left & {item["metadata"]["name"] for item in plane.request("GET", path)["items"]}

    plane.wait("the garbage collector", collected, 300)


def _grant(plane: ControlPlane) -> None:
    """Bind the chart's ClusterRole to the user `operator`: what it lacks, the tests lack too."""
    chart = ["template", "rel", str(ROOT / "charts/instructbooth"), "--kube-version", "1.35.4"]
    text = subprocess.run([binary("helm"), *chart], check=True, capture_output=True, text=True).stdout
    role = next(obj for obj in yaml.safe_load_all(text) if obj and obj["kind"] == "ClusterRole")
    lease = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
    manifest = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "operator"},
        "rules": [*role["rules"], lease],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"},
        "subjects": [{"kind": "User", "name": "operator", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    plane.apply(f"{RBAC}/clusterroles/operator", manifest)
    plane.apply(f"{RBAC}/clusterrolebindings/operator", binding)
