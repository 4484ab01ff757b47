"""A real API server and a real MinIO for the command, and the command itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from instructbooth.cli.main import cli
from instructbooth.contract import Env
from tests.integration.minio_server import Server
from tests.integration.operator.plane import ControlPlane, running
from tests.unit.spec.examples import demo

JOBS = "/apis/instructbooth.io/v1alpha1/namespaces/{}/instructboothjobs"
NAMES = iter(range(1000))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the CRD and without an operator: what is submitted stays as it is."""
    with running(tmp_path_factory.mktemp("cli-plane")) as plane:
        yield plane


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

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs of the namespace."""
        found: list[dict[str, Any]] = self.plane.request("GET", JOBS.format(self.namespace))["items"]
        return found

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
    """Endpoint of a real MinIO with the credentials of minio_server."""
    server = Server(tmp_path_factory.mktemp("cli-minio"))
    try:
        server.start()
        yield server.endpoint
    finally:
        server.kill()
