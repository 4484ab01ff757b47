"""The product in a cluster, as its users handle it: helm, kubectl and the `instructbooth` command.

Used by the demo and by the end-to-end tests. Nothing here reaches into the product: what a user cannot do is not done.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests import machine

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = "instructbooth-system"
MONITORING = "monitoring"
Object = dict[str, Any]


class LabError(AssertionError):
    """A command failed or a wait ended without what was waited for."""


def run(*command: str, stdin: str | None = None, check: bool = True, timeout: float = 300) -> str:
    """Run a command and return its output; its error output is in the exception."""
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise LabError(
            f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def connect() -> None:
    """Point kubectl, helm and the command at the cluster that `make cluster` raised (or CLUSTER chose)."""
    kubeconfig = run("python3", "tests/cluster/cluster.py", "kubeconfig").strip()
    if kubeconfig:
        os.environ["KUBECONFIG"] = kubeconfig
    # kubectl and helm as `make cluster` built them; with kind or a cluster of one's own, those on the PATH.
    os.environ["PATH"] = f"{machine.BIN}{os.pathsep}{os.environ['PATH']}"


def kubectl(*args: str, stdin: str | None = None, check: bool = True, timeout: float = 300) -> str:
    """kubectl with these arguments; its standard output."""
    return run("kubectl", *args, stdin=stdin, check=check, timeout=timeout)


@contextmanager
def following(pods: list[str], *, namespace: str, folder: Path) -> Iterator[list[Path]]:
    """The logs of pods, in files that grow for as long as the pods run."""
    logs = [folder / f"{pod}.log" for pod in pods]
    with ExitStack() as stack:
        for pod, path in zip(pods, logs, strict=True):
            file = stack.enter_context(path.open("wb"))
            process = subprocess.Popen(["kubectl", "logs", "-f", "-n", namespace, pod], stdout=file)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield logs


def get(kind: str, name: str = "", *, namespace: str, selector: str = "") -> Any:
    """An object, or the list of objects, as JSON; None if it does not exist."""
    args = ["get", kind, "-n", namespace, "-o", "json", "--ignore-not-found"]
    args += [name] if name else []
    args += ["-l", selector] if selector else []
    text = kubectl(*args)
    if not text.strip():
        return None if name else []
    found = json.loads(text)
    return found if name else found["items"]


def apply(manifest: Object, *, namespace: str) -> None:
    """`kubectl apply`, with strict validation as users have it."""
    kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(manifest))


def instructbooth(*args: str, timeout: float = 600) -> str:
    """The `instructbooth` command with these arguments; its standard output."""
    return run(str(ROOT / ".venv" / "bin" / "instructbooth"), *args, timeout=timeout)


def wait(what: str, condition: Callable[[], Any], *, seconds: float, interval: float = 1.0) -> Any:
    """Poll until `condition` returns something true; LabError names what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(interval)
    raise LabError(f"waited {seconds:.0f} s in vain for {what}")


def job(name: str, *, namespace: str) -> Object:
    """An InstructBoothJob with an empty status where it has none yet."""
    found = get("ibj", name, namespace=namespace)
    if found is None:
        raise LabError(f"InstructBoothJob {namespace}/{name} does not exist")
    found.setdefault("status", {})
    result: Object = found
    return result


def phase(name: str, *, namespace: str) -> str:
    """The job's phase; empty before the operator has seen it."""
    return str(job(name, namespace=namespace)["status"].get("phase", ""))


def wait_finished(name: str, *, namespace: str, seconds: float) -> Object:
    """Wait until the job is Succeeded or Failed, and return it."""
    wait(
        f"{namespace}/{name} to finish",
        lambda: phase(name, namespace=namespace) in ("Succeeded", "Failed"),
        seconds=seconds,
        interval=2,
    )
    return job(name, namespace=namespace)


def condition(obj: Object, kind: str) -> Object:
    """The condition of that type; an empty one with status Unknown if there is none."""
    for found in obj.get("status", {}).get("conditions", ()):
        if found["type"] == kind:
            result: Object = found
            return result
    return {"type": kind, "status": "Unknown", "reason": "", "message": ""}


def stage(obj: Object, name: str) -> Object:
    """The status of a stage."""
    for found in obj.get("status", {}).get("stages", ()):
        if found["name"] == name:
            result: Object = found
            return result
    return {}


def namespace(name: str) -> str:
    """A namespace under the restricted pod security standard, with the storage's credentials copied into it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl(
        "apply",
        "-f",
        "-",
        stdin=yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
    )
    secret = get("secret", "instructbooth-minio", namespace=SYSTEM)
    copy = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "instructbooth-minio"}, "data": secret["data"]}
    apply(copy, namespace=name)
    return name


def credentials() -> tuple[str, str]:
    """Access key and secret key of the demo's MinIO."""
    data = get("secret", "instructbooth-minio", namespace=SYSTEM)["data"]
    return base64.b64decode(data["accessKey"]).decode(), base64.b64decode(data["secretKey"]).decode()


@contextmanager
def port_forward(target: str, port: int, *, namespace: str) -> Iterator[str]:
    """A local address that reaches a port of a Service, as `kubectl port-forward` makes it."""
    child = subprocess.Popen(
        ["kubectl", "port-forward", "-n", namespace, target, f":{port}"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()  # Forwarding from 127.0.0.1:43211 -> 9000
        if "->" not in line:
            raise LabError(f"port-forward to {namespace}/{target}:{port} did not start")
        yield line.split()[2]
    finally:
        child.terminate()
        child.wait(timeout=10)
