"""What only a cluster with nodes can show: storage behind a Service, and logs of pods."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from instructbooth.contract import Label
from tests.e2e import lab
from tests.unit.spec.examples import demo

pytestmark = pytest.mark.cluster
KEYS = {"accessKey": "in-cluster-access", "secretKey": "in-cluster-secret"}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
SPEAK = "import time\nfor i in range(3): print('line', i, flush=True); time.sleep(0.5)"


def instructbooth(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "instructbooth.cli.main", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=lab.ROOT)
    assert not check or done.returncode == 0, done.stderr
    return done


def minio_pod() -> dict[str, Any]:
    env = [
        {"name": "MINIO_ROOT_USER", "value": KEYS["accessKey"]},
        {"name": "MINIO_ROOT_PASSWORD", "value": KEYS["secretKey"]},
    ]
    container = {
        "name": "minio",
        "image": "docker.io/instructbooth/minio:dev",
        "args": ["server", "/data"],
        "env": env,
        "readinessProbe": {"httpGet": {"path": "/minio/health/ready", "port": 9000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": RESTRICTED,
    }
    spec = {"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "minio", "labels": {"app": "minio"}}, "spec": spec}


def gang() -> dict[str, Any]:
    """An Indexed Job with the labels that the operator gives its children."""
    labels = {Label.JOB: "demo", Label.STAGE: "reinforce", Label.ATTEMPT: "2"}
    container = {
        "name": "trainer",
        "image": "docker.io/instructbooth/operator:dev",
        "command": ["python3", "-c", SPEAK],
        "securityContext": RESTRICTED,
    }
    template = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "gang"}, "spec": spec}


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace with a MinIO behind a Service, its Secret, and a suspended job that uses it."""
    lab.connect()
    lab.kubectl("apply", "--server-side", "--force-conflicts", "-f", "crds/")
    lab.kubectl("wait", "--for=condition=Established", "crd/instructboothjobs.instructbooth.io", "--timeout=30s")
    name = f"cli-{secrets.token_hex(3)}"
    lab.kubectl("create", "namespace", name)
    lab.apply(minio_pod(), namespace=name)
    service = {"selector": {"app": "minio"}, "ports": [{"port": 9000}]}
    lab.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "minio"}, "spec": service}, namespace=name)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "instructbooth-minio"}, "stringData": KEYS}
    lab.apply(secret, namespace=name)
    lab.kubectl("wait", "-n", name, "--for=condition=Ready", "pod/minio", "--timeout=90s")
    yield name
    lab.kubectl("delete", "namespace", name, "--timeout=60s")


@pytest.fixture(scope="module")
def manifest(namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Suspended, so that an operator in the cluster leaves it alone."""
    job = demo()
    job["spec"]["runPolicy"] = {"suspend": True}
    job["spec"]["artifacts"]["endpoint"] = f"http://minio.{namespace}.svc:9000"
    path = tmp_path_factory.mktemp("cli") / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def forwards(namespace: str) -> list[str]:
    """Command lines of the port-forwards into the namespace that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended meanwhile
            if "port-forward" in command and namespace in command:
                found.append(command)
    return found


def test_storage_inside_of_the_cluster_is_reached_and_the_way_is_closed(namespace, manifest, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(os.urandom(12 << 20))
    put = ["artifacts", "put", str(tmp_path), "models/m", "-f", str(manifest), "-n", namespace]
    first = instructbooth(*put)
    assert "s3://instructbooth/models/m/: 1 files sent, 0 unchanged" in first.stdout
    assert f"minio.{namespace}.svc:9000 is inside of the cluster: forwarded to 127.0.0.1:" in first.stderr
    assert ": 0 files sent, 1 unchanged" in instructbooth(*put).stdout
    bare = ["--endpoint", f"http://minio.{namespace}.svc:9000", "--bucket", "instructbooth"]
    again = ["artifacts", "put", str(tmp_path), "models/m", *bare, "--secret", "instructbooth-minio", "-n", namespace]
    assert ": 0 files sent, 1 unchanged" in instructbooth(*again).stdout
    assert forwards(namespace) == []


def test_service_that_is_not_there_is_named(namespace, manifest, tmp_path):
    job = yaml.safe_load(manifest.read_text())
    job["spec"]["artifacts"]["endpoint"] = f"http://absent.{namespace}.svc:9000"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    put = ["artifacts", "put", str(tmp_path), "m", "-f", str(tmp_path / "job.yaml"), "-n", namespace]
    done = instructbooth(*put, check=False)
    assert done.returncode == 1
    assert f"kubectl port-forward to absent.{namespace} ended" in done.stderr
    assert 'services "absent" not found' in done.stderr


def test_logs_of_all_ranks_followed_and_afterwards(namespace, manifest):
    instructbooth("submit", "-f", str(manifest), "-n", namespace)
    command = [sys.executable, "-m", "instructbooth.cli.main", "logs", "demo", "--follow", "-n", namespace]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=lab.ROOT)
    assert follower.stdout is not None
    wanted = {f"reinforce-2/{rank} | line {number}" for rank in (0, 1) for number in range(3)}
    try:
        lab.apply(gang(), namespace=namespace)
        seen: set[str] = set()
        end = time.monotonic() + 90
        while seen != wanted and time.monotonic() < end:
            seen.add(follower.stdout.readline().strip())
        assert seen == wanted
    finally:
        follower.terminate()
        follower.wait(10)
        follower.stdout.close()
    every = instructbooth("logs", "demo", "-n", namespace).stdout.splitlines()
    assert every == sorted(wanted)
    one = instructbooth("logs", "demo", "-n", namespace, "--rank", "1", "--tail", "1").stdout
    assert one == "reinforce-2/1 | line 2\n"
    none = instructbooth("logs", "demo", "-n", namespace, "--stage", "evaluate", check=False)
    assert none.returncode == 1
    assert "has no pods of stage evaluate" in none.stderr
