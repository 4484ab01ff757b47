"""Stage 2: teach the personalized model to obey prompts again.

InstructBooth (arXiv 2312.03011) fine-tunes the personalized model by reinforcement learning on a reward for image-text
alignment, with prompts with and without the identifier. The paper published neither code nor settings; this is DDPO's
importance-sampled form (arXiv 2305.13301) with a KL to the personalized policy (DPOK, arXiv 2305.16381).

Each epoch: choose prompts, draw a group of pictures for each with the stochastic sampler, score them, compare within
the group over all ranks, and take clipped policy-gradient steps on some steps of each trajectory.

Assumptions and deviations:
- The policy goes on from stage 1's adapter, whose frozen copy is the reference. A text encoder's adapter stays as it
  is. Guidance, if any, is part of the policy: trained as sampled, unless `guidanceInTraining` is false, as in DDPO:
  then the policy that is trained is the conditional prediction alone.
- Old log-probabilities are computed again on the training path, on the batches of the first inner epoch, so that its
  first ratio is 1 whatever the dtype; those of the first update are the ones it trains on. Reference means are computed
  once per epoch, and not at all where nothing weighs or bounds the KL.
- Advantages compare with the pictures of the same prompt in this epoch on all ranks; no running buffer.
- Parts of the reward that ask for it are normalised over the epoch's pictures of all ranks before they are weighed; in
  validations by the spread of the first one, so that validations compare.
- Prompts without identifier name the class noun (`identifierFreePhrase`): a description is personalized with the
  identifier, and obeys no better. A reward reads what was asked for: of prompts with identifier the description, of the
  others their own text. Rewards that compare with the subject's pictures look only where the subject is asked for.
- Guards look at the validation pictures or, without them, at each epoch's rollouts before they are trained on; what an
  epoch's pictures show is what the epochs before have made of the adapter.
- Every random number is keyed by (seed, epoch, number of the picture): a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from instructbooth.contract import Outcome, Stage
from instructbooth_trainer.algorithms.kl import gaussian_kl
from instructbooth_trainer.algorithms.stopping import StoppingState
from instructbooth_trainer.algorithms.surrogate import clip_fraction, clipped_surrogate
from instructbooth_trainer.algorithms.weighting import part_scale
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.recipes.export import write_adapter
from instructbooth_trainer.recipes.guards import BEST_AFTER, Watch
from instructbooth_trainer.recipes.rollouts import Pairs, Rollouts
from instructbooth_trainer.recipes.training import AdapterState, SynchronizedAdamW, samples_sheet
from instructbooth_trainer.runtime.context import RunContext


class Reinforce:
    """The stage of one process: its policy, its reference and its rollouts."""

    def __init__(self, run: RunContext) -> None:
        """Load models, adapter, rewards and prompts. Collective. Raises UserError."""
        job = run.job.spec
        self.run, self.spec = run, job.reinforcement
        self.model = DiffusionModel.load(
            run.model_folder(job.model.source),
            family=job.model.family,
            dtype=job.model.dtype,
            device=run.accelerator.device,
            resolution=job.model.resolution,
        )
        self.rollouts = Rollouts(run, self.model)
        self.schedule = self.rollouts.schedule
        stage1 = job.personalization
        self.adapter = Adapter(self.model, stage1.lora, text_encoder=stage1.train_text_encoder, seed=stage1.seed)
        self.adapter.load(run.input_folder(Stage.PERSONALIZE))
        self.adapter.freeze_text_encoder()
        if self.spec.gradient_checkpointing:
            self.model.checkpoint_gradients(text_encoder=False)
        if job.model.compile:
            self.model.compile()
        if job.model.cuda_graphs:
            self.model.record()
        self.reference = self.adapter.tensors()
        self.optimizer = SynchronizedAdamW(
            run.accelerator,
            self.adapter,
            self.spec.learning_rate,
            self.spec.max_grad_norm,
            job.model.dtype,
            self.spec.weight_decay,
        )
        self.state = AdapterState(self.adapter, self.optimizer.optimizer)
        self.stopping = StoppingState()
        self.watch = Watch(self.spec.guards, self.state, self.adapter, run.progress)

    def log_prob(self, pairs: Pairs, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability [batch] and mean [batch, *latent_shape] of some pairs under the adapter in place."""
        steps, conditioning = pairs.steps[rows], pairs.conditioning.rows(rows)
        prediction = self.model.predict(pairs.latents[rows], self.schedule.timesteps[steps], conditioning)
        return self.schedule.log_prob(prediction, pairs.latents[rows], pairs.next_latents[rows], steps)

    def updates(self, num_pairs: int, epoch: int, inner: int) -> Iterator[list[Tensor]]:
        """The optimizer steps of one inner epoch, each a list of micro-batches of pair numbers. Shuffled by key."""
        generator = keyed_generator(self.spec.seed, "shuffle", epoch, inner, self.run.gang.rank)
        order = torch.randperm(num_pairs, generator=generator).to(self.model.device)
        size = self.spec.batch_size
        for update in order.tensor_split(self.spec.updates_per_epoch):
            yield [update[first : first + size] for first in range(0, len(update), size)]

    @torch.no_grad()
    def old_log_probs(self, pairs: Pairs, batches: Sequence[Tensor]) -> Tensor:
        """Log-probabilities under the adapter in place, on the training path: [pairs], 0 outside of the batches."""
        old = torch.zeros_like(pairs.advantages)
        for rows in batches:
            old[rows] = self.log_prob(pairs, rows)[0]
        return old

    @torch.no_grad()
    def reference_means(self, pairs: Pairs, batches: Sequence[Tensor]) -> Tensor:
        """Means of the personalized policy, [pairs, *latent_shape]."""
        means = torch.zeros_like(pairs.latents)
        with self.adapter.swapped(self.reference):
            for rows in batches:
                means[rows] = self.log_prob(pairs, rows)[1]
        return means

    def kl(self, pairs: Pairs, rows: Tensor, mean: Tensor, reference: Tensor) -> Tensor:
        """KL of some pairs to the personalized policy, [batch]; `reference` has the means of all pairs."""
        return gaussian_kl(mean, reference[rows], self.schedule.sigma[pairs.steps[rows]])

    def train(self, pairs: Pairs, epoch: int) -> dict[str, float]:
        """The epoch's optimizer steps; returns means over all ranks. Collective.

        Without anything that weighs or bounds the KL there is no `kl` among them, and without a bound no `kl_end`,
        which is the KL once the last update is done: within an epoch it can rise far above the mean.
        """
        spec, num_pairs = self.spec, len(pairs.steps)
        first, *later = list(self.updates(num_pairs, epoch, inner=0))
        old = self.old_log_probs(pairs, [rows for update in later for rows in update])
        batches = [rows for update in (first, *later) for rows in update]
        wants_kl = spec.kl_weight > 0 or self.watch.wants_kl
        reference = self.reference_means(pairs, batches) if wants_kl else None
        self.run.progress.beat()
        sums, steps = torch.zeros(2, device=self.model.device), []
        count = 0
        for inner in range(spec.inner_epochs):
            for number, update in enumerate(self.updates(num_pairs, epoch, inner)):
                total = torch.zeros((), device=self.model.device)
                for rows in update:
                    log_prob, mean = self.log_prob(pairs, rows)
                    if inner == 0 and number == 0:  # nothing has been updated: the policy is still the one that drew
                        old[rows] = log_prob.detach()
                    losses = clipped_surrogate(log_prob, old[rows], pairs.advantages[rows], spec.clip_range)
                    clipped = clip_fraction(log_prob.detach(), old[rows], spec.clip_range) * len(rows)
                    kl = torch.zeros_like(losses)
                    if reference is not None:
                        kl = self.kl(pairs, rows, mean, reference)
                        losses = losses + spec.kl_weight * kl
                    loss = losses.sum()
                    self.optimizer.backward(loss)
                    total += loss.detach()
                    sums += torch.stack([kl.detach().sum(), clipped])
                    count += len(rows)
                steps.append(self.optimizer.step(sum(len(rows) for rows in update), float(total)))
                self.run.progress.beat()
        end = torch.zeros((), device=self.model.device)
        if reference is not None and self.watch.wants_kl:
            with torch.no_grad():
                for rows in batches:
                    end += self.kl(pairs, rows, self.log_prob(pairs, rows)[1], reference).sum()
        numbers = torch.cat([sums, end[None], sums.new_tensor([float(count), float(num_pairs)])])
        kl_sum, clipped_sum, end_sum, seen, all_pairs = self.run.accelerator.reduce(numbers, reduction="sum").tolist()
        return {
            "loss": sum(step.loss for step in steps) / len(steps),
            "grad_norm": sum(step.grad_norm for step in steps) / len(steps),
            **({"kl": kl_sum / seen} if wants_kl else {}),
            **({"kl_end": end_sum / all_pairs} if self.watch.wants_kl else {}),
            "clip_fraction": clipped_sum / seen,
        }

    def validate(self, epoch: int) -> None:
        """Score held-out prompts on fixed noise, and keep the adapter if it is the best so far. Collective.

        Normalised parts are measured from the first validation's mean in its standard deviations: normalised by itself
        each validation would have mean 0, whatever the policy had learnt.
        """
        rule = self.spec.early_stopping
        if rule is None:
            return
        verdict, reward = self.rollouts.validate(rule.images_per_prompt), self.rollouts.reward
        if not self.watch.within(verdict.measured, epoch):
            return
        scores = verdict.scores
        scale = None
        if reward.normalizes:
            first = self.state.record.setdefault("validation_scale", part_scale(scores).tolist())
            scale = torch.tensor(first, dtype=torch.float64)
        score = float(reward.total(scores, scale).mean())
        self.stopping = self.stopping.observe(score, rule.min_delta)
        if self.stopping.improved:
            self.state.kept["best"] = self.adapter.tensors()
            self.state.record[BEST_AFTER] = epoch
        earlier = self.state.record.get("validation", {})
        assert isinstance(earlier, dict)
        self.state.record |= {
            "best": self.stopping.best,
            "waited": self.stopping.waited,
            "validation": {**earlier, str(epoch): score},
        }
        self.run.progress.update(epoch, validation_reward=score)
        if self.stopping.exhausted(rule.patience):
            self.watch.stop(f"earlyStopping.patience: no gain in {rule.patience} validations")

    def epoch(self, epoch: int) -> None:
        """One round of sampling and training, and the guards. Collective."""
        began = time.monotonic()
        drawn = self.rollouts.draw(epoch)
        scores = drawn.verdict.scores
        rule = self.spec.early_stopping
        looks = self.watch.looks and rule is None  # else at validations
        if looks and not self.watch.within_rollouts(drawn.verdict.measured, epoch):
            return
        before = self.adapter.tensors()
        numbers = self.train(self.rollouts.pairs(drawn, epoch), epoch)
        numbers |= self.rollouts.reward.numbers(scores)
        self.state.curve.append(numbers)
        speed = scores.shape[1] / (time.monotonic() - began)
        self.run.progress.update(epoch + 1, images_per_second=speed, **numbers)
        if not self.watch.within_kl(numbers, before):
            return
        if rule and ((epoch + 1) % rule.interval_epochs == 0 or epoch + 1 == self.spec.epochs):
            self.validate(epoch + 1)
        elif looks and epoch + 1 == self.spec.epochs:  # nobody has looked at the last adapter yet
            self.watch.within_rollouts(self.rollouts.draw(epoch + 1).verdict.measured, epoch + 1)

    def restore(self) -> int:
        """Go on from a checkpoint; returns the epoch to go on with. Collective."""
        self.run.start_checkpoints(self.spec.checkpoint_interval_epochs)
        start = self.run.resume(self.state)
        best, waited = self.state.record.get("best"), self.state.record.get("waited", 0)
        if isinstance(best, float):
            self.stopping = StoppingState(best=best, waited=int(str(waited)))
        return start


def run(run: RunContext) -> Outcome:
    """Reinforce the personalized model and publish the adapter."""
    stage = Reinforce(run)
    start = stage.restore()
    run.progress.start(stage.spec.epochs, "epochs", done=start)
    if start == 0:
        stage.validate(0)
    for epoch in range(start, stage.spec.epochs):
        if stage.watch.stopped:
            break
        stage.epoch(epoch)
        run.checkpoint(epoch + 1, stage.state)
    return finish(stage)


def finish(stage: Reinforce) -> Outcome:
    """Publish the best adapter where one was kept, else the last one, with its numbers, the curve and some samples."""
    run, state, spec = stage.run, stage.state, stage.spec
    if "best" in state.kept:
        stage.adapter.load_tensors(state.kept["best"])
    # Of the adapter that is published; a checkpoint of before may not know when its best one was.
    epochs = state.record.get(BEST_AFTER) if "best" in state.kept else len(state.curve)
    last = state.curve[epochs - 1] if isinstance(epochs, int) and epochs else {}
    numbers = {name: value for name, value in last.items() if name in ("reward_mean", "kl") or "/" in name}
    if isinstance(epochs, int):
        numbers["epochs"] = float(epochs)
    folder = run.workdir / "output"
    if run.gang.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        report = {
            "world_size": run.gang.world_size,
            "epochs": state.curve,
            **state.record,
            "spec": spec.to_wire(),
        }
        (folder / "reinforce.json").write_text(json.dumps(report, indent=1))
        samples_sheet(run, stage.model, folder / "samples.png", stage.rollouts.validation or stage.rollouts.prompts)
        write_adapter(run, stage.adapter, folder, numbers)
    return replace(run.publish(folder, numbers), message=stage.watch.stopped)
