"""The operator as a process, and the test as the kubelet of its pods."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from instructbooth.cli.ports import free_port
from instructbooth.contract import CONTAINER, Label, Outcome
from instructbooth.reconcile.conditions import find
from instructbooth.spec.status import Condition, InstructBoothJobStatus, Progress
from tests.integration.operator.plane import ControlPlane, JsonObject, Refused
from tests.unit.reconcile.world import job_object

START_SECONDS = 120  # two busy cores need their time to import it all
MERGE = "application/merge-patch+json"
RANK = "batch.kubernetes.io/job-completion-index"


class Operator:
    """One operator process."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        progress: str,
        *flags: str,
        name: str = "op-1",
        user: str = "operator",
        program: Sequence[str] = (str(Path(sys.executable).with_name("instructbooth-operator")),),
    ) -> None:
        self.port = free_port()
        self.log = plane.folder / f"{namespace}-{name}.log"
        self._command = [
            *program,
            "--trainer-image=instructbooth/trainer:test",
            f"--listen-port={self.port}",
            f"--watch-namespaces={namespace}",
            f"--progress-url={progress}",
            "--pull-seconds=1",
            f"--pod-name={name}",
            *flags,
        ]
        self._environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig(user))}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        if wait:
            ControlPlane.wait("the operator to be ready", lambda: self.answer("/readyz")[0] == 200, START_SECONDS)

    def kill(self, how: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def answer(self, path: str) -> tuple[int, str]:
        """Status (0: no answer) and text of one of its pages."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, line: str) -> float:
        """The value of a metric line; 0 if it is not there."""
        for text in self.answer("/metrics")[1].splitlines():
            if text.startswith(line + " "):
                return float(text.rsplit(" ", 1)[1])
        return 0.0


class Rank0:
    """What rank 0 of every gang would serve: a Progress at any path."""

    def __init__(self) -> None:
        said = self.said = {"progress": Progress()}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):  # who asked has waited for two seconds, and gone
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(said["progress"].model_dump_json(by_alias=True).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/{{host}}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Bench:
    """One namespace with its jobs; the test moves its pods."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self._core = f"/api/v1/namespaces/{namespace}"
        self._batch = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._ibj = f"/apis/instructbooth.io/v1alpha1/namespaces/{namespace}/instructboothjobs"

    # What users do.
    def submit(self, name: str = "mascot", **spec: Any) -> None:
        manifest = job_object(name, **spec)
        manifest["metadata"] = {"name": name, "namespace": self.namespace}
        self.plane.request("POST", self._ibj, manifest)

    def edit(self, patch: JsonObject, name: str = "mascot") -> None:
        self.plane.request("PATCH", f"{self._ibj}/{name}", patch, MERGE)

    def delete(self, name: str = "mascot") -> None:
        self.plane.request("DELETE", f"{self._ibj}/{name}")

    def create(self, kind: str, manifest: JsonObject) -> None:
        self.plane.request("POST", f"{self._core}/{kind}", manifest)

    def allow_pods(self, count: int) -> None:
        """A quota, with the status that its controller would write at first; admission then counts by itself."""
        hard = {"pods": str(count)}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}}
        self.create("resourcequotas", quota)
        status = {"status": {"hard": hard, "used": {"pods": "0"}}}
        self.plane.request("PATCH", f"{self._core}/resourcequotas/few/status", status, MERGE)

    # What there is.
    def job(self, name: str = "mascot") -> JsonObject:
        return self.plane.request("GET", f"{self._ibj}/{name}")

    def gone(self, name: str = "mascot") -> bool:
        try:
            self.job(name)
        except Refused as refused:
            return refused.code == 404
        return False

    def status(self, name: str = "mascot") -> InstructBoothJobStatus:
        return InstructBoothJobStatus.from_object(self.job(name))

    def condition(self, kind: str, name: str = "mascot") -> Condition | None:
        return find(self.status(name).conditions, kind)

    def is_true(self, kind: str, name: str = "mascot") -> bool:
        found = self.condition(kind, name)
        return found is not None and found.status == "True"

    def wait_true(self, kind: str, name: str = "mascot", seconds: float = 60) -> Condition:
        self.plane.wait(f"{kind} of {name}", lambda: self.is_true(kind, name), seconds)
        found = self.condition(kind, name)
        assert found is not None
        return found

    def children(self, name: str | None = None) -> dict[str, JsonObject]:
        selector = "" if name is None else f"?labelSelector={Label.JOB}%3D{name}"
        return {obj["metadata"]["name"]: obj for obj in self.plane.request("GET", self._batch + selector)["items"]}

    def everything(self) -> list[str]:
        """Jobs, pods, ConfigMaps of the operator's."""
        found = list(self.children())
        for kind in ("pods", "configmaps"):
            for obj in self.plane.request("GET", f"{self._core}/{kind}")["items"]:
                if Label.MANAGED_BY in obj["metadata"].get("labels", {}):
                    found.append(f"{kind}/{obj['metadata']['name']}")
        return found

    def pods(self, child: str) -> list[JsonObject]:
        query = f"?labelSelector=batch.kubernetes.io%2Fjob-name%3D{child}"
        pods: list[JsonObject] = self.plane.request("GET", f"{self._core}/pods{query}")["items"]
        return sorted(pods, key=lambda pod: int(pod["metadata"]["annotations"][RANK]))

    def events(self) -> list[str]:
        items = self.plane.request("GET", f"{self._core}/events")["items"]
        ours = [event for event in items if event["involvedObject"]["kind"] == "InstructBoothJob"]
        return [event["reason"] for event in ours]

    def wait_pods(self, child: str, count: int, seconds: float = 60) -> list[JsonObject]:
        def there() -> list[JsonObject] | None:
            alive = [pod for pod in self.pods(child) if "deletionTimestamp" not in pod["metadata"]]
            return alive if len(alive) == count else None

        pods: list[JsonObject] = self.plane.wait(f"{count} pods of {child}", there, seconds)
        return pods

    # What the kubelet does.
    def run(self, child: str, count: int, seconds: float = 60) -> None:
        for pod in self.wait_pods(child, count, seconds):
            self._pod_status(pod, running_status())

    def end(self, child: str, code: int, said: Outcome | str, rank: int | None = None, count: int = 1) -> None:
        """End one rank, or all of them."""
        message = said if isinstance(said, str) else json.dumps(vars(said))
        for pod in self.wait_pods(child, count):
            if rank not in (None, int(pod["metadata"]["annotations"][RANK])):
                continue
            self._pod_status(pod, terminated_status(code, message))

    def wait_for_pod(self, child: str, reason: str, message: str) -> None:
        """Let the pods of a child wait for something."""
        for pod in self.pods(child):
            state = {"waiting": {"reason": reason, "message": message}}
            self._pod_status(pod, {"phase": "Pending", "containerStatuses": [_container(state)]})

    def bind(self, child: str, count: int) -> None:
        """What the scheduler does: each pod to a node of its own, from which on it is deleted with grace."""
        for number, pod in enumerate(self.wait_pods(child, count)):
            body = {"metadata": {"name": pod["metadata"]["name"]}, "target": {"kind": "Node", "name": f"node-{number}"}}
            self.plane.request("POST", f"{self._core}/pods/{pod['metadata']['name']}/binding", body)

    def lose_node(self, child: str, rank: int) -> None:
        """What the node controller does about a node that says no more: its pods are not ready, then to be deleted."""
        name = self.pods(child)[rank]["metadata"]["name"]
        mark = {"type": "Ready", "status": "False", "lastTransitionTime": _now()}
        conditions = [mark, {"type": "ContainersReady", "status": "True"}]
        path = f"{self._core}/pods/{name}"
        self.plane.request("PATCH", f"{path}/status", {"status": {"conditions": conditions}}, MERGE)
        self.plane.request("DELETE", path, {"gracePeriodSeconds": 1})

    def unschedulable(self, child: str, rank: int, message: str) -> None:
        """What the scheduler says of a pod that fits nowhere."""
        said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._pod_status(self.pods(child)[rank], {"phase": "Pending", "conditions": [said]})

    def placed(self, child: str, rank: int) -> None:
        """What the scheduler says of a pod that has a node."""
        said = {"type": "PodScheduled", "status": "True", "lastTransitionTime": _now()}
        self._pod_status(self.pods(child)[rank], {"phase": "Pending", "conditions": [said]})

    def evict(self, child: str) -> None:
        """What the eviction API and the kubelet make of a pod, without its deletion."""
        pod = self.pods(child)[0]
        why = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
        ended = {"exitCode": 137, "reason": "Error", "startedAt": _now(), "finishedAt": _now()}
        self._pod_status(
            pod,
            {
                "phase": "Failed",
                "conditions": [{**why, "lastTransitionTime": _now()}],
                "containerStatuses": [_container({"terminated": ended})],
            },
        )

    def _pod_status(self, pod: JsonObject, status: JsonObject) -> None:
        try:
            self.plane.request(
                "PATCH", f"{self._core}/pods/{pod['metadata']['name']}/status", {"status": status}, MERGE
            )
        except Refused as refused:
            if refused.code != 404:
                raise


def running_status() -> JsonObject:
    """The status of a pod whose trainer runs."""
    ready = [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]
    container = _container({"running": {"startedAt": _now()}})
    return {"phase": "Running", "podIP": "127.0.0.1", "conditions": ready, "containerStatuses": [container]}


def terminated_status(code: int, message: str) -> JsonObject:
    """The status of a pod whose trainer has ended and left a termination message."""
    reason = "Completed" if code == 0 else "Error"
    ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": _now(), "finishedAt": _now()}
    phase = "Succeeded" if code == 0 else "Failed"
    return {"phase": phase, "containerStatuses": [_container({"terminated": ended})]}


def _container(state: JsonObject) -> JsonObject:
    ready = "running" in state
    image = {"image": "instructbooth/trainer:test", "imageID": ""}
    return {"name": CONTAINER, "ready": ready, "started": ready, "restartCount": 0, "state": state, **image}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pause(seconds: float) -> None:
    """Let time pass in which something must not happen."""
    time.sleep(seconds)
