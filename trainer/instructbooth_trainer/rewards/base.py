"""What a reward is, how one is found, and how several are summed.

A reward sees pictures and texts; the texts never hold the identifier. A reward that raises, returns the wrong shape or
something that is not a finite number ends the run: a picture nobody could judge is not a bad picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from instructbooth.spec.scores import RewardSpec, ScoreSpec
from instructbooth.spec.sources import ModelSource
from instructbooth_trainer.algorithms.weighting import weighted_sum
from instructbooth_trainer.runtime.errors import RunError, UserError

GROUP = "instructbooth.rewards"


class Reward(Protocol):
    """A score per picture; higher is better.

    One that compares with the subject's pictures has an attribute `compares_subject` that is true: as a part of the
    reward it then looks only at pictures whose prompt asks for the subject.
    """

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures.

        Args:
            images: [batch, 3, height, width], float32 in [0, 1].
            prompts: one text per picture, without identifier.

        Returns:
            [batch], float32, on the CPU or the images' device.
        """


def compares_subject(reward: Reward) -> bool:
    """Whether a reward compares with the subject's pictures."""
    return bool(getattr(reward, "compares_subject", False))


@dataclass(frozen=True)
class RewardContext:
    """What the runtime lends to rewards.

    Attributes:
        model_folder: turns a ModelSource into a local folder.
        reference_images: the subject's pictures, RGB.
        device: where to compute, such as `cuda:0`.
        dtype: of frozen weights: fp32. Rounded to bf16, scores of one prompt's pictures would differ by little else.
    """

    model_folder: Callable[[ModelSource], Path]
    reference_images: Sequence[Image.Image]
    device: str = "cpu"
    dtype: str = "fp32"


def load_reward(spec: ScoreSpec, context: RewardContext) -> Reward:
    """Make the reward a spec names: `create(params)` of its plug-in.

    Raises:
        UserError: `RewardUnknown` naming the plug-ins there are; `RewardInvalid` when its parameters are refused.
    """
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if spec.name not in installed:
        names = ", ".join(sorted(installed)) or "none"
        raise UserError("RewardUnknown", f"no reward is called {spec.name!r}; installed in this image: {names}")
    params: dict[str, object] = {
        **spec.params,
        "reference_images": list(context.reference_images),
        "device": context.device,
        "dtype": context.dtype,
    }
    if spec.model is not None:
        params["model_folder"] = str(context.model_folder(spec.model))
    try:
        create: Callable[[dict[str, object]], Reward] = installed[spec.name].load()
        return create(params)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError("RewardInvalid", f"reward {spec.name!r} cannot be made: {error}") from error


def score(name: str, reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Ask a reward and check its answer, [batch], float32 on the CPU.

    Raises:
        RunError: `RewardFailed` when it raises or its answer is no finite number per picture.
    """
    try:
        with torch.no_grad():
            scores = reward(images, prompts)
    except RunError:
        raise
    except Exception as error:
        raise RunError("RewardFailed", f"reward {name!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(scores, Tensor) or scores.shape != (len(images),):
        got: Any = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise RunError(
            "RewardFailed", f"reward {name!r} returned {got} for {len(images)} pictures, not one number each"
        )
    scores = scores.detach().float().cpu()
    if not bool(scores.isfinite().all()):
        raise RunError("RewardFailed", f"reward {name!r} returned a number that is not finite: {scores.tolist()}")
    return scores


@dataclass(frozen=True)
class Part:
    """One part of a weighted sum: a reward, its weight, and whether it is normalised before it is weighed."""

    name: str
    weight: float
    reward: Reward
    normalize: bool = False


class WeightedReward:
    """The weighted sum the policy is trained on.

    Parts are scored batch by batch on each rank, and summed once the scores of all pictures of all ranks are there.

    Attributes:
        names: of the parts; the second `remote` is `remote-2`.
        normalizes: whether any part is normalised.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """Take the parts in order."""
        self._parts = list(parts)
        before = [[part.name for part in self._parts[:index]].count(part.name) for index, part in enumerate(parts)]
        self.names = [
            part.name if n == 0 else f"{part.name}-{n + 1}" for part, n in zip(self._parts, before, strict=True)
        ]
        self.normalizes = any(part.normalize for part in self._parts)

    @property
    def paid_for_likeness(self) -> list[str]:
        """Names of the parts with a weight that compare with the subject's pictures."""
        named = zip(self.names, self._parts, strict=True)
        return [name for name, part in named if part.weight and compares_subject(part.reward)]

    @classmethod
    def load(cls, specs: Sequence[RewardSpec], context: RewardContext) -> WeightedReward:
        """Load every part. Raises UserError as `load_reward` does."""
        return cls([Part(spec.name, spec.weight, load_reward(spec, context), spec.normalize) for spec in specs])

    def __call__(self, images: Tensor, prompts: Sequence[str], asked: Sequence[bool]) -> Tensor:
        """Raw scores of a batch, [parts, batch], float32 on the CPU; NaN where a part does not look.

        Args:
            images: [batch, 3, height, width], float32 in [0, 1].
            prompts: one text per picture, without identifier.
            asked: whether each picture's prompt asks for the subject: another mascot that looked like it would be
                a mistake, and is not paid for likeness.

        Raises RunError as `score` does.
        """
        rows = torch.full((len(self._parts), len(images)), torch.nan)
        for row, part in zip(rows, self._parts, strict=True):
            everywhere = not compares_subject(part.reward)
            if seen := [place for place, asks in enumerate(asked) if asks or everywhere]:
                row[seen] = score(part.name, part.reward, images[seen], [prompts[place] for place in seen])
        return rows

    def total(self, scores: Tensor, scale: Tensor | None = None) -> Tensor:
        """The reward of each picture, [num_images], from raw scores of all ranks, [parts, num_images].

        Parts that ask for it are normalised by `scale`, or over these pictures: see algorithms/weighting.py.
        """
        weights = [part.weight for part in self._parts]
        return weighted_sum(scores, weights, [part.normalize for part in self._parts], scale)

    def numbers(self, scores: Tensor) -> dict[str, float]:
        """Metrics of raw scores of all ranks, [parts, num_images]: one can see which part rises.

        `reward_mean` and `reward_std` are of the weighted sum of raw scores: of normalised ones the mean would be 0
        in every epoch. `reward/<name>` is a part's mean over the pictures that it looked at; in the weighted sum it has
        that mean for the others. A part that looked at none in an epoch has no mean there, and adds 0.
        """
        mean = scores.nanmean(dim=1, keepdim=True)
        filled = torch.where(scores.isnan(), mean, scores)
        raw = weighted_sum(filled, [part.weight for part in self._parts], [False] * len(self._parts))
        named = zip(self.names, mean[:, 0].tolist(), strict=True)
        means = {f"reward/{name}": value for name, value in named if not math.isnan(value)}
        return {"reward_mean": float(raw.mean()), "reward_std": float(raw.std(correction=0)), **means}
