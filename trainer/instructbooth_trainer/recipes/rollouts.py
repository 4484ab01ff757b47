"""Rollouts of the policy: pictures drawn, scored, and compared within their group over all ranks.

Picture number n of an epoch belongs to rank n mod world size. Only scores travel between ranks, and thumbnails where a
guard wants them, never pictures; parts of the reward are normalised and summed once all of them are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from instructbooth.contract import PromptRole
from instructbooth.spec.sources import PLACEHOLDER
from instructbooth.spec.subject import Subject
from instructbooth_trainer.algorithms.advantages import group_advantages
from instructbooth_trainer.algorithms.schedule import choose_timesteps, schedule_prompts, window_steps
from instructbooth_trainer.diffusion.conditioning import Conditioning
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.prompts import expand, identifier_free, reward_text
from instructbooth_trainer.diffusion.sampling import conditioning_for, sample, sampling_batch
from instructbooth_trainer.diffusion.schedule import Schedule
from instructbooth_trainer.recipes.behind import one_behind
from instructbooth_trainer.recipes.judges import Judges, Verdict
from instructbooth_trainer.rewards import RewardContext
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
        conditioning: what the policy is trained under, a row per pair.
    """

    latents: Tensor
    next_latents: Tensor
    steps: Tensor
    advantages: Tensor
    conditioning: Conditioning


@dataclass(frozen=True)
class Order:
    """Pictures to be drawn, by all ranks together.

    Attributes:
        templates: of each picture.
        named: whether the identifier is to stand in its prompt.
        group_size: pictures in a row that have the prompt in common.
    """

    templates: list[str]
    named: list[bool]
    group_size: int

    def __len__(self) -> int:
        return len(self.templates)

    @property
    def groups(self) -> Tensor:
        """Number of each picture's group, [num_images]."""
        return torch.arange(len(self)) // self.group_size

    @property
    def identified(self) -> list[bool]:
        """Whether each picture's prompt holds the identifier."""
        return [named and PLACEHOLDER in template for template, named in zip(self.templates, self.named, strict=True)]


@dataclass(frozen=True)
class Drawn:
    """What became of an order.

    Attributes:
        verdict: of all ranks' pictures.
        mine: numbers of this rank's pictures.
        batches: trajectories of this rank's pictures, [num_steps + 1, batch, *latent_shape], and what they were drawn
            under; none where there are fewer pictures than ranks.
    """

    verdict: Verdict
    mine: list[int]
    batches: list[tuple[Tensor, Conditioning]]

    @property
    def trajectories(self) -> Tensor:
        """Of all of this rank's pictures, [num_steps + 1, len(mine), *latent_shape]."""
        return torch.cat([trajectory for trajectory, _ in self.batches], dim=1)

    @property
    def conditioning(self) -> Conditioning:
        """A row per picture of this rank."""
        return Conditioning.cat([conditioning for _, conditioning in self.batches])


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
            UserError: `TooFewImages` when some rank would have nothing to draw, `RewardInvalid` when likeness is paid
                and nobody asks for the subject, `PromptTooLong`; what the rewards and prompts raise.
        """
        job = run.job.spec
        self._run, self._model, self._spec, self._subject = run, model, job.reinforcement, job.subject
        self._free_subject = identifier_free(self._subject, self._spec.identifier_free_phrase)
        images = self._spec.prompts_per_epoch * self._spec.images_per_prompt
        if images < run.gang.world_size:
            raise UserError(
                "TooFewImages",
                f"spec.reinforcement: promptsPerEpoch x imagesPerPrompt = {images} pictures cannot be split over "
                f"{run.gang.world_size} processes; draw more or use fewer nodes",
            )
        context = RewardContext(run.model_folder, run.subject_images(), str(model.device))
        judges = Judges.load(self._spec.rewards, self._spec.guards, context)
        self.reward = judges.reward
        weighted = run.training_prompts()
        self.prompts, self._weights = [prompt for prompt, _ in weighted], [weight for _, weight in weighted]
        stopping = self._spec.early_stopping
        self.validation = run.prompts(stopping.prompts, PromptRole.VALIDATION) if stopping else []
        # Where there are validations, guards look at those: they show the same prompts and the same noise each time.
        self._validation_judges, self._judges = judges, judges.reward_alone() if stopping else judges
        self._check_likeness()
        # Now, and not in the epoch that draws it.
        model.check_prompts([expand(t, job.subject, identifier=True) for t in (*self.prompts, *self.validation)])
        model.check_prompts([expand(t, self._free_subject, identifier=False) for t in self.prompts])
        self.schedule = model.schedule(self._spec.sampling.steps, self._spec.eta)

    def order(self, epoch: int) -> Order:
        """The pictures of an epoch."""
        spec, size = self._spec, self._spec.images_per_prompt
        chosen = schedule_prompts(self._weights, spec.prompts_per_epoch, spec.identifier_free_share, spec.seed, epoch)
        templates = [self.prompts[c.prompt] for c in chosen for _ in range(size)]
        return Order(templates, [c.identifier for c in chosen for _ in range(size)], size)

    def trained_steps(self, epoch: int) -> range:
        """The steps of a trajectory that an epoch trains some or all of: those with noise, but never the last."""
        steps, window = self._spec.sampling.steps, self._spec.timestep_window
        if window is None:
            return range(steps - 1)
        return window_steps(steps, window.start, window.end, window.interval_epochs, epoch)

    def draw(self, epoch: int) -> Drawn:
        """The pictures of one epoch, drawn and scored. Collective."""
        schedule = self.schedule
        if self._spec.timestep_window is not None:
            schedule = schedule.stochastic_within(self.trained_steps(epoch))
        return self._draw(self.order(epoch), schedule, self._judges, "rollout", epoch)

    def pairs(self, drawn: Drawn, epoch: int) -> Pairs:
        """What this rank is trained on of an epoch's pictures."""
        spec = self._spec
        rewards = self.reward.total(drawn.verdict.scores)
        shared = spec.advantage_std == "epoch"
        advantages = group_advantages(rewards, self.order(epoch).groups, spec.advantage_clip, shared_std=shared)
        advantages = advantages[drawn.mine].to(self._model.device)
        candidates = self.trained_steps(epoch)
        pairs = [
            (row, step)
            for row, number in enumerate(drawn.mine)
            for step in choose_timesteps(candidates, spec.timesteps_per_trajectory, spec.seed, epoch, number)
        ]
        rows, steps = torch.tensor(pairs, device=self._model.device).unbind(1)
        trajectories = drawn.trajectories
        conditioning = drawn.conditioning if spec.guidance_in_training else drawn.conditioning.conditional()
        return Pairs(
            trajectories[steps, rows],
            trajectories[steps + 1, rows],
            steps,
            advantages[rows],
            conditioning.rows(rows),
        )

    def collect(self, epoch: int) -> tuple[Pairs, Tensor]:
        """One epoch's rollouts: this rank's pairs, and raw scores of all pictures, [parts, num_images]. Collective."""
        drawn = self.draw(epoch)
        return self.pairs(drawn, epoch), drawn.verdict.scores

    def validate(self, images_per_prompt: int) -> Verdict:
        """The validation prompts' verdict. Collective.

        Pictures are drawn without noise in the steps, from the same noise every time.
        """
        templates = [template for template in self.validation for _ in range(images_per_prompt)]
        order = Order(templates, [True] * len(templates), images_per_prompt)
        schedule = self._model.schedule(self._spec.sampling.steps, eta=0.0)
        return self._draw(order, schedule, self._validation_judges, "validation").verdict

    def _check_likeness(self) -> None:
        share, paid = self._spec.identifier_free_share, self.reward.paid_for_likeness
        kinds = [named for named, drawn in ((True, share < 1), (False, share > 0)) if drawn]
        if paid and not any(self._asks(template, named) for template in self.prompts for named in kinds):
            raise UserError(
                "RewardInvalid",
                f"spec.reinforcement.rewards: {paid[0]!r} compares with the subject's pictures, and no prompt that is "
                f"drawn asks for the subject: identifierFreeShare is {share:g}; lower it, or set identifierFreePhrase: "
                "description",
            )

    def _called(self, named: bool) -> Subject:
        """What a prompt calls the subject, with identifier or without."""
        return self._subject if named else self._free_subject

    def _asks(self, template: str, named: bool) -> bool:
        """Whether a prompt asks for the subject itself, and not for anything of its class."""
        return PLACEHOLDER in template and (named or self._free_subject.description is not None)

    def _draw(self, order: Order, schedule: Schedule, judges: Judges, *key: int | str) -> Drawn:
        """Draw and score pictures, split over the ranks; a batch is scored while the next is drawn. Collective."""
        wanted = list(zip(order.templates, order.named, strict=True))
        texts = [expand(template, self._called(named), identifier=named) for template, named in wanted]
        judged = [reward_text(template, self._called(named)) for template, named in wanted]
        asked = [self._asks(template, named) for template, named in wanted]
        mine = list(range(self._run.gang.rank, len(order), self._run.gang.world_size))
        scores = torch.zeros(judges.rows, len(order), device=self._model.device)
        drawn: list[tuple[Tensor, Conditioning]] = []
        size = sampling_batch(self._model.resolution)
        batches = [mine[first : first + size] for first in range(0, len(mine), size)]

        def pictures() -> Iterator[tuple[Tensor, list[str], list[bool]]]:
            for numbers in batches:
                unique = list(dict.fromkeys(texts[n] for n in numbers))
                index = torch.tensor([unique.index(texts[n]) for n in numbers], device=self._model.device)
                conditioning = conditioning_for(self._model, unique, self._spec.sampling.guidance_scale).rows(index)
                generators = [keyed_generator(self._spec.seed, *key, n) for n in numbers]
                trajectory = sample(self._model, schedule, conditioning, generators)
                drawn.append((trajectory, conditioning))
                self._run.progress.beat()
                yield self._model.decode(trajectory[-1]), [judged[n] for n in numbers], [asked[n] for n in numbers]

        for numbers, batch in zip(batches, one_behind(lambda batch: judges(*batch), pictures()), strict=True):
            scores[:, torch.tensor(numbers)] = batch.to(self._model.device)
            self._run.progress.beat()
        everybodys: Tensor = self._run.accelerator.reduce(scores, reduction="sum")
        verdict = judges.verdict(everybodys.cpu(), order.groups, order.identified)
        return Drawn(verdict, mine, drawn)
