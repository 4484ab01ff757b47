"""The chart's MinIO in the cluster, under the restricted pod security standard: it keeps data and keys."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import pytest
from minio import Minio

from tests.e2e import lab
from tests.integration.chart.helm import CHART

pytestmark = pytest.mark.cluster
NAMESPACE = RELEASE = "chart-test"
NAME = f"{RELEASE}-instructbooth-minio"
POD = f"{NAME}-0"
# Neither definition nor operator: other tests, and the demo, have theirs in the same cluster.
VALUES = "crds.install=false,operator.replicas=0,minio.enabled=true"
IMAGE = "minio.image.repository=docker.io/instructbooth/minio,minio.image.tag=dev"


def upgrade(*args: str) -> str:
    """Install or upgrade the release and wait until it is ready; what Helm printed."""
    command = ("helm", "upgrade", "--install", RELEASE, str(CHART), "-n", NAMESPACE, "--set", f"{VALUES},{IMAGE}")
    return lab.run(*command, "--wait", "--timeout", "90s", *args)


@pytest.fixture(scope="module")
def notes() -> Iterator[str]:
    """The release in a namespace of its own, both gone afterwards; the notes it printed."""
    lab.connect()
    lab.kubectl("create", "namespace", NAMESPACE)
    lab.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    try:
        yield upgrade()
    finally:
        lab.run("helm", "uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", "--wait")
        lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")


def keys() -> dict[str, str]:
    """The Secret's data."""
    data: dict[str, str] = lab.get("secret", NAME, namespace=NAMESPACE)["data"]
    return data


def stored(name: str, content: bytes | None = None) -> bytes:
    """Write (if given) and read an object with the keys of the Secret, as a job would."""
    data = keys()
    access, secret = (base64.b64decode(data[key]).decode() for key in ("accessKey", "secretKey"))
    with lab.port_forward(f"svc/{NAME}", 9000, namespace=NAMESPACE) as address:
        client = Minio(address, access, secret, secure=False)
        if content is not None:
            if not client.bucket_exists("kept"):
                client.make_bucket("kept")
            client.put_object("kept", name, io.BytesIO(content), len(content))
        body: bytes = client.get_object("kept", name).read()
        return body


def test_notes_tell_the_next_three_commands(notes):
    assert f"kubectl get secret {NAME} --namespace {NAMESPACE} -o go-template='{{{{.data.secretKey" in notes
    assert f"http://{NAME}.{NAMESPACE}.svc:9000" in notes
    assert notes.index("kubectl create secret") < notes.index("kubectl apply") < notes.index("kubectl get ibj")


def test_objects_outlive_the_pod(notes):
    assert stored("a", b"before") == b"before"
    uid = lab.get("pod", POD, namespace=NAMESPACE)["metadata"]["uid"]
    lab.kubectl("delete", "pod", POD, "-n", NAMESPACE)
    lab.kubectl("rollout", "status", f"statefulset/{NAME}", "-n", NAMESPACE, "--timeout=90s")
    assert lab.get("pod", POD, namespace=NAMESPACE)["metadata"]["uid"] != uid
    assert stored("a") == b"before"


def test_keys_and_objects_outlive_upgrades_and_the_release(notes):
    before = keys()
    assert stored("b", b"kept") == b"kept"
    upgrade("--set", "minio.resources.limits.memory=1Gi")
    assert keys() == before
    lab.run("helm", "uninstall", RELEASE, "-n", NAMESPACE, "--wait")
    assert lab.get("statefulset", NAME, namespace=NAMESPACE) is None
    upgrade()
    assert keys() == before
    assert stored("b") == b"kept"
