"""Where a run's files lie: `<prefix>/<namespace>/<name>/<uid>/<stage>/<attempt>/{output,checkpoints/<step>}/`.

The uid keeps a job apart from its namesake of yesterday. The attempt is the fence: a process of an attempt writes only
below its own number, so that a zombie of an older gang cannot touch what the present one makes.

Beside the runs lies what jobs share: `<prefix>/class-images/<key>/`, the key being the hash of all inputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from instructbooth.contract import Stage
from instructbooth.spec.job import Artifacts, ResolvedJob

MANIFEST = "manifest.json"
FENCE = "fence.json"
RENDEZVOUS = "rendezvous.json"
_FENCE = re.compile(rf"/(\d+)/{re.escape(FENCE)}$")
_PART_MANIFEST = re.compile(rf"/(\d+)/parts/([a-z]+)/(\d+)/{re.escape(MANIFEST)}$")
_CHECKPOINT_MANIFEST = re.compile(rf"/(\d+)/checkpoints/(\d+)/{re.escape(MANIFEST)}$")


@dataclass(frozen=True)
class RunLayout:
    """Keys of one run. All prefixes end with a slash."""

    root: str

    @classmethod
    def of(cls, job: ResolvedJob) -> Self:
        """The layout of a resolved job."""
        return cls(f"{runs_prefix(job.spec.artifacts, job.namespace, job.name)}{job.uid}/")

    def stage(self, stage: Stage) -> str:
        """Everything of a stage, all attempts."""
        return f"{self.root}{stage.value}/"

    def attempt(self, stage: Stage, attempt: int) -> str:
        """Everything an attempt may write."""
        return f"{self.stage(stage)}{attempt}/"

    def fence(self, stage: Stage, attempt: int) -> str:
        """What the attempt found when it began; written once."""
        return f"{self.attempt(stage, attempt)}{FENCE}"

    def rendezvous(self, stage: Stage, attempt: int) -> str:
        """Where rank 0 of the attempt is; written whenever its pod begins."""
        return f"{self.attempt(stage, attempt)}{RENDEZVOUS}"

    def output(self, stage: Stage, attempt: int) -> str:
        """What the stage made; committed once, at its end."""
        return f"{self.attempt(stage, attempt)}output/"

    def validation(self, stage: Stage, attempt: int, step: int) -> str:
        """Pictures drawn on the way, at one step."""
        return f"{self.attempt(stage, attempt)}validation/{step}/"

    def part(self, stage: Stage, attempt: int, model: str, prompt: int) -> str:
        """All pictures of one prompt by one model, with their scores: what an evaluation has done so far."""
        return f"{self.attempt(stage, attempt)}parts/{model}/{prompt:03d}/"

    def checkpoints(self, stage: Stage, attempt: int) -> str:
        """All checkpoints of an attempt."""
        return f"{self.attempt(stage, attempt)}checkpoints/"

    def checkpoint(self, stage: Stage, attempt: int, step: int) -> str:
        """One checkpoint."""
        return f"{self.checkpoints(stage, attempt)}{step}/"


def runs_prefix(artifacts: Artifacts, namespace: str, name: str) -> str:
    """Prefix of all runs of a job of this name."""
    return f"{_root(artifacts)}{namespace}/{name}/"


def class_images(artifacts: Artifacts, key: str) -> str:
    """Prefix of the class pictures with a key. A run's is never the same: no job's name is as long as a key."""
    return f"{_root(artifacts)}class-images/{key}/"


def parse_part_manifest(key: str) -> tuple[int, str, int] | None:
    """(attempt, model, number of the prompt) if the key is the manifest of a part of an evaluation, else None."""
    match = _PART_MANIFEST.search(key)
    return (int(match[1]), match[2], int(match[3])) if match else None


def parse_checkpoint_manifest(key: str) -> tuple[int, int] | None:
    """(attempt, step) if the key is the manifest of a checkpoint, else None."""
    match = _CHECKPOINT_MANIFEST.search(key)
    return (int(match[1]), int(match[2])) if match else None


def parse_fence(key: str) -> int | None:
    """The attempt if the key is its fence, else None."""
    match = _FENCE.search(key)
    return int(match[1]) if match else None


def _root(artifacts: Artifacts) -> str:
    """The part of the bucket that the spec names: empty, or with a slash at its end."""
    return f"{artifacts.prefix}/" if artifacts.prefix else ""
