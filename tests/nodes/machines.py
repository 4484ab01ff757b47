"""What can happen to a machine: its power fails, or a pod's network does."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from raising import cgroups, leftovers
from raising.processes import running_pid, start_time
from raising.settings import CGROUP, NODES, PIDS, Node

from tests.e2e import lab
from tests.e2e.test_e2e_restart import processes_of

NODE_LABEL = "instructbooth.io/test-node"


def node_without_storage() -> str:
    """The real node that MinIO does not run on."""
    pods = lab.get("pods", namespace=lab.SYSTEM, selector="app.kubernetes.io/component=minio")
    taken = {pod["spec"].get("nodeName") for pod in pods}
    assert len(taken) == 1, f"MinIO should run on one node, not on {sorted(map(str, taken))}"
    return next(node.name for node in NODES if node.name not in taken)


def power_off(name: str) -> None:
    """End all that runs on a node at once, its kubelet first: nobody is left to report what became of the pods."""
    node = next(node for node in NODES if node.name == name)
    for component in (f"kubelet-{name}", f"containerd-{name}"):
        pid = running_pid(PIDS / component)
        assert pid is not None, f"{component} does not run"
        os.kill(pid, signal.SIGKILL)
    # Containers, and who watches over them: a shim lives outside of its pod's cgroup.
    while pids := _in_cgroup(node) | {pid for pid in leftovers.shims([node]) if start_time(pid) is not None}:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _in_cgroup(node: Node) -> set[int]:
    pids: set[int] = set()
    for tree in cgroups.hierarchies():
        for directory, _, _ in os.walk(tree / CGROUP / node.name):
            with contextlib.suppress(OSError):  # a cgroup may go while we look
                pids.update(int(word) for word in (Path(directory) / "cgroup.procs").read_text().split())
    return {pid for pid in pids if start_time(pid) is not None}


def bring_back() -> None:
    """Start whatever does not run, and wait until each node is ready."""
    lab.run("python3", "tests/cluster/cluster.py", "up", timeout=600)
    lab.kubectl("wait", "--for=condition=Ready", "node", *(node.name for node in NODES), "--timeout=120s")


def cut_network(pod: str) -> None:
    """Take a running pod's only link down. Its processes live on, and no packet tells anybody."""
    any_of_them = str(processes_of(pod)[0])  # they share the pod's network
    lab.run("nsenter", "--target", any_of_them, "--net", "ip", "link", "set", "eth0", "down")
