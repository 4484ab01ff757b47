"""Each guard is seen to fire, says so everywhere, and leaves an adapter that was within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.recipes import rollouts
from instructbooth_trainer.recipes.judges import IDENTITY, Judges, Verdict
from instructbooth_trainer.rewards.base import Part, WeightedReward
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.progress import ProgressReporter
from tests.unit.trainer import second_stage as stages
from tests.unit.trainer.harness import Lab, published
from tests.unit.trainer.second_stage import PERSONALIZE, REINFORCE, report, second_stage

SCORE = stages.IDENTITY
HELD_OUT = {"prompts": {"inline": ["a {subject}"]}, "intervalEpochs": 1}


def scripted(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Let the identity guard measure these values, one after the other."""
    left, original = iter(values), Judges.verdict

    def verdict(self: Judges, columns: Tensor, groups: Tensor, identified: Sequence[bool]) -> Verdict:
        usual = original(self, columns, groups, identified)
        return Verdict(usual.scores, {IDENTITY: next(left)}) if usual.measured else usual

    monkeypatch.setattr(Judges, "verdict", verdict)


def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The metrics of progress, as they are told from now on."""
    metrics: dict[str, float] = {}
    original = ProgressReporter.update

    def update(self: ProgressReporter, step: int, **numbers: float) -> None:
        metrics.update(numbers)
        original(self, step, **numbers)

    monkeypatch.setattr(ProgressReporter, "update", update)
    return metrics


def after_epochs(lab: Lab, personalized: ResolvedJob, epochs: int, **changes: Any) -> bytes:
    """The adapter that an unguarded run has after so many epochs."""
    job = second_stage(lab, personalized, epochs=epochs, **changes)
    lab.run(job, REINFORCE)
    return published(lab, job, REINFORCE)


def test_kl_ceiling_keeps_the_last_good_adapter(lab: Lab, personalized: ResolvedJob) -> None:
    job = second_stage(lab, personalized, guards={"klCeiling": 1e-12})
    outcome = lab.run(job, REINFORCE)
    numbers = report(lab, job, REINFORCE)
    assert len(numbers["epochs"]) == 1
    assert "guards.klCeiling" in numbers["stopped"]
    assert outcome.message == numbers["stopped"]
    assert published(lab, job, REINFORCE) == published(lab, personalized, PERSONALIZE)
    assert outcome.metrics == {"epochs": 0.0}, "the numbers of an adapter that was rejected"


def test_a_blow_up_within_one_epoch_is_seen_at_its_end(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update: all pairs are seen before it, when the policy is still its reference and the mean KL is 0."""
    metrics = told(monkeypatch)
    job = second_stage(lab, personalized, updatesPerEpoch=1, guards={"klCeiling": 1e-9})
    lab.run(job, REINFORCE)
    numbers = report(lab, job, REINFORCE)
    (epoch,) = numbers["epochs"]
    assert epoch["kl"] == 0.0
    assert epoch["kl_end"] > 1e-9
    assert metrics["kl_end"] == epoch["kl_end"]
    assert "KL after an epoch's last update" in numbers["stopped"]
    assert published(lab, job, REINFORCE) == published(lab, personalized, PERSONALIZE)


def test_a_reward_against_the_subject_is_stopped_by_the_identity_guard(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reward hacking for real: the reward is the loss of identity, and the guard measures what it costs."""
    metrics = told(monkeypatch)
    guard = {"identity": {**SCORE, "floorShare": 1.0}}
    changes = {"rewards": [{**SCORE, "weight": -1}], "learningRate": 1e-2, "clipRange": 0.5, "epochs": 30}
    job = second_stage(lab, personalized, guards=guard, **changes)
    outcome = lab.run(job, REINFORCE)
    numbers = report(lab, job, REINFORCE)
    start, last = numbers["guards_start"][IDENTITY], numbers["epochs"][-1][IDENTITY]
    assert last < start
    assert len(numbers["epochs"]) < 30
    assert "guards.identity.floorShare 1 of" in numbers["stopped"]
    assert f"identity {last:.4g} is below {start:.4g}" in numbers["stopped"]
    assert outcome.message == numbers["stopped"]
    assert metrics[IDENTITY] == last


def test_the_last_sound_adapter_stays(lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = second_stage(lab, personalized, guards={"identity": {**SCORE, "floor": 0.4}})
    with monkeypatch.context() as patch:
        scripted(patch, [0.5, 0.45, 0.4, 0.39])  # of the adapters after 0, 1, 2 and 3 epochs
        outcome = lab.run(job, REINFORCE)
    numbers = report(lab, job, REINFORCE)
    assert [epoch[IDENTITY] for epoch in numbers["epochs"]] == [0.45, 0.4, 0.39]
    assert numbers["stopped"] == "guards.identity.floor: identity 0.39 is below 0.4 after 3 epochs"
    assert published(lab, job, REINFORCE) == after_epochs(lab, personalized, 2)
    of_it = numbers["epochs"][1]
    assert outcome.metrics["epochs"] == 2
    assert (outcome.metrics["reward_mean"], outcome.metrics[IDENTITY]) == (of_it["reward_mean"], 0.4)


def test_the_last_epochs_adapter_is_looked_at_too(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = second_stage(lab, personalized, epochs=2, guards={"identity": {**SCORE, "floorShare": 0.9}})
    with monkeypatch.context() as patch:
        scripted(patch, [0.5, 0.45, 0.44])
        lab.run(job, REINFORCE)
    assert "after 2 epochs" in report(lab, job, REINFORCE)["stopped"]
    assert published(lab, job, REINFORCE) == after_epochs(lab, personalized, 1)


def test_a_guarded_run_goes_on_bit_for_bit(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start values and the sound adapter outlast a death: the floor is still of the personalized model's."""
    guards = {"guards": {"identity": {**SCORE, "floorShare": 0.01}, "diversityFloor": 0.01, "klCeiling": 1e6}}
    whole, job = (second_stage(lab, personalized, epochs=4, **guards) for _ in range(2))
    lab.run(whole, REINFORCE)
    with monkeypatch.context() as patch:
        stages.kill_at_update(patch, 14)  # in the fourth epoch; the checkpoint is of the second
        with pytest.raises(stages.Killed):
            lab.run(job, REINFORCE)
    lab.run(job, REINFORCE, attempt=2)
    assert report(lab, job, REINFORCE, 2) == report(lab, whole, REINFORCE)
    assert published(lab, job, REINFORCE, 2) == published(lab, whole, REINFORCE)
    assert set(report(lab, whole, REINFORCE)["guards_start"]) == {"guard/identity", "guard/diversity"}


def test_copies_are_stopped_by_the_diversity_guard(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third epoch on every noise is the same noise, and so all pictures of a prompt are one."""
    original = keyed_generator

    def collapsed(*key: int | str) -> torch.Generator:
        copies = "rollout" in key and int(key[2]) >= 2
        return original(*key[:-1], 0) if copies else original(*key)

    job = second_stage(lab, personalized, guards={"diversityFloor": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "keyed_generator", collapsed)
        outcome = lab.run(job, REINFORCE)
    numbers = report(lab, job, REINFORCE)
    assert numbers["guards_start"]["guard/diversity"] > 0.001
    assert numbers["epochs"][0]["guard/diversity"] > 0.5 * numbers["guards_start"]["guard/diversity"]
    assert numbers["epochs"][1]["guard/diversity"] == pytest.approx(0.0, abs=1e-5)
    assert len(numbers["epochs"]) == 2
    assert "guards.diversityFloor 0.5 of" in outcome.message
    assert published(lab, job, REINFORCE) == after_epochs(lab, personalized, 1)


def test_validations_are_guarded_before_they_can_be_the_best(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter that the guard refuses had the highest reward; the best one within bounds is published."""
    guards = {"identity": {**SCORE, "floor": 0.4}}
    job = second_stage(lab, personalized, guards=guards, earlyStopping=HELD_OUT)
    with monkeypatch.context() as patch:
        totals, original = iter([0.1, 0.2, 0.9]), WeightedReward.total

        def total(self: WeightedReward, scores: Tensor, scale: Tensor | None = None) -> Tensor:
            rewards = original(self, scores, scale)
            return torch.full_like(rewards, next(totals)) if len(rewards) == 2 else rewards

        patch.setattr(WeightedReward, "total", total)
        scripted(patch, [0.5, 0.45, 0.39])
        lab.run(job, REINFORCE)
    numbers = report(lab, job, REINFORCE)
    assert [epoch.get(IDENTITY) for epoch in numbers["epochs"]] == [0.45, 0.39]
    assert "guards.identity.floor" in numbers["stopped"]
    assert numbers["validation"] == pytest.approx({"0": 0.1, "1": 0.2})
    assert published(lab, job, REINFORCE) == after_epochs(lab, personalized, 1)


def test_a_floor_that_the_personalized_model_does_not_reach_is_the_users_error(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for guard, value, words in (
        ({"floor": 0.6}, 0.5, "floor 0.6 is above 0.5"),
        ({"floorShare": 0.9}, -0.1, "a share of that is no floor"),
    ):
        job = second_stage(lab, personalized, guards={"identity": {**SCORE, **guard}})
        with monkeypatch.context() as patch:
            scripted(patch, [value])
            with pytest.raises(UserError, match=f"GuardInvalid.*{words}"):
                lab.run(job, REINFORCE)


def test_identity_is_measured_where_the_prompt_has_the_identifier() -> None:
    class Bright:
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return images.mean(dim=(1, 2, 3))

    judges = Judges(WeightedReward([Part("bright", 1.0, Bright())]), ("bright", Bright()), diversity=True)
    pictures = torch.stack([torch.full((3, 32, 32), value) for value in (0.1, 0.3, 0.8, 0.8)])
    columns = judges(pictures, [""] * 4, [True] * 4)
    assert columns.shape == (judges.rows, 4)
    groups = torch.tensor([0, 0, 1, 1])
    verdict = judges.verdict(columns, groups, [True, False, True, False])
    # Identity of pictures 0 and 2: (0.1 + 0.8) / 2. Diversity: 0.2 in the first group, 0 in the second.
    assert verdict.measured == pytest.approx({"guard/identity": 0.45, "guard/diversity": 0.1})
    assert IDENTITY not in judges.verdict(columns, groups, [False] * 4).measured
