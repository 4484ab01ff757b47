"""Loading a scoring model's folder in the Hugging Face layout: safetensors only, and every weight that is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIZES = {(192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H"}
"""Names that width and layers of a vision transformer are known by (arXiv 2010.11929, 2012.12877)."""


def load_pretrained(kind: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """A frozen model of a class of transformers.

    transformers fills in what a checkpoint lacks with random numbers and goes on. A score made of those would mean
    nothing, so that a missing weight is an error here. Weights that are too many (a head, a text half) are not.

    Args:
        kind: such as AutoModel or CLIPModel.
        folder: holds config.json and *.safetensors.
        dtype: of the weights.
        options: of the class's constructor.

    Raises:
        ValueError: naming the weights that are missing or have another shape.
        OSError: when the folder lacks something.
    """
    model, info = kind.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
    )
    missing = sorted({*info["missing_keys"], *(str(key[0]) for key in info.get("mismatched_keys", ()))})
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise ValueError(
            f"the checkpoint lacks weights of {type(model).__name__}: {', '.join(missing[:4])}{more}; it is of another "
            "model than its config.json says, or was cut short: take the model's published folder"
        )
    return model.requires_grad_(False).eval()


def architecture(config: Any, name: str) -> str:
    """What a model is, for people: `ViTModel ViT-S/16`, `ResNetModel`.

    Args:
        config: of the vision model.
        name: of the class.
    """
    width, layers, patch = (getattr(config, key, None) for key in ("hidden_size", "num_hidden_layers", "patch_size"))
    if not isinstance(width, int) or not isinstance(layers, int) or not isinstance(patch, int):
        return name
    known = SIZES.get((width, layers))
    return f"{name} ViT-{known}/{patch}" if known else f"{name}, {layers} layers of width {width}, patch {patch}"
