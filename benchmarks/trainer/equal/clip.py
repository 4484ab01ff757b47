"""The reward that the peer's loop is given: our own, so that both sides are paid alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, no_grad

from instructbooth_trainer.rewards.clip_score import create


class Clip:
    """Of pictures [batch, 3, height, width] in [0, 1] and the prompts that they were drawn from."""

    def __init__(self, folder: Path, judged: Mapping[str, str]) -> None:
        """`judged` has the text that is scored for each prompt."""
        self._score, self._judged = create({"model_folder": str(folder)}), judged

    @no_grad()
    def __call__(self, images: Tensor, drawn: Sequence[str]) -> Tensor:
        """Scores [batch]."""
        return self._score(images, [self._judged[prompt] for prompt in drawn])
