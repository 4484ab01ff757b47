"""A gang that dies in the middle goes on bit for bit, and one of another size with the same prompts and pictures."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from instructbooth.spec.job import ResolvedJob
from tests.unit.trainer.harness import Lab, published
from tests.unit.trainer.second_stage import IDENTITY, REINFORCE, report, second_stage

# 9 pictures over two ranks: 5 and 4. 4 updates an epoch; killed in the fourth, after the checkpoint of the second.
CHANGES: dict[str, Any] = {
    "epochs": 4,
    "promptsPerEpoch": 3,
    "imagesPerPrompt": 3,
    "innerEpochs": 2,
    "updatesPerEpoch": 2,
    "promptWeights": {"a {subject} on red": 2},
    "guards": {"identity": {**IDENTITY, "floorShare": 0.01}, "diversityFloor": 0.01, "klCeiling": 1e6},
}
DIES = 14


@pytest.fixture(scope="module")
def undisturbed(lab: Lab, personalized: ResolvedJob) -> ResolvedJob:
    job = second_stage(lab, personalized, nodes=2, **CHANGES)
    with lab.gang(job, REINFORCE):
        pass
    return job


@pytest.fixture(scope="module")
def killed(lab: Lab, personalized: ResolvedJob) -> ResolvedJob:
    job = second_stage(lab, personalized, nodes=2, **CHANGES)
    with lab.gang(job, REINFORCE, die_at=DIES):
        pass
    checkpoints = lab.output(job, REINFORCE).parent / "checkpoints"
    assert checkpoints.is_dir()
    assert not lab.output(job, REINFORCE).exists()
    return job


def going_on(lab: Lab, killed: ResolvedJob, nodes: int) -> ResolvedJob:
    """A job of so many nodes that finds what the killed one left."""
    job = second_stage(lab, killed, **CHANGES, nodes=nodes)
    shutil.copytree(lab.output(killed, REINFORCE).parent.parent, lab.output(job, REINFORCE).parent.parent)
    return job


def test_a_gang_goes_on_bit_for_bit(lab: Lab, undisturbed: ResolvedJob, killed: ResolvedJob) -> None:
    job = going_on(lab, killed, 2)
    with lab.gang(job, REINFORCE, attempt=2):
        pass
    assert report(lab, job, REINFORCE, 2) == report(lab, undisturbed, REINFORCE)
    assert published(lab, job, REINFORCE, 2) == published(lab, undisturbed, REINFORCE)


def test_one_process_goes_on_where_two_were(lab: Lab, undisturbed: ResolvedJob, killed: ResolvedJob) -> None:
    """The epoch after the checkpoint draws the same prompts and pictures: its scores differ by rounding alone."""
    job = going_on(lab, killed, 1)
    lab.run(job, REINFORCE, attempt=2)
    alone, both = report(lab, job, REINFORCE, 2), report(lab, undisturbed, REINFORCE)
    assert alone["world_size"] == 1
    assert len(alone["epochs"]) == 4
    assert alone["epochs"][0] == both["epochs"][0]
    # What rollouts show of the adapter after two epochs stands beside the numbers of the second.
    for name, value in both["epochs"][1].items():
        assert alone["epochs"][1][name] == pytest.approx(value, rel=1e-4), name
    for name in ("reward_mean", "reward_std", "reward/clip-score"):
        assert alone["epochs"][2][name] == pytest.approx(both["epochs"][2][name], rel=1e-3), name
    other = both["epochs"][1]["reward_std"]
    assert both["epochs"][2]["reward_std"] != pytest.approx(other, rel=1e-3), "another epoch's would be told apart"


def test_three_processes_go_on_where_two_were(lab: Lab, undisturbed: ResolvedJob, killed: ResolvedJob) -> None:
    job = going_on(lab, killed, 3)
    with lab.gang(job, REINFORCE, world_size=3, attempt=2):
        pass
    more, both = report(lab, job, REINFORCE, 2), report(lab, undisturbed, REINFORCE)
    assert len(more["epochs"]) == 4
    assert more["epochs"][2]["reward_mean"] == pytest.approx(both["epochs"][2]["reward_mean"], rel=1e-3)
