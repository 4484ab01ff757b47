"""The work that both sides do, and what a side says of it.

Standard library only: peers have an environment of their own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from statistics import median
from typing import Self

MARK = "RESULT "


@dataclass(frozen=True)
class Handed:
    """What a process is handed as a file."""

    def save(self, path: Path) -> Path:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `save` wrote."""
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True)
class Workload(Handed):
    """One model, its prompts and the sizes of everything.

    Attributes:
        model: diffusers folder of a Stable Diffusion model.
        subject: folder with the subject's pictures, at least `batch` of them.
        prompts: what is drawn, in turn.
        caption: what the subject's pictures are called.
        resolution: pixels.
        device: `cpu` or `cuda`.
        dtype: `fp32`, `bf16` or `fp16`, of frozen weights.
        threads: of a process.
        rank: of the LoRA on the attention's projections; its alpha is the same.
        learning_rate: AdamW's.
        weight_decay: AdamW's.
        pictures: drawn and trained on in an epoch.
        sampling_batch: pictures drawn at once.
        sampling_steps: denoising steps, all but the last of which are trained on.
        guidance: of sampling and of training alike; 1 is without.
        train_batch: (latent, timestep) pairs of a forward and backward pass.
        clip_range: of the policy's ratio.
        advantage_clip: bound of advantages.
        epochs: measured.
        warmup_epochs: before them.
        batch: pictures of a step of personalization.
        steps: of personalization.
    """

    model: str
    subject: str
    prompts: list[str]
    caption: str
    resolution: int
    device: str = "cpu"
    dtype: str = "fp32"
    threads: int = 2
    rank: int = 4
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    pictures: int = 64
    sampling_batch: int = 64
    sampling_steps: int = 8
    guidance: float = 1.0
    train_batch: int = 32
    clip_range: float = 1e-4
    advantage_clip: float = 5.0
    epochs: int = 3
    warmup_epochs: int = 1
    batch: int = 10
    steps: int = 60

    @property
    def trained_steps(self) -> int:
        """Denoising steps of a trajectory that are trained on."""
        return self.sampling_steps - 1

    @property
    def rows(self) -> int:
        """Rows of the network's batch per picture: two with guidance."""
        return 1 if self.guidance == 1 else 2

    @property
    def sampling_passes(self) -> int:
        """Forward passes of an epoch, of `sampling_batch` pictures each."""
        return ceil(self.pictures / self.sampling_batch) * self.sampling_steps

    @property
    def training_passes(self) -> int:
        """Forward and backward passes of an epoch, of `train_batch` pairs each."""
        return ceil(self.pictures * self.trained_steps / self.train_batch)


def recordable(work: Workload) -> bool:
    """Whether ours records its passes as CUDA graphs (spec.model.cudaGraphs)."""
    return work.device == "cuda" and work.dtype != "fp32"


@dataclass
class Result:
    """What one process measured.

    Attributes:
        seconds: of the same piece of work, again and again, on the clock.
        cpu_seconds: the same in processor time of all threads.
        peak_mib: most memory the process had; the device's where it computes on one.
        numbers: whatever else was measured, by name.
        versions: of packages.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def say(self) -> None:
        """The process's last line on stdout."""
        print(f"\n{MARK}{json.dumps(asdict(self))}", flush=True)

    @classmethod
    def heard(cls, output: str) -> Self:
        """The result in a process's output. Raises ValueError where there is none."""
        for line in reversed(output.splitlines()):
            if line.startswith(MARK):
                return cls(**json.loads(line.removeprefix(MARK)))
        raise ValueError("the process said no result")


def typical(results: list[Result]) -> float:
    """Median seconds of all rounds. Raises ValueError when nothing was measured."""
    seconds = [value for result in results for value in result.seconds]
    if not seconds:
        raise ValueError("nothing was measured")
    return median(seconds)
