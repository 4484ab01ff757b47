"""clip-i: mean cosine of a CLIP's projected image embedding to those of the subject's pictures (CLIP-I of DreamBench).

Unlike subject-identity with a CLIP, which takes what comes before it, this is after the projection into the space that
pictures and texts share, as CLIP-T's picture half is.

Parameters: `ceiling`, see likeness.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import CLIPModel

from instructbooth_trainer.rewards.likeness import Likeness, check_params
from instructbooth_trainer.rewards.params import device_and_dtype, model_folder
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.rewards.pretrained import architecture, load_pretrained


def create(params: Mapping[str, object]) -> Likeness:
    """The plug-in's factory. Raises ValueError for unknown or bad parameters, without a model or pictures."""
    check_params(params)
    folder = model_folder(params)
    device, dtype = device_and_dtype(params)
    model = load_pretrained(CLIPModel, folder, dtype)
    vision, projection = model.vision_model.to(device), model.visual_projection.to(device)  # the text half goes
    return Likeness(
        lambda pixels: projection(vision(pixel_values=pixels).pooler_output),
        Preprocess.from_folder(folder),
        params,
        backbone=architecture(vision.config, "CLIP"),
    )
