"""What both sides learn from, and the snapshots that they leave.

Standard library, torch and safetensors only: peers have an environment of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from benchmarks.trainer.clock import Clock
from benchmarks.trainer.workload import Handed


@dataclass(frozen=True)
class Lesson(Handed):
    """How long one side learns, from what.

    Attributes:
        epochs: of the loop.
        every: epochs between two snapshots of the trained weights.
        clip: folder of the CLIP that scores.
        judged: the text that is scored for each prompt that is drawn.
        output: folder of the snapshots.
        adapter: file with the adapter that the peer goes on from; None leaves it the LoRA of its own.
        rank: of that adapter; its alpha is the same.
        targets: ends of the names of the layers that it is on.
        group: pictures of a prompt that the peer draws together and compares; 0 leaves it its own way.
    """

    epochs: int
    every: int
    clip: str
    judged: dict[str, str]
    output: str
    adapter: str | None = None
    rank: int = 0
    targets: list[str] = field(default_factory=list)
    group: int = 0


def learn(lesson: Lesson, clock: Clock, epoch: Callable[[int], Any], weights: Callable[[], Mapping[str, Any]]) -> None:
    """Go through the epochs; the clock stands still while a snapshot is written, `<epochs done>.safetensors`."""
    folder = Path(lesson.output)
    for number in range(lesson.epochs):
        before = clock.now()
        epoch(number)
        clock.keep([before, clock.now()])
        if (number + 1) % lesson.every == 0:
            save_file({name: tensor.contiguous() for name, tensor in weights().items()}, snapshot(folder, number + 1))


def snapshot(folder: Path, epochs: int) -> Path:
    """Where the weights after so many epochs lie."""
    return folder / f"{epochs:05d}.safetensors"
