"""How well snapshots of either side obey prompts that nobody was trained on, by the miniature world's oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from instructbooth.spec.personalization import Lora
from instructbooth.spec.subject import Subject
from instructbooth_miniature.oracle import Oracle
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.prompts import expand, reward_text
from instructbooth_trainer.diffusion.sampling import draw


class Judge:
    """One side's model, and the same noise for every snapshot of every side.

    Attributes:
        model: what is judged, without its adapter.
        adapter: a fresh one until a snapshot is loaded.
    """

    def __init__(self, model: Path, lora: Lora, subject: Subject, templates: Sequence[str], pictures: int) -> None:
        """`pictures` of each template are judged."""
        self.model = DiffusionModel.load(model)
        self.adapter = Adapter(self.model, lora, text_encoder=False, seed=0)
        chosen = [template for template in templates for _ in range(pictures)]
        self._prompts = [expand(template, subject, identifier=True) for template in chosen]
        self._asked = [reward_text(template, subject) for template in chosen]
        self._noise = [("judge", template, number) for template in templates for number in range(pictures)]

    def alignment(self, snapshot: Path, steps: int, guidance: float) -> float:
        """Share of the pictures that show all that was asked for."""
        self.adapter.load_tensors(load_file(snapshot))
        generators = [keyed_generator(*key) for key in self._noise]
        images = draw(self.model, self._prompts, generators, steps, guidance)
        return float(Oracle()(images, self._asked).mean())
