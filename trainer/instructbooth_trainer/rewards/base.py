"""What a reward is, how one is found, and how several are summed.

A reward sees pictures and texts; the texts never hold the identifier. A reward that raises, returns the wrong shape or
something that is not a finite number ends the run: a picture nobody could judge is not a bad picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from instructbooth.spec.sources import ModelSource
from instructbooth.spec.stages import RewardSpec, ScoreSpec
from instructbooth_trainer.runtime.errors import RunError, UserError

GROUP = "instructbooth.rewards"


class Reward(Protocol):
    """A score per picture; higher is better."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures.

        Args:
            images: [batch, 3, height, width], float32 in [0, 1].
            prompts: one text per picture, without identifier.

        Returns:
            [batch], float32, on the CPU or the images' device.
        """


@dataclass(frozen=True)
class RewardContext:
    """What the runtime lends to rewards.

    Attributes:
        model_folder: turns a ModelSource into a local folder.
        reference_images: the subject's pictures, RGB.
        device: where to compute, such as `cuda:0`.
        dtype: of frozen weights: fp32, bf16 or fp16.
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


class WeightedReward:
    """The weighted sum the policy is trained on."""

    def __init__(self, parts: Sequence[tuple[str, float, Reward]]) -> None:
        """Take (name, weight, reward) for each part."""
        self._parts = list(parts)

    @classmethod
    def load(cls, specs: Sequence[RewardSpec], context: RewardContext) -> WeightedReward:
        """Load every part. Raises UserError as `load_reward` does."""
        return cls([(spec.name, spec.weight, load_reward(spec, context)) for spec in specs])

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """sum_k w_k r_k(image, text), [batch], float32 on the CPU. Raises RunError as `score` does."""
        total = torch.zeros(len(images))
        for name, weight, reward in self._parts:
            total += weight * score(name, reward, images, prompts)
        return total
