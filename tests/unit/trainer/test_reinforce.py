"""Reinforcement's own matters: the policy that is trained, its steps, its prompts, and what an epoch computes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.stages import Dtype
from instructbooth_trainer.algorithms.surrogate import clipped_surrogate
from instructbooth_trainer.diffusion.conditioning import Conditioning
from instructbooth_trainer.diffusion.flow import FlowSchedule
from instructbooth_trainer.recipes import reinforce
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.second_stage import REINFORCE, report, second_stage, stage_object

GUIDED = {"steps": 4, "guidanceScale": 2}


@pytest.mark.parametrize(("guided", "dtype"), [(True, "fp32"), (False, "fp32"), (True, "bf16")])
def test_the_first_ratio_is_exactly_one(lab: Lab, personalized: ResolvedJob, guided: bool, dtype: Dtype) -> None:
    job = second_stage(lab, personalized, sampling=GUIDED, guidanceInTraining=guided)
    model = job.spec.model.model_copy(update={"dtype": dtype})
    stage = stage_object(lab, job.model_copy(update={"spec": job.spec.model_copy(update={"model": model})}))
    pairs, _ = stage.rollouts.collect(0)
    batches = [rows for update in stage.updates(len(pairs.steps), 0, inner=0) for rows in update]
    old, reference = stage.old_log_probs(pairs, batches), stage.reference_means(pairs, batches)
    for rows in batches:
        log_prob, mean = stage.log_prob(pairs, rows)
        assert log_prob.requires_grad
        assert torch.equal((log_prob - old[rows]).exp(), torch.ones(len(rows)))
        assert torch.equal(mean, reference[rows]), "before the first update the policy is its reference"


def test_guidance_may_be_left_out_of_training(lab: Lab, personalized: ResolvedJob) -> None:
    """The pictures are the same, drawn with guidance; what is trained on them is the conditional prediction."""
    stages = [
        stage_object(lab, second_stage(lab, personalized, sampling=GUIDED, guidanceInTraining=guided))
        for guided in (True, False)
    ]
    (guided, scores), (plain, same) = (stage.rollouts.collect(0) for stage in stages)
    assert torch.equal(scores, same)
    assert torch.equal(guided.latents, plain.latents)
    assert guided.conditioning.guidance == 2
    assert plain.conditioning.empty is None
    rows = torch.arange(5)
    with torch.no_grad():
        timesteps = stages[1].schedule.timesteps[plain.steps[rows]]
        alone = stages[1].model.forward(plain.latents[rows], timesteps, plain.conditioning.rows(rows).encoding, 1.0)
        _, mean = stages[1].log_prob(plain, rows)
        _, theirs = stages[0].log_prob(guided, rows)
    assert torch.equal(mean, stages[1].schedule.mean(alone, plain.latents[rows], plain.steps[rows]))
    assert not torch.allclose(mean, theirs)


def test_a_model_that_is_told_its_guidance_keeps_it() -> None:
    told = Conditioning({"states": torch.zeros(1, 2)}, None, 3.5)
    assert told.conditional() is told


def test_a_window_is_noisy_inside_and_deterministic_outside(lab: Lab, personalized: ResolvedJob) -> None:
    window = {"start": 1, "end": 3, "intervalEpochs": 2}
    changes = {"sampling": {"steps": 6, "guidanceScale": 1}, "timestepsPerTrajectory": 1, "timestepWindow": window}
    stage = stage_object(lab, second_stage(lab, personalized, **changes))
    for epoch, noisy in ((0, {1, 2}), (1, {1, 2}), (2, {2, 3}), (4, {3, 4}), (6, {1, 2})):
        drawn = stage.rollouts.draw(epoch)
        pairs = stage.rollouts.pairs(drawn, epoch)
        assert set(pairs.steps.tolist()) == noisy
        assert len(pairs.steps) == 12, "one step of each picture"
        for step in range(6):
            latents, steps = drawn.trajectories[step], torch.full((12,), step)
            with torch.no_grad():
                prediction = stage.model.predict(latents, stage.schedule.timesteps[steps], drawn.conditioning)
            quiet = stage.model.schedule(6, eta=0.0).mean(prediction, latents, steps)
            assert torch.allclose(drawn.trajectories[step + 1], quiet, atol=1e-5) is (step not in noisy)
    _, mean = stage.log_prob(pairs, torch.arange(12))
    z = (pairs.next_latents - mean.detach()) / stage.schedule.sigma[pairs.steps].view(-1, 1, 1, 1)
    assert float(z.pow(2).mean()) == pytest.approx(1.0, abs=0.15), "the log-probability is of the noise inside"


def test_a_window_of_the_flow_is_the_ode_outside() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    noisy, quiet = (
        FlowSchedule.from_times(scheduler.timesteps, scheduler.sigmas, eta, torch.device("cpu")) for eta in (0.7, 0.0)
    )
    window = noisy.stochastic_within(range(1, 3))
    generator = torch.Generator().manual_seed(0)
    latents, prediction = (torch.randn(5, 2, 4, 4, generator=generator) for _ in range(2))
    means = [schedule.mean(prediction, latents, torch.arange(5)) for schedule in (window, noisy, quiet)]
    for step in range(5):
        assert torch.equal(means[0][step], means[1 if step in (1, 2) else 2][step])
    assert (window.sigma > 0).tolist() == [False, True, True, False, False]


def test_templates_meet_their_contexts_and_weights(lab: Lab, personalized: ResolvedJob) -> None:
    prompts = {"inline": ["a {subject} {context}", "the {subject}"], "contexts": ["on red", "on blue"]}
    changes = {"promptsPerEpoch": 3, "imagesPerPrompt": 2, "promptWeights": {"the {subject}": 2}}
    stage = stage_object(lab, second_stage(lab, personalized, prompts=prompts, **changes))
    assert stage.rollouts.prompts == ["a {subject} on red", "a {subject} on blue", "the {subject}"]
    orders = [stage.rollouts.order(epoch) for epoch in range(200)]
    counts = Counter(template for order in orders for template in order.templates[::2])
    # 600 prompts by weights 1, 1, 2: 150, 150, 300, give or take 4 standard deviations of at most half a card a deck.
    assert counts["the {subject}"] == pytest.approx(300, abs=29)
    assert counts["a {subject} on red"] == pytest.approx(150, abs=29)
    assert sum(order.named.count(False) for order in orders) == 600, "the share of identifier-free ones stays"
    assert [order.templates for order in orders] == [stage.rollouts.order(epoch).templates for epoch in range(200)]
    assert all(order.groups.tolist() == [0, 0, 1, 1, 2, 2] for order in orders)


def test_a_weight_of_no_prompt_is_the_users_error(lab: Lab, personalized: ResolvedJob) -> None:
    store = lab.root / "runs" / "prompts.txt"
    store.write_text("a {subject} on red\na {subject} on blue\n")
    changes = {"prompts": {"s3": {"prefix": "prompts.txt"}}, "promptWeights": {"a {subject} on green": 2}}
    with pytest.raises(UserError, match=r"PromptsInvalid.*'a \{subject\} on green'"):
        stage_object(lab, second_stage(lab, personalized, **changes))


@pytest.mark.parametrize(("updates", "weight", "passes"), [(1, 0, 6), (1, 0.01, 12), (3, 0, 10), (3, 0.01, 16)])
def test_no_pass_is_computed_twice(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch, updates: int, weight: float, passes: int
) -> None:
    """24 pairs in batches of 4: 6 passes of training, 6 of the reference if it is weighed, and the old policy's but
    for the first update.
    """
    stage = stage_object(lab, second_stage(lab, personalized, updatesPerEpoch=updates, klWeight=weight))
    pairs, _ = stage.rollouts.collect(0)
    count, predict = 0, stage.model.predict

    def counted(*args: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return predict(*args)

    monkeypatch.setattr(stage.model, "predict", counted)
    numbers = stage.train(pairs, 0)
    assert count == passes
    assert ("kl" in numbers) is (weight > 0)
    assert "kl_end" not in numbers


def test_old_log_probabilities_are_those_before_the_first_update(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every inner epoch, and to the last bit, also where training's own pass stands for one."""
    stage = stage_object(lab, second_stage(lab, personalized, innerEpochs=2, updatesPerEpoch=2))
    pairs, _ = stage.rollouts.collect(0)
    batches = [rows for inner in range(2) for update in stage.updates(24, 0, inner) for rows in update]
    before = stage.old_log_probs(pairs, batches[: len(batches) // 2])
    seen: list[torch.Tensor] = []

    def spy(log_prob: torch.Tensor, old: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(old.clone())
        return clipped_surrogate(log_prob, old, *rest)

    monkeypatch.setattr(reinforce, "clipped_surrogate", spy)
    stage.train(pairs, 0)
    assert len(seen) == len(batches) == 12
    assert all(torch.equal(old, before[rows]) for old, rows in zip(seen, batches, strict=True))


def test_kl_weight_holds_the_policy_back(lab: Lab, personalized: ResolvedJob) -> None:
    changes = {"innerEpochs": 3, "epochs": 2, "clipRange": 0.5, "guards": {"klCeiling": 1e6}}
    jobs = [second_stage(lab, personalized, klWeight=weight, **changes) for weight in (0, 1e4)]
    for job in jobs:
        lab.run(job, REINFORCE)
    for name in ("kl", "kl_end"):
        free, held = (report(lab, job, REINFORCE)["epochs"][-1][name] for job in jobs)
        assert held < free


def test_a_rank_may_have_nothing_to_validate(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"prompts": {"inline": ["a {subject}"]}, "imagesPerPrompt": 1}
    stage = stage_object(lab, second_stage(lab, personalized, earlyStopping=stopping))
    assert stage.rollouts.validate(1).scores.shape == (1, 1)
    monkeypatch.setattr(stage.run.gang, "rank", 1)
    monkeypatch.setattr(stage.run.gang, "world_size", 2)
    assert stage.rollouts.validate(1).scores.tolist() == [[0.0]], "the score comes from the other rank"


def test_pictures_do_not_depend_on_the_number_of_ranks(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 pictures over 2 ranks, 5 + 4: each rank's are those that one process draws under these numbers."""
    stage = stage_object(lab, second_stage(lab, personalized, promptsPerEpoch=3, imagesPerPrompt=3))
    whole = stage.rollouts.draw(3)
    assert whole.mine == list(range(9))
    monkeypatch.setattr(stage.run.accelerator, "reduce", lambda tensor, reduction: tensor)
    scores = torch.zeros_like(whole.verdict.scores)
    for rank in range(2):
        monkeypatch.setattr(stage.run.gang, "rank", rank)
        monkeypatch.setattr(stage.run.gang, "world_size", 2)
        drawn = stage.rollouts.draw(3)
        assert drawn.mine == list(range(rank, 9, 2))
        torch.testing.assert_close(drawn.trajectories, whole.trajectories[:, drawn.mine], rtol=1e-3, atol=1e-4)
        scores += drawn.verdict.scores
    torch.testing.assert_close(scores, whole.verdict.scores, rtol=1e-3, atol=1e-4)
