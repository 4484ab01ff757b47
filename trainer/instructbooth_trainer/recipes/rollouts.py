"""Rollouts of the policy: pictures drawn, scored, and compared within their group over all ranks.

Picture number n of an epoch belongs to rank n mod world size. Only scores travel between ranks, never pictures; parts
of the reward are normalised and summed once all of them are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instructbooth.contract import PromptRole
from instructbooth_trainer.algorithms.advantages import group_advantages
from instructbooth_trainer.algorithms.schedule import choose_timesteps, schedule_prompts
from instructbooth_trainer.diffusion.conditioning import Conditioning
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.prompts import expand, reward_text
from instructbooth_trainer.diffusion.sampling import conditioning_for, sample, sampling_batch
from instructbooth_trainer.diffusion.schedule import Schedule
from instructbooth_trainer.recipes.behind import one_behind
from instructbooth_trainer.rewards import RewardContext, WeightedReward
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.errors import UserError


@dataclass(frozen=True)
class Pairs:
    """This rank's (latent, timestep) pairs of one epoch.

    Attributes:
        latents: x_t, [pairs, *latent_shape].
        next_latents: x_{t-1}, same shape.
        steps: index into the schedule, [pairs].
        advantages: [pairs].
        conditioning: what the policy read, a row per pair.
    """

    latents: Tensor
    next_latents: Tensor
    steps: Tensor
    advantages: Tensor
    conditioning: Conditioning


class Rollouts:
    """Draws for one process of the stage; all methods are collective.

    Attributes:
        reward: what pictures are scored by.
        schedule: the stochastic steps of the policy.
        prompts: templates the policy is trained on.
        validation: templates for early stopping; empty without it.
    """

    def __init__(self, run: RunContext, model: DiffusionModel) -> None:
        """Load rewards and prompts.

        Raises:
            UserError: `TooFewImages` when some rank would have nothing to draw, `PromptTooLong`; what the rewards and
                prompts raise.
        """
        job = run.job.spec
        self._run, self._model, self._spec, self._subject = run, model, job.reinforcement, job.subject
        images = self._spec.prompts_per_epoch * self._spec.images_per_prompt
        if images < run.gang.world_size:
            raise UserError(
                "TooFewImages",
                f"spec.reinforcement: promptsPerEpoch x imagesPerPrompt = {images} pictures cannot be split over "
                f"{run.gang.world_size} processes; draw more or use fewer nodes",
            )
        context = RewardContext(run.model_folder, run.subject_images(), str(model.device), job.model.dtype)
        self.reward = WeightedReward.load(self._spec.rewards, context)
        self.prompts = run.prompts(self._spec.prompts, PromptRole.REINFORCEMENT)
        stopping = self._spec.early_stopping
        self.validation = run.prompts(stopping.prompts, PromptRole.VALIDATION) if stopping else []
        # Now, and not in the epoch that draws it.
        model.check_prompts([expand(t, job.subject, identifier=True) for t in (*self.prompts, *self.validation)])
        self.schedule = model.schedule(self._spec.sampling.steps, self._spec.eta)

    def _draw(
        self, texts: Sequence[str], judged: Sequence[str], schedule: Schedule, *key: int | str
    ) -> tuple[Tensor, list[int], list[Tensor], list[Conditioning]]:
        """Draw and score one picture per text, split over the ranks; a batch is scored while the next is drawn.

        Collective.

        Returns:
            raw scores of all pictures, [parts, num], equal on all ranks; the numbers of this rank's pictures; per
            batch of them the trajectories [num_steps + 1, batch, *latent_shape] and the conditioning.
        """
        mine = list(range(self._run.gang.rank, len(texts), self._run.gang.world_size))
        scores = torch.zeros(len(self.reward.names), len(texts), device=self._model.device)
        trajectories: list[Tensor] = []
        conditionings: list[Conditioning] = []
        size = sampling_batch(self._model.resolution)
        batches = [mine[first : first + size] for first in range(0, len(mine), size)]

        def pictures() -> Iterator[tuple[Tensor, list[str]]]:
            for numbers in batches:
                unique = list(dict.fromkeys(texts[n] for n in numbers))
                index = torch.tensor([unique.index(texts[n]) for n in numbers], device=self._model.device)
                conditioning = conditioning_for(self._model, unique, self._spec.sampling.guidance_scale).rows(index)
                generators = [keyed_generator(self._spec.seed, *key, n) for n in numbers]
                trajectory = sample(self._model, schedule, conditioning, generators)
                trajectories.append(trajectory)
                conditionings.append(conditioning)
                self._run.progress.beat()
                yield self._model.decode(trajectory[-1]), [judged[n] for n in numbers]

        for numbers, batch in zip(batches, one_behind(lambda drawn: self.reward(*drawn), pictures()), strict=True):
            scores[:, torch.tensor(numbers)] = batch.to(self._model.device)
            self._run.progress.beat()
        everybodys: Tensor = self._run.accelerator.reduce(scores, reduction="sum")
        return everybodys.cpu(), mine, trajectories, conditionings

    def collect(self, epoch: int) -> tuple[Pairs, Tensor]:
        """One epoch's rollouts: this rank's pairs, and raw scores of all pictures, [parts, num_images]. Collective."""
        spec, size = self._spec, self._spec.images_per_prompt
        chosen = schedule_prompts(
            len(self.prompts), spec.prompts_per_epoch, spec.identifier_free_share, spec.seed, epoch
        )
        templates = [self.prompts[c.prompt] for c in chosen for _ in range(size)]
        named = [c.identifier for c in chosen for _ in range(size)]
        texts = [expand(t, self._subject, identifier=i) for t, i in zip(templates, named, strict=True)]
        judged = [reward_text(t, self._subject) for t in templates]
        scores, mine, trajectories, conditionings = self._draw(texts, judged, self.schedule, "rollout", epoch)
        groups = torch.arange(len(texts)) // size
        rewards = self.reward.total(scores)
        shared = spec.advantage_std == "epoch"
        advantages = group_advantages(rewards, groups, spec.advantage_clip, shared_std=shared)
        advantages = advantages[mine].to(self._model.device)

        trajectory = torch.cat(trajectories, dim=1)
        pairs = [
            (row, step)
            for row, number in enumerate(mine)
            for step in choose_timesteps(spec.sampling.steps, spec.timesteps_per_trajectory, spec.seed, epoch, number)
        ]
        rows, steps = torch.tensor(pairs, device=self._model.device).unbind(1)
        return (
            Pairs(
                trajectory[steps, rows],
                trajectory[steps + 1, rows],
                steps,
                advantages[rows],
                Conditioning.cat(conditionings).rows(rows),
            ),
            scores,
        )

    def validate(self, images_per_prompt: int) -> Tensor:
        """Raw scores of the validation prompts, [parts, num_images]. Collective.

        Pictures are drawn without noise in the steps, from the same noise every time.
        """
        templates = [template for template in self.validation for _ in range(images_per_prompt)]
        texts = [expand(template, self._subject, identifier=True) for template in templates]
        judged = [reward_text(template, self._subject) for template in templates]
        schedule = self._model.schedule(self._spec.sampling.steps, eta=0.0)
        return self._draw(texts, judged, schedule, "validation")[0]
