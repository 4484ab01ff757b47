"""clip-score: cosine of CLIP's image and text embeddings, times 1 (CLIP-T of the DreamBench protocol).

Parameters: `longPrompts`, see clip.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from instructbooth_trainer.rewards.clip import ClipCosine, clip_of_folder


def create(params: Mapping[str, object]) -> ClipCosine:
    """The plug-in's factory. Raises ValueError for unknown or bad parameters or without a model."""
    return clip_of_folder("clip-score", params, scaled=False)
