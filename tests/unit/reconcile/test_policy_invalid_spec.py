"""What podTemplate may not take from the operator: each mistake is named by its field, with the way out."""

from __future__ import annotations

from typing import Any

import pytest

from instructbooth.reconcile.policies.invalid_spec import conflicts
from instructbooth.spec.job import ResolvedJob
from tests.unit.reconcile.world import job_object


def hub(secret: str = "hub") -> dict[str, Any]:
    return {"hub": {"repo": "org/clip", "revision": "0" * 40, "tokenSecretRef": {"name": secret, "key": "token"}}}


def rewards(*secrets: str) -> dict[str, Any]:
    return {"rewards": [{"name": "clip-score", "model": hub(secret)} for secret in secrets]}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"podTemplate": {"env": [{"name": "HF_TOKEN", "value": "x"}]}}, []),
        ({"reinforcement": rewards("hub", "hub")}, []),
        (
            {"podTemplate": {"env": [{"name": "A", "value": "1"}, {"name": "HOME", "value": "/"}]}},
            ["spec.podTemplate.env[1].name: HOME is set by the operator; remove it"],
        ),
        (
            {"podTemplate": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
            ["spec.podTemplate.env: A is there 2 times; leave one"],
        ),
        (
            {
                "podTemplate": {"env": [{"name": "A", "value": "1"}, {"name": "HF_TOKEN", "value": "x"}]},
                "reinforcement": rewards("hub"),
            },
            [
                "spec.podTemplate.env[1].name: HF_TOKEN is what spec.reinforcement.rewards[0].model.hub.tokenSecretRef "
                "becomes in the pod; leave one of the two"
            ],
        ),
        (
            {"reinforcement": rewards("hub", "other")},
            [
                "spec.reinforcement.rewards[0].model.hub.tokenSecretRef, "
                "spec.reinforcement.rewards[1].model.hub.tokenSecretRef: differ, "
                "but a pod has one token for the hub; use one that may read all"
            ],
        ),
        (
            {"podTemplate": {"volumes": [{"name": "ib-x", "emptyDir": {}}]}},
            ["spec.podTemplate.volumes[0].name: names that begin with ib- are the operator's"],
        ),
        (
            {"podTemplate": {"labels": {"instructbooth.io/job": "x"}}},
            ["spec.podTemplate.labels: instructbooth.io/job is the operator's; remove it"],
        ),
    ],
)
def test_what_is_taken_from_the_operator(changes: dict[str, Any], lines: list[str]) -> None:
    assert conflicts(ResolvedJob.from_object(job_object("mascot", **changes)).spec) == lines
