"""pick-score: PickScore, exp(logit_scale) times the cosine of a CLIP that was trained on people's choices.

Source: Pick-a-Pic, arXiv 2305.01569, section 4. The model is published as yuvalkirstain/PickScore_v1, a CLIPModel
(ViT-H-14) in the ordinary folder format; where its folder has no tokenizer or preprocessor_config.json, those of
laion/CLIP-ViT-H-14-laion2B-s32B-b79K belong to it.

Parameters: `longPrompts`, see clip.py. The original truncates.
"""

from __future__ import annotations

from collections.abc import Mapping

from instructbooth_trainer.rewards.clip import ClipCosine, clip_of_folder


def create(params: Mapping[str, object]) -> ClipCosine:
    """The plug-in's factory. Raises ValueError for unknown or bad parameters or without a model."""
    return clip_of_folder("pick-score", params, scaled=True)
