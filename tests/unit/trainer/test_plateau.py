"""Early stop of stage 1: what is looked at does not jump, the best adapter is kept, and a restart changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.adapter import WEIGHTS
from instructbooth_trainer.recipes.average import AdapterAverage
from instructbooth_trainer.recipes.plateau import Plateau
from tests.unit.trainer.harness import Lab, published
from tests.unit.trainer.second_stage import Killed, kill_at_update

PERSONALIZE = Stage.PERSONALIZE
PLAIN: dict[str, Any] = {"steps": 12, "priorPreservation": {"weight": 0}, "checkpointIntervalSteps": 4}


def record(lab: Lab, job: ResolvedJob, attempt: int = 1) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((lab.output(job, PERSONALIZE, attempt) / "personalize.json").read_text())
    return content


def test_the_best_adapter_is_published_once_nothing_falls(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([1.0, 0.5, 0.49, 0.6])  # after 2, 4, 6 and 8 steps; a fall of 0.01 does not count
    monkeypatch.setattr(Plateau, "loss", lambda self: next(seen))
    weights: list[dict[str, Tensor]] = []
    original = AdapterAverage.update

    def watching(self: AdapterAverage, step: int) -> None:
        weights.append(self._adapter.tensors())
        original(self, step)

    monkeypatch.setattr(AdapterAverage, "update", watching)
    rule = {"intervalSteps": 2, "patience": 2, "minDelta": 0.1}
    job = lab.job("plateau", personalization=PLAIN | {"earlyStopping": rule})
    outcome = lab.run(job, PERSONALIZE)
    found = record(lab, job)
    assert len(found["loss"]) == len(weights) == 8
    assert outcome.metrics["loss"] == pytest.approx(sum(found["loss"][:4]) / 4), "of the adapter that is published"
    assert found["early_stopping"]["losses"] == {"2": 1.0, "4": 0.5, "6": 0.49, "8": 0.6}
    assert found["early_stopping"]["best"] == 0.5
    assert "after 8 steps: 2 looks brought no loss below 0.5" in found["early_stopping"]["stopped"]
    file = load_file(lab.output(job, PERSONALIZE) / WEIGHTS)
    assert all(torch.equal(file[name], tensor) for name, tensor in weights[3].items())


def test_looks_are_at_the_same_noise_and_change_no_step(lab: Lab) -> None:
    """With a rate of nothing every look is the same; with and without looks the losses of the steps are."""
    still = lab.job(
        "still", personalization=PLAIN | {"steps": 4, "learningRate": 1e-12, "earlyStopping": {"intervalSteps": 1}}
    )
    lab.run(still, PERSONALIZE)
    looks = list(record(lab, still)["early_stopping"]["losses"].values())
    assert looks == pytest.approx([looks[0]] * 4, rel=1e-5)
    assert max(record(lab, still)["loss"]) - min(record(lab, still)["loss"]) > 0.01, "the steps' own losses jump"
    plain, looked = (
        lab.job(f"looks-{bool(change)}", personalization=PLAIN | {"steps": 4} | change)
        for change in ({}, {"earlyStopping": {"intervalSteps": 1}})
    )
    for job in (plain, looked):
        lab.run(job, PERSONALIZE)
    assert record(lab, looked)["loss"] == record(lab, plain)["loss"]
    losses = list(record(lab, looked)["early_stopping"]["losses"].values())
    assert losses[-1] < losses[0], "it learns"


def test_there_is_a_look_after_the_last_step(lab: Lab) -> None:
    rule = {"intervalSteps": 100}
    job = lab.job("last-look", personalization=PLAIN | {"steps": 2, "earlyStopping": rule})
    lab.run(job, PERSONALIZE)
    assert list(record(lab, job)["early_stopping"]["losses"]) == ["2"]


def test_it_stops_at_the_same_step_after_a_restart(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"intervalSteps": 2, "patience": 3, "minDelta": 10}  # nothing falls by 10: over after 8 steps
    whole, killed = (lab.job(f"stop-{n}", personalization=PLAIN | {"earlyStopping": rule}) for n in range(2))
    lab.run(whole, PERSONALIZE)
    with monkeypatch.context() as patch:
        kill_at_update(patch, 7)
        with pytest.raises(Killed):
            lab.run(killed, PERSONALIZE)
    lab.run(killed, PERSONALIZE, attempt=2)
    assert len(record(lab, whole)["loss"]) == 8
    assert record(lab, killed, 2) == record(lab, whole)
    assert published(lab, killed, PERSONALIZE, 2) == published(lab, whole, PERSONALIZE)
