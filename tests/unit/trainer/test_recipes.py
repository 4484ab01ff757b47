"""The recipes from end to end on the tiny models: what they publish, resume, guards, synchronisation."""

from __future__ import annotations

import uuid

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.adapter import WEIGHTS
from instructbooth_trainer.diffusion.conditioning import Encoding
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.recipes import evaluate, rollouts
from instructbooth_trainer.recipes.batches import prepare
from instructbooth_trainer.recipes.reinforce import Reinforce
from instructbooth_trainer.rewards import WeightedReward
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.errors import RunError, UserError
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import make_context
from tests.unit.trainer.harness import Lab, published, share_stage1
from tests.unit.trainer.second_stage import (
    CLIP,
    IDENTITY,
    PERSONALIZE,
    REINFORCE,
    Killed,
    kill_at_update,
    report,
    second_stage,
    stage_object,
)


def test_personalize_publishes_adapter_numbers_and_samples(lab: Lab, personalized: ResolvedJob) -> None:
    folder = lab.output(personalized, PERSONALIZE)
    assert {path.name for path in folder.iterdir()} >= {WEIGHTS, "personalize.json", "samples.png"}
    losses = report(lab, personalized, PERSONALIZE)["loss"]
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])


def test_personalize_goes_on_bit_for_bit(lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = lab.job("killed-1")
    with monkeypatch.context() as patch:
        kill_at_update(patch, 12)
        with pytest.raises(Killed):
            lab.run(job, PERSONALIZE)
    lab.run(job, PERSONALIZE, attempt=2)
    assert published(lab, job, PERSONALIZE, 2) == published(lab, personalized, PERSONALIZE)
    assert report(lab, job, PERSONALIZE, 2)["loss"] == report(lab, personalized, PERSONALIZE)["loss"]


def test_prior_preservation_matters_and_may_be_left_out(lab: Lab, personalized: ResolvedJob) -> None:
    job = lab.job("no-prior", personalization={"steps": 3, "priorPreservation": {"weight": 0}})
    lab.run(job, PERSONALIZE)
    assert report(lab, job, PERSONALIZE)["loss"] != report(lab, personalized, PERSONALIZE)["loss"][:3]


def test_min_snr_weights_reach_the_loss(lab: Lab, personalized: ResolvedJob) -> None:
    job = lab.job("min-snr", personalization={"steps": 3, "minSnrGamma": 5})
    lab.run(job, PERSONALIZE)
    weighed, even = report(lab, job, PERSONALIZE)["loss"][0], report(lab, personalized, PERSONALIZE)["loss"][0]
    assert 0 < weighed < even  # the first step has the same rows, and no weight is above 1


def test_flip_adds_the_mirrored_pictures(lab: Lab) -> None:
    job = lab.job("flip", personalization={"steps": 1, "flip": True})
    pod = PodEnvironment(job, PERSONALIZE, 1, {}, 0, None, local=True, workdir=lab.root)
    with lab.environment():
        run = make_context(pod, StopFlag())
        model = DiffusionModel.load(
            run.model_folder(job.spec.model.source),
            family=job.spec.model.family,
            dtype="fp32",
            device=torch.device("cpu"),
            resolution=None,
        )
        pictures = run.subject_images()
        expected = model.encode_images([*pictures, *(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in pictures)])
        (bucket,) = prepare(run, model).subject
        found = bucket.latents
    assert torch.equal(found, expected)
    assert not torch.equal(found[: len(pictures)], found[len(pictures) :])


def test_text_encoder_is_trained_and_survives_stage_2(lab: Lab) -> None:
    changes = {"personalization": {"steps": 3, "trainTextEncoder": True}, "reinforcement": {"epochs": 1}}
    job = lab.job("text-encoder", **changes)
    lab.run(job, PERSONALIZE)
    lab.run(job, REINFORCE)
    first = load_file(lab.output(job, PERSONALIZE) / WEIGHTS)
    second = load_file(lab.output(job, REINFORCE) / WEIGHTS)
    text = [name for name in first if name.startswith("text_encoder.") and "lora_B" in name]
    assert text
    assert any(float(first[name].abs().max()) > 0 for name in text)
    assert all(torch.equal(first[name], second[name]) for name in text)
    assert any(not torch.equal(first[name], second[name]) for name in first if name.startswith("unet."))


def test_half_precision_runs_both_stages(lab: Lab) -> None:
    job = lab.job("bf16", personalization={"steps": 2}, reinforcement={"epochs": 1})
    job = job.model_copy(
        update={"spec": job.spec.model_copy(update={"model": job.spec.model.model_copy(update={"dtype": "bf16"})})}
    )
    lab.run(job, PERSONALIZE)
    lab.run(job, REINFORCE)
    assert report(lab, job, REINFORCE)["epochs"][0]["grad_norm"] > 0


def test_reinforce_goes_on_bit_for_bit(lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = {"prompts": {"inline": ["a {subject}"]}, "intervalEpochs": 1}
    whole = second_stage(lab, personalized, earlyStopping=stopping)
    lab.run(whole, REINFORCE)
    assert len(report(lab, whole, REINFORCE)["epochs"]) == 5
    job = second_stage(lab, personalized, earlyStopping=stopping)
    with monkeypatch.context() as patch:
        kill_at_update(patch, 15)  # in the fourth epoch; the checkpoint is of the second
        with pytest.raises(Killed):
            lab.run(job, REINFORCE)
    lab.run(job, REINFORCE, attempt=2)
    assert published(lab, job, REINFORCE, 2) == published(lab, whole, REINFORCE)
    assert report(lab, job, REINFORCE, 2) == report(lab, whole, REINFORCE)


def test_pairs_cover_the_transitions_of_the_rollout(lab: Lab, personalized: ResolvedJob) -> None:
    stage = stage_object(lab, second_stage(lab, personalized))
    pairs, scores = stage.rollouts.collect(0)
    assert scores.shape == (1, 12)
    assert len(pairs.steps) == 24
    assert int(pairs.steps.max()) < 3, "the last step is left out"
    # x_{t-1} lies a standard normal's distance from mu: its squared distance in sigmas averages to 1.
    _, mean = stage.log_prob(pairs, torch.arange(24))
    z = (pairs.next_latents - mean) / stage.schedule.sigma[pairs.steps].view(-1, 1, 1, 1)
    assert float(z.pow(2).mean()) == pytest.approx(1.0, abs=0.1)
    # Groups of four pictures: advantages of each sum to zero.
    assert float(pairs.advantages.view(3, 8).sum(dim=1).abs().max()) < 1e-4


def test_scoring_behind_the_drawing_changes_no_bit(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"prompts": {"inline": ["a {subject}", "the {subject}"]}}
    stage = stage_object(lab, second_stage(lab, personalized, earlyStopping=stopping))
    monkeypatch.setattr(rollouts, "sampling_batch", lambda resolution: 5)  # 12 pictures: 5 + 5 + 2
    pairs, scores = stage.rollouts.collect(0)
    validated = stage.rollouts.validate(3).scores
    assert validated.shape == (1, 6)
    monkeypatch.setattr(rollouts, "one_behind", map)
    expected, wanted = stage.rollouts.collect(0)
    assert torch.equal(scores, wanted)
    assert torch.equal(pairs.advantages, expected.advantages)
    assert torch.equal(pairs.latents, expected.latents)
    assert torch.equal(validated, stage.rollouts.validate(3).scores)


@pytest.mark.parametrize(("phrase", "noun"), [("className", "mascot"), ("description", "striped star mascot")])
def test_what_is_drawn_and_what_rewards_read(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch, phrase: str, noun: str
) -> None:
    """Never the identifier, and of prompts without one what those prompts say."""
    prompts = {"inline": ["a {subject} on red", "a red ball"]}
    stage = stage_object(lab, second_stage(lab, personalized, identifierFreePhrase=phrase, prompts=prompts))
    read: set[tuple[str, bool]] = set()
    drawn: set[str] = set()
    original, encode = stage.rollouts.reward.__call__, stage.model.encode_prompts

    def spy(images: torch.Tensor, prompts: list[str], asked: list[bool]) -> torch.Tensor:
        read.update(zip(prompts, asked, strict=True))
        return original(images, prompts, asked)

    def encode_spy(prompts: list[str]) -> Encoding:
        drawn.update(prompts)
        return encode(prompts)

    monkeypatch.setattr(WeightedReward, "__call__", lambda self, *given: spy(*given))
    monkeypatch.setattr(stage.model, "encode_prompts", encode_spy)
    for epoch in range(4):
        stage.rollouts.collect(epoch)
    assert drawn == {"a sks striped star mascot on red", f"a {noun} on red", "a red ball"}
    free = (f"a {noun} on red", phrase == "description")
    assert read == {("a striped star mascot on red", True), free, ("a red ball", False)}


def test_likeness_that_nobody_is_asked_for_is_refused(lab: Lab, personalized: ResolvedJob) -> None:
    def job(**changes: object) -> ResolvedJob:
        return second_stage(lab, personalized, identifierFreeShare=1, **changes)

    with pytest.raises(UserError, match=r"RewardInvalid.*subject-identity.*identifierFreeShare is 1"):
        stage_object(lab, job(rewards=[CLIP, IDENTITY]))
    stage_object(lab, job(rewards=[CLIP, IDENTITY], identifierFreePhrase="description"))
    stage_object(lab, job(rewards=[CLIP, {**IDENTITY, "weight": 0}]))


def test_early_stopping_keeps_the_best_adapter(lab: Lab, personalized: ResolvedJob) -> None:
    stopping = {"prompts": {"inline": ["a {subject}"]}, "intervalEpochs": 1, "patience": 2, "minDelta": 10}
    job = second_stage(lab, personalized, earlyStopping=stopping)
    lab.run(job, REINFORCE)
    numbers = report(lab, job, REINFORCE)
    assert len(numbers["epochs"]) == 2
    assert "2 validations" in numbers["stopped"]
    assert published(lab, job, REINFORCE) == published(lab, personalized, PERSONALIZE)


def test_normalising_the_only_part_changes_no_advantage_and_no_number(lab: Lab, personalized: ResolvedJob) -> None:
    """Advantages are free of the reward's unit and origin, and what is told of the epoch is raw."""
    raw, normal = (
        stage_object(lab, second_stage(lab, personalized, rewards=[{**CLIP, "normalize": normalize, "weight": 100}]))
        for normalize in (False, True)
    )
    (pairs, scores), (theirs, _) = raw.rollouts.collect(0), normal.rollouts.collect(0)
    torch.testing.assert_close(pairs.advantages, theirs.advantages, rtol=1e-3, atol=1e-3)
    assert raw.rollouts.reward.numbers(scores) == normal.rollouts.reward.numbers(scores)


def test_normalised_parts_over_two_processes(lab: Lab, personalized: ResolvedJob) -> None:
    """Normalised over the pictures of both: over those of one rank each the gradient would be another."""
    rewards = [{**CLIP, "normalize": True}, {**IDENTITY, "normalize": True, "weight": 0.5}]
    stopping = {"prompts": {"inline": ["a {subject}"]}, "intervalEpochs": 1}
    changes = {"epochs": 2, "updatesPerEpoch": 1, "promptsPerEpoch": 3, "imagesPerPrompt": 3, "rewards": rewards}
    single = second_stage(lab, personalized, **changes, earlyStopping=stopping)
    double = second_stage(lab, personalized, **changes, earlyStopping=stopping, nodes=2)
    with lab.gang(double, REINFORCE):
        lab.run(single, REINFORCE)
    ours, theirs = (report(lab, job, REINFORCE) for job in (single, double))
    first = ours["epochs"][0]
    assert first["reward_mean"] == pytest.approx(first["reward/clip-score"] + 0.5 * first["reward/subject-identity"])
    for name in ("reward/clip-score", "reward/subject-identity"):
        assert first[name] == pytest.approx(theirs["epochs"][0][name], abs=1e-5)
    assert first["grad_norm"] == pytest.approx(theirs["epochs"][0]["grad_norm"], rel=1e-3)
    # The first validation is the zero of the others.
    assert ours["validation"]["0"] == pytest.approx(0.0, abs=1e-6)
    assert ours["validation"]["1"] != 0.0
    assert len(ours["validation_scale"]) == 2


def test_the_unit_of_validations_outlasts_a_restart(
    lab: Lab, personalized: ResolvedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = {"prompts": {"inline": ["a {subject}"]}, "intervalEpochs": 1}
    changes = {"rewards": [{**CLIP, "normalize": True}], "earlyStopping": stopping, "epochs": 3}
    whole, job = (second_stage(lab, personalized, **changes) for _ in range(2))
    lab.run(whole, REINFORCE)
    with monkeypatch.context() as patch:
        kill_at_update(patch, 10)  # in the third epoch; the checkpoint is of the second
        with pytest.raises(Killed):
            lab.run(job, REINFORCE)
    lab.run(job, REINFORCE, attempt=2)
    assert report(lab, job, REINFORCE, 2) == report(lab, whole, REINFORCE)


def test_a_ruined_gradient_ends_the_run(lab: Lab, personalized: ResolvedJob) -> None:
    stage = stage_object(lab, second_stage(lab, personalized))
    before = stage.adapter.tensors()
    stage.optimizer.backward(sum(p.sum() for p in stage.adapter.parameters()) * torch.tensor(float("nan")))
    with pytest.raises(RunError, match="GradientNotFinite"):
        stage.optimizer.step(1, 0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage.adapter.tensors().items())


def test_gang_of_two_is_one_process_split(lab: Lab, personalized: ResolvedJob) -> None:
    """Same pictures, same advantages, same summed gradient: only rounding tells two processes from one."""
    changes = {"epochs": 2, "updatesPerEpoch": 1, "promptsPerEpoch": 3, "imagesPerPrompt": 3}  # 9 pictures: 5 + 4
    single = second_stage(lab, personalized, **changes)
    double = second_stage(lab, personalized, **changes, nodes=2)
    with lab.gang(double, REINFORCE):
        lab.run(single, REINFORCE)
    ours, theirs = (report(lab, job, REINFORCE)["epochs"][0] for job in (single, double))
    assert ours["reward_mean"] == pytest.approx(theirs["reward_mean"], abs=1e-5)
    assert ours["reward_std"] == pytest.approx(theirs["reward_std"], abs=1e-5)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_more_updates_than_pairs_change_nothing(lab: Lab, personalized: ResolvedJob) -> None:
    stage = stage_object(lab, second_stage(lab, personalized, updatesPerEpoch=100))
    pairs, _ = stage.rollouts.collect(0)
    assert len(pairs.steps) == 24
    numbers = stage.train(pairs, 0)
    assert all(value == value for value in numbers.values())


def test_fewer_pictures_than_processes_is_the_users_error(lab: Lab, personalized: ResolvedJob) -> None:
    job = second_stage(lab, personalized, promptsPerEpoch=1, imagesPerPrompt=2)
    stage = stage_object(lab, job)
    stage.run.gang.world_size = 3
    with pytest.raises(UserError, match=r"TooFewImages.*2 pictures.*3 processes"):
        Reinforce(stage.run)


LONG = "a {subject} " + "on red " * 20


def test_a_prompt_that_is_too_long_is_told_before_the_first_picture(lab: Lab, personalized: ResolvedJob) -> None:
    short = ["a {subject}", "the {subject}", "a red {subject}"]
    job = second_stage(lab, personalized, prompts={"inline": [*short, LONG]}, promptsPerEpoch=1)
    with pytest.raises(UserError, match="PromptTooLong"):
        stage_object(lab, job)


def test_the_evaluation_drops_no_words_of_a_prompt(lab: Lab, personalized: ResolvedJob) -> None:
    """The stock pipeline would, with no more than a line in the log."""
    clip = {"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}, "params": {"longPrompts": "truncate"}}
    evaluation = {"prompts": {"inline": ["a {subject}", LONG]}, "metrics": [clip]}
    job = share_stage1(lab, personalized, lab.job(uuid.uuid4().hex, evaluation=evaluation))
    reinforced = lab.output(job, REINFORCE)
    reinforced.parent.mkdir(parents=True)
    reinforced.symlink_to(lab.output(job, PERSONALIZE))
    workdir = lab.root / uuid.uuid4().hex
    workdir.mkdir()
    pod = PodEnvironment(job, Stage.EVALUATE, 1, {PERSONALIZE: 1, REINFORCE: 1}, 0, None, local=True, workdir=workdir)
    with lab.environment():
        context = make_context(pod, StopFlag())
    with pytest.raises(UserError, match="PromptTooLong"):
        evaluate.run(context)
    assert context.progress.current.step == 0
