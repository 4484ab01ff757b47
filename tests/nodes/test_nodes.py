"""A rank loses its network, a node its power: the gang starts again once, and ends with the same bits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e import jobs, lab
from tests.e2e.test_e2e_restart import lora
from tests.nodes import machines

EPOCHS = 6
UNREACHABLE = "node.kubernetes.io/unreachable"
STALL_SECONDS = 60
STACKS = "most recent call first"  # how faulthandler begins the stack of each thread


def submit(name: str, namespace: str, **changes: Any) -> str:
    return jobs.submit(jobs.small(name, reinforcement__epochs=EPOCHS, **changes), namespace=namespace)


def succeeded(name: str, namespace: str) -> lab.Object:
    """The status of the stage reinforce of a job that ended well."""
    job = lab.wait_finished(name, namespace=namespace, seconds=900)
    assert job["status"]["phase"] == "Succeeded", job["status"]
    return lab.stage(job, "reinforce")


def in_the_middle(name: str, namespace: str) -> list[lab.Object]:
    """The pods of reinforce, by rank, once it has made a checkpoint or two."""
    jobs.wait_stage_moves(name, "reinforce", step=2, namespace=namespace, seconds=600)
    pods = jobs.running_pods(name, "reinforce", namespace=namespace)
    assert len(pods) == 2, [pod["metadata"]["name"] for pod in pods]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


@pytest.fixture(scope="module")
def calm(namespace, tmp_path_factory) -> bytes:
    """The adapter of a job that nothing happens to."""
    succeeded(submit("calm", namespace), namespace)
    return lora("calm", tmp_path_factory.mktemp("calm"), namespace=namespace)


def test_a_rank_without_network_stalls_and_the_gang_starts_again(namespace, calm, tmp_path):
    submit("cut", namespace, runPolicy={"stallTimeoutSeconds": STALL_SECONDS})
    pods = [pod["metadata"]["name"] for pod in in_the_middle("cut", namespace)]
    with lab.following(pods, namespace=namespace, folder=tmp_path) as logs:  # they go with their pods
        machines.cut_network(pods[1].rsplit("-", 1)[0])
        reinforce = succeeded("cut", namespace)
    assert all(STACKS in log.read_text() for log in logs), "a rank did not say where it hung"
    print(reinforce["failure"]["reason"], reinforce["failure"]["message"], sep=": ")
    assert (reinforce["attempt"], reinforce["restarts"]) == (2, {"failures": 1, "disruptions": 0})
    assert reinforce["failure"]["reason"] == "Stalled"
    assert lora("cut", tmp_path, namespace=namespace) == calm


def test_a_lost_node_s_gang_starts_again_elsewhere(namespace, calm, victim, tmp_path):
    leaves = {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}
    submit("lost", namespace, podTemplate={"tolerations": [leaves]})
    pods = in_the_middle("lost", namespace)
    assert victim in {pod["spec"]["nodeName"] for pod in pods}
    machines.power_off(victim)
    reinforce = succeeded("lost", namespace)
    print(reinforce["failure"]["reason"], reinforce["failure"]["message"], sep=": ")
    assert (reinforce["attempt"], reinforce["restarts"]) == (2, {"failures": 0, "disruptions": 1})
    assert reinforce["failure"]["reason"] == "NodeLost"
    assert victim in reinforce["failure"]["message"]
    assert lora("lost", tmp_path, namespace=namespace) == calm
