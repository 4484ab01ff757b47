"""Early stop of stage 1: once the loss on the subject's pictures no longer falls.

A batch's own loss jumps with its timesteps and noise by more than a step takes away from it. So every picture has a few
noises and timesteps of its own, the same at every look, drawn from the seed: what is left in the difference of two
looks is the adapter. Ranks share the pictures out and agree on the mean. The best adapter is kept, not the last.
"""

from __future__ import annotations

import torch
from pydantic import JsonValue

from instructbooth_trainer.algorithms.dreambooth import squared_errors
from instructbooth_trainer.algorithms.stopping import StoppingState
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.objective import Objective
from instructbooth_trainer.recipes.average import AdapterAverage
from instructbooth_trainer.recipes.batches import Data
from instructbooth_trainer.recipes.training import AdapterState
from instructbooth_trainer.runtime.context import RunContext

BEST = "best"  # name of the copy in the state
RECORD = "early_stopping"  # in the state's record
LOOKS = 4  # noises and timesteps per picture


class Plateau:
    """Looks where the spec asks for it, and never ends a stage where it does not."""

    def __init__(
        self,
        run: RunContext,
        model: DiffusionModel,
        objective: Objective,
        data: Data,
        adapter: Adapter,
        state: AdapterState,
        average: AdapterAverage,
    ) -> None:
        self._run, self._model, self._objective, self._data = run, model, objective, data
        self._adapter, self._state, self._average = adapter, state, average
        self._spec = run.job.spec.personalization

    def reached(self, step: int) -> bool:
        """To be called when `step` steps are done: whether the stage ends here. Collective."""
        rule = self._spec.early_stopping
        if rule is None or (step % rule.interval_steps and step != self._spec.steps):
            return False
        with self._average.in_place():
            loss = self.loss()
            record = self._state.record.setdefault(RECORD, {"losses": {}, "waited": 0})
            assert isinstance(record, dict)
            losses = record["losses"]
            assert isinstance(losses, dict)
            best = None if BEST not in self._state.kept else -float(str(record["best"]))
            stopping = StoppingState(best, int(str(record["waited"]))).observe(-loss, rule.min_delta)
            if stopping.improved:
                self._state.kept[BEST] = self._adapter.tensors()
                record["best_step"] = step
        assert stopping.best is not None
        losses[str(step)] = loss
        record |= {"best": -stopping.best, "waited": stopping.waited}
        if not stopping.exhausted(rule.patience):
            return False
        record["stopped"] = f"after {step} steps: {stopping.waited} looks brought no loss below {-stopping.best:.6g}"
        return True

    @property
    def best_step(self) -> int | None:
        """After how many steps the adapter that is kept as the best one was trained; None where none is."""
        record = self._state.record.get(RECORD)
        step = record.get("best_step") if isinstance(record, dict) else None
        return step if isinstance(step, int) else None

    @torch.no_grad()
    def loss(self) -> float:
        """Mean weighed error over all pictures and their noises, equal on all ranks. Collective."""
        spec, gang = self._spec, self._run.gang
        rows = [
            (number, place) for number, bucket in enumerate(self._data.subject) for place in range(len(bucket.sizes))
        ]
        errors: list[float] = []
        conditioning = self._model.condition(self._data.captions, guidance=1.0)
        for picture in range(gang.rank, len(rows), gang.world_size):
            number, place = rows[picture]
            bucket = self._data.subject[number]
            generator = keyed_generator(spec.seed, "plateau", picture)
            timesteps = self._objective.draw_timesteps(LOOKS, generator)
            latents = bucket.latents[place].expand(LOOKS, *bucket.latents.shape[1:])
            noise = torch.randn(latents.shape, generator=generator).to(self._model.device)
            exercise = self._objective.exercise(latents, noise, timesteps)
            text = picture % len(self._data.captions) if bucket.captions is None else int(bucket.captions[place])
            texts = torch.full((LOOKS,), text)
            told = self._model.told_sizes(conditioning.rows(texts), bucket.sizes[place].expand(LOOKS, -1))
            prediction = self._model.predict(exercise.noisy, timesteps.to(self._model.device), told)
            error = squared_errors(prediction, exercise.target)
            errors += (error if exercise.weights is None else error * exercise.weights).tolist()
            self._run.progress.beat()
        every = [error for share in gang.gather(errors) for error in share]
        return sum(sorted(every)) / len(every)  # sorted: the same sum however ranks share the pictures out

    def numbers(self) -> dict[str, JsonValue]:
        """For the stage's record: the losses by step, the best, and why it stopped; empty without early stopping."""
        record = self._state.record.get(RECORD)
        return {RECORD: record} if record else {}
