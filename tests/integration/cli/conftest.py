"""A real API server and a real MinIO for the command, and the command itself."""

from __future__ import annotations

import base64
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from instructbooth.cli.main import cli
from instructbooth.contract import Env
from tests.integration.operator.plane import BIN, ROOT, ControlPlane, free_port
from tests.unit.spec.examples import demo

CRD = "instructboothjobs.instructbooth.io"
JOBS = "/apis/instructbooth.io/v1alpha1/namespaces/{}/instructboothjobs"
ACCESS, SECRET = "test-access", "test-secret-key"
NAMES = iter(range(1000))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the CRD and without an operator: what is submitted stays as it is."""
    if os.environ.get("CLUSTER") in ("kind", "current") and not (BIN / "kube-apiserver").exists():
        pytest.skip("needs the binaries that `make cluster` builds from source")
    plane = ControlPlane(tmp_path_factory.mktemp("cli-plane"))
    try:
        plane.start()
        crd = yaml.safe_load((ROOT / f"crds/{CRD}.yaml").read_text())
        plane.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}", crd)
        plane.wait("the CRD", lambda: "instructbooth.io" in str(plane.request("GET", "/apis")))
        yield plane
    finally:
        plane.stop()


@dataclass
class Bench:
    """A namespace of the test's own, and the command pointed at it."""

    plane: ControlPlane
    namespace: str
    folder: Path

    def run(self, *args: str, user: str = "admin", **env: str | None) -> Result:
        """`instructbooth ARGS -n NAMESPACE` with this user's kubeconfig."""
        given = {"KUBECONFIG": str(self.plane.kubeconfig(user)), Env.ACCESS_KEY: None, Env.SECRET_KEY: None} | env
        return CliRunner().invoke(cli, [*args, "-n", self.namespace], env=given)

    def write(self, manifest: dict[str, Any]) -> str:
        """A manifest as a file."""
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(manifest))
        return str(path)

    def get(self, path: str) -> dict[str, Any]:
        """An object of the namespace: `configmaps/NAME`."""
        return self.plane.request("GET", f"/api/v1/namespaces/{self.namespace}/{path}")

    def job(self, name: str = "demo") -> dict[str, Any]:
        """A job of the namespace."""
        return self.plane.request("GET", f"{JOBS.format(self.namespace)}/{name}")

    def set_status(self, status: dict[str, Any], name: str = "demo") -> None:
        """Say what the operator would say."""
        self.plane.request(
            "PATCH",
            f"{JOBS.format(self.namespace)}/{name}/status",
            {"status": status},
            content_type="application/merge-patch+json",
        )

    def secret(self, name: str, **data: str) -> None:
        """A Secret in the namespace."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        body = {"metadata": {"name": name}, "data": encoded}
        self.plane.request("POST", f"/api/v1/namespaces/{self.namespace}/secrets", body)


@pytest.fixture
def bench(plane: ControlPlane, tmp_path: Path) -> Bench:
    name = f"cli-{next(NAMES)}"
    plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return Bench(plane, name, tmp_path)


@pytest.fixture
def job() -> Callable[..., dict[str, Any]]:
    """The demo's job, with spec.artifacts changed."""

    def make(**artifacts: Any) -> dict[str, Any]:
        manifest = demo()
        manifest["spec"]["artifacts"] |= artifacts
        return manifest

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three files that begin like pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]) * 1000)
    return folder


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real MinIO with the credentials ACCESS and SECRET."""
    binary = Path(os.environ.get("MINIO_BINARY") or BIN / "minio")
    if not binary.exists():
        pytest.skip("needs the MinIO that `make cluster` builds, or MINIO_BINARY")
    folder, port = tmp_path_factory.mktemp("cli-minio"), free_port()
    env = {**os.environ, "MINIO_ROOT_USER": ACCESS, "MINIO_ROOT_PASSWORD": SECRET}
    command = [str(binary), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{endpoint}/minio/health/live", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    try:
        ControlPlane.wait("MinIO", ready)
        yield endpoint
    finally:
        server.kill()
        server.wait()
