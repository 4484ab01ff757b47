"""What tests of the second stage share: jobs whose first stage is done, the stage's object, a death on the way."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.recipes.reinforce import Reinforce
from instructbooth_trainer.recipes.training import SynchronizedAdamW
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import make_context
from tests.unit.trainer.harness import Lab, share_stage1

PERSONALIZE, REINFORCE = Stage.PERSONALIZE, Stage.REINFORCE
CLIP = {"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}}
IDENTITY = {"name": "subject-identity", "model": {"s3": {"prefix": "models/vision"}}}


class Killed(Exception):
    """Stands for a SIGKILL: nothing is saved on the way out."""


def kill_at_update(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Die in the optimizer step with this number, counted from 1."""
    original, count = SynchronizedAdamW.step, 0

    def step(self: SynchronizedAdamW, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SynchronizedAdamW, "step", step)


def second_stage(lab: Lab, personalized: ResolvedJob, **reinforcement: Any) -> ResolvedJob:
    return share_stage1(lab, personalized, lab.job(uuid.uuid4().hex, reinforcement=reinforcement))


def report(lab: Lab, job: ResolvedJob, stage: Stage, attempt: int = 1) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((lab.output(job, stage, attempt) / f"{stage.value}.json").read_text())
    return content


def stage_object(lab: Lab, job: ResolvedJob) -> Reinforce:
    workdir = lab.root / uuid.uuid4().hex
    workdir.mkdir()
    pod = PodEnvironment(job, REINFORCE, 1, {PERSONALIZE: 1}, 0, None, local=True, workdir=workdir)
    with lab.environment():
        return Reinforce(make_context(pod, StopFlag()))
