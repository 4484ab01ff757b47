"""A killed gang starts again once, from its last checkpoint, and ends with the same bits."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e import jobs, lab


def processes_of(pod: str) -> list[int]:
    """Every process of the pod's trainer. The nodes of `make cluster` are this machine, so they can be seen."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"HOSTNAME={pod}".encode() in environment:
                found.append(int(entry.name))
    assert found, f"no process of {pod} on this machine"
    return found


def kill_trainer(pod: str) -> None:
    """SIGKILL every process of the pod's trainer."""
    for pid in processes_of(pod):
        os.kill(pid, signal.SIGKILL)


def lora(name: str, folder: Path, *, namespace: str) -> bytes:
    """The reinforced LoRA, fetched from the storage."""
    lab.instructbooth("artifacts", "get", name, "-n", namespace, "--stage", "reinforce", "--to", str(folder))
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()


@pytest.mark.skipif(
    os.environ.get("CLUSTER") in ("kind", "current"), reason="the nodes' processes are not on this machine"
)
def test_sigkill_in_reinforce_changes_nothing_in_the_end(namespace, tmp_path):
    names = [jobs.submit(jobs.small(name, reinforcement__epochs=6), namespace=namespace) for name in ("calm", "killed")]
    jobs.wait_stage_moves("killed", "reinforce", step=2, namespace=namespace, seconds=400)
    pods = jobs.running_pods("killed", "reinforce", namespace=namespace)
    kill_trainer(sorted(pod["metadata"]["name"] for pod in pods)[-1].rsplit("-", 1)[0])
    finished = {name: lab.wait_finished(name, namespace=namespace, seconds=600) for name in names}
    assert {name: job["status"]["phase"] for name, job in finished.items()} == {
        "calm": "Succeeded",
        "killed": "Succeeded",
    }
    reinforce = lab.stage(finished["killed"], "reinforce")
    assert (reinforce["attempt"], reinforce["restarts"]) == (2, {"failures": 1, "disruptions": 0})
    calm, killed = (lora(name, tmp_path / name, namespace=namespace) for name in names)
    assert calm == killed
