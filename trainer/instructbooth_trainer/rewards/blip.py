"""ImageReward's checkpoint as transformers' BLIP: names and sizes.

The text encoder has the same names in both, and so have the linear layers of the head. The picture encoder's are
renamed; everything about it but the width of a head follows from shapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from instructbooth_trainer.rewards.published import load_exactly, shape_of

VISION_HEAD = 64  # ViT-L's width of a head
_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
# In the file, but no part of the score: BLIP's contrastive projections, and a counter 0, 1, 2, ...
_UNUSED = frozenset(
    {f"blip.{side}_proj.{kind}" for side in ("vision", "text") for kind in ("weight", "bias")}
    | {f"{_TEXT}embeddings.position_ids"}
)
_OUTSIDE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_MED_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "vocab_size",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
)


class ImageRewardModel(nn.Module):
    """The picture's tokens, the text that attends to them, and a linear head on the text's first token."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        """Make it with random weights."""
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        # No activations between them, as published; dropout is nothing outside of training.
        widths = (int(text.hidden_size), 1024, 128, 64, 16, 1)
        a, b, c, d, e = (nn.Linear(*pair) for pair in pairwise(widths))
        self.head = nn.Sequential(a, nn.Identity(), b, nn.Identity(), c, nn.Identity(), d, e)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The head's output, [batch], float32.

        Args:
            pixels: normalised, [batch, 3, size, size].
            ids: tokens, [batch, length], the class token first.
            mask: 1 where a token is text, [batch, length].
        """
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        out: Tensor = self.head(read[:, 0].float())
        return out.squeeze(1)


def load_image_reward(tensors: Mapping[str, Tensor], med_config: Path, name: str) -> ImageRewardModel:
    """The model, float32.

    Args:
        tensors: the published state dict.
        med_config: the file med_config.json, BLIP's description of its text encoder.
        name: of the checkpoint, for messages.

    Raises:
        ValueError: when the checkpoint lacks something, has something else, or med_config.json does not describe it.
    """
    if not med_config.is_file():
        raise ValueError(f"the model's folder holds no {med_config.name}")
    med = json.loads(med_config.read_text())
    if missing := [field for field in _MED_FIELDS if field not in med]:
        raise ValueError(f"{med_config.name} has no {missing[0]}")
    width, _, patch, _ = shape_of(tensors, f"{_VISION}patch_embed.proj.weight", name)
    _, positions, _ = shape_of(tensors, f"{_VISION}pos_embed", name)
    if width % VISION_HEAD:
        raise ValueError(f"{name} does not fit: its vision width {width} is no multiple of a head's, {VISION_HEAD}")
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=shape_of(tensors, f"{_VISION}blocks.0.mlp.fc1.weight", name)[0],
        num_hidden_layers=len({m[1] for key in tensors if (m := _BLOCK.match(key.removeprefix(_VISION)))}),
        num_attention_heads=width // VISION_HEAD,
        image_size=round((positions - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # the original's; transformers' default is another
    )
    text = BlipTextConfig(**{field: med[field] for field in _MED_FIELDS}, encoder_hidden_size=width, is_decoder=True)
    model = ImageRewardModel(vision, text)
    load_exactly(model, renamed(tensors), name)
    return model


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by ImageRewardModel's names, without those that are not used; what is unknown keeps its name."""
    out = {}
    for key, tensor in tensors.items():
        if key.startswith(_VISION):
            out["vision." + _vision_name(key.removeprefix(_VISION))] = tensor
        elif key not in _UNUSED:
            out[re.sub(rf"^{re.escape(_HEAD)}", "head.", re.sub(rf"^{re.escape(_TEXT)}", "text.", key))] = tensor
    return out


def _vision_name(key: str) -> str:
    block = _BLOCK.fullmatch(key)
    table, prefix, rest = (_OUTSIDE, "", key) if block is None else (_IN_BLOCK, f"encoder.layers.{block[1]}.", block[2])
    if rest in table:  # a parameter of its own
        return prefix + table[rest]
    stem, _, kind = rest.rpartition(".")
    return f"{prefix}{table.get(stem, stem)}.{kind}"
