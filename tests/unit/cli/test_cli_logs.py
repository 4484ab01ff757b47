"""Which pods' logs are shown, and when following ends."""

from __future__ import annotations

import pytest

from instructbooth.cli.cluster import Pod
from instructbooth.cli.logs import choose, finished, prefix
from instructbooth.cli.watch import read_status
from instructbooth.contract import Stage


def pod(stage: str, attempt: int, rank: int) -> Pod:
    return Pod(f"{stage}-{attempt}-{rank}", f"u{stage}{attempt}{rank}", stage, attempt, rank, started=True)


PODS = [
    pod("reinforce", 1, 0),
    pod("reinforce", 10, 1),
    pod("reinforce", 2, 0),
    pod("reinforce", 10, 0),
    pod("personalize", 11, 0),
    pod("", 99, 0),
]


def test_newest_attempt_of_the_latest_stage_by_rank():
    assert [p.name for p in choose(PODS, rank=None)] == ["reinforce-10-0", "reinforce-10-1"]
    assert [p.name for p in choose(PODS, rank=1)] == ["reinforce-10-1"]
    assert choose([], rank=None) == []


def test_prefix_names_stage_attempt_and_rank():
    assert prefix(pod("reinforce", 2, 1)) == "reinforce-2/1 | "


@pytest.mark.parametrize(
    ("status", "stage", "over"),
    [
        ({"phase": "Succeeded"}, None, True),
        ({"phase": "Failed"}, Stage.EVALUATE, True),
        ({"phase": "Reinforcing", "stages": [{"name": "personalize", "state": "Succeeded"}]}, None, False),
        (
            {"phase": "Reinforcing", "stages": [{"name": "personalize", "state": "Succeeded"}]},
            Stage.PERSONALIZE,
            True,
        ),
        ({"phase": "Reinforcing", "stages": [{"name": "reinforce", "state": "Restarting"}]}, Stage.REINFORCE, False),
    ],
)
def test_following_ends_with_the_stage_or_the_job(status, stage, over):
    assert finished(read_status({"status": status}), stage) is over
