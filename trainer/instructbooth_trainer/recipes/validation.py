"""Validation pictures: the same prompts from the same noise at every interval, so that one sees the subject come.

Each validation is committed under its attempt at once, where it can be looked at while training goes on. The state
remembers which attempt drew which step; at the end all of them are gathered in the output.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instructbooth.contract import PromptRole
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.prompts import expand
from instructbooth_trainer.diffusion.sampling import draw, to_bytes
from instructbooth_trainer.recipes.average import AdapterAverage
from instructbooth_trainer.recipes.training import AdapterState
from instructbooth_trainer.report.validation import picture_sheet, spread
from instructbooth_trainer.runtime.context import RunContext

RECORD = "validation"  # in the state's record: step -> attempt that drew it
SHEET = "sheet.png"


class ValidationPictures:
    """Draws where the spec asks for it, and does nothing where it does not."""

    def __init__(self, run: RunContext, model: DiffusionModel, state: AdapterState, average: AdapterAverage) -> None:
        """Read the prompts. Collective. Raises UserError, for one that is too long now and not in the middle."""
        self._run, self._model, self._state, self._average = run, model, state, average
        self._spec, self._steps = run.job.spec.personalization.validation, run.job.spec.personalization.steps
        templates = run.prompts(self._spec.prompts, PromptRole.VALIDATION) if self._spec else []
        self._prompts = [expand(template, run.job.spec.subject, identifier=True) for template in templates]
        if self._prompts:
            model.check_prompts(self._prompts)

    def after(self, step: int) -> None:
        """To be called when `step` steps are done, 0 of them too: draws if it is time. Collective."""
        if self._spec is None or (step % self._spec.interval_steps and step != self._steps):
            return
        folder = self._run.workdir / RECORD / str(step)
        pictures = self._draw(self._spec.images_per_prompt)
        if self._run.gang.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(pictures):
                row, column = divmod(number, self._spec.images_per_prompt)
                picture.save(folder / _name(row, column))
            rows = [
                pictures[n : n + self._spec.images_per_prompt]
                for n in range(0, len(pictures), self._spec.images_per_prompt)
            ]
            picture_sheet(f"step {step}", [], self._prompts, rows).save(folder / SHEET)
        self._run.keep_validation(step, folder)
        drawn = self._state.record.setdefault(RECORD, {})
        assert isinstance(drawn, dict)
        drawn[str(step)] = self._run.attempt

    def write(self, output: Path) -> None:
        """Gather what was drawn, by whichever attempt: a sheet of each step, and one over all. Rank 0's own doing."""
        drawn = self._state.record.get(RECORD, {})
        assert isinstance(drawn, dict)
        attempts = {
            int(step): int(str(attempt)) for step, attempt in sorted(drawn.items(), key=lambda item: int(item[0]))
        }
        if not attempts:
            return
        folders = {step: self._run.workdir / "validated" / str(step) for step in attempts}
        (output / RECORD).mkdir(parents=True, exist_ok=True)
        for step, attempt in attempts.items():
            self._run.fetch_validation(attempt, step, folders[step])
            shutil.copyfile(folders[step] / SHEET, output / RECORD / f"step-{step:06d}.png")
        shown = spread(list(attempts))
        rows = [
            [Image.open(folders[step] / _name(row, 0)).convert("RGB") for step in shown]
            for row in range(len(self._prompts))
        ]
        picture_sheet("step", [str(step) for step in shown], self._prompts, rows).save(output / f"{RECORD}.png")

    def _draw(self, per_prompt: int) -> list[Image.Image]:
        """All pictures, prompt by prompt, drawn by the ranks together; on every rank. Collective."""
        job, gang = self._run.job.spec, self._run.gang
        sampling, seed = job.evaluation.sampling, job.personalization.seed
        mine = range(gang.rank, len(self._prompts) * per_prompt, gang.world_size)
        own: list[np.ndarray[Any, Any]] = []
        with self._average.in_place():
            for number in mine:
                prompt, noise = divmod(number, per_prompt)
                generator = keyed_generator(seed, "validation", noise)
                pixels = draw(
                    self._model, [self._prompts[prompt]], [generator], sampling.steps, sampling.guidance_scale
                )
                own.append(to_bytes(pixels)[0])
                self._run.progress.beat()
        shares = gang.gather(own)
        count = len(self._prompts) * per_prompt
        return [Image.fromarray(shares[n % gang.world_size][n // gang.world_size]) for n in range(count)]


def _name(prompt: int, number: int) -> str:
    return f"{prompt:03d}-{number}.png"
