"""open_clip's ViT checkpoints as transformers' CLIPModel: names, layouts and sizes.

Layouts that differ: open_clip keeps queries, keys and values as one matrix, [3 width, width], and multiplies by its
projections from the right. Everything but the number of heads follows from shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from instructbooth_trainer.rewards.published import load_exactly, shape_of

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(\w+(?:\.\w+)?)[._](weight|bias)")
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TEXT, _VISION = "text_model", "vision_model"
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": f"{_TEXT}.embeddings.token_embedding.weight",
    "positional_embedding": f"{_TEXT}.embeddings.position_embedding.weight",
    "ln_final.weight": f"{_TEXT}.final_layer_norm.weight",
    "ln_final.bias": f"{_TEXT}.final_layer_norm.bias",
    "visual.class_embedding": f"{_VISION}.embeddings.class_embedding",
    "visual.conv1.weight": f"{_VISION}.embeddings.patch_embedding.weight",
    "visual.positional_embedding": f"{_VISION}.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": f"{_VISION}.pre_layrnorm.weight",
    "visual.ln_pre.bias": f"{_VISION}.pre_layrnorm.bias",
    "visual.ln_post.weight": f"{_VISION}.post_layernorm.weight",
    "visual.ln_post.bias": f"{_VISION}.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}


def load_open_clip(
    tensors: Mapping[str, Tensor], name: str, *, text_head_width: int, vision_head_width: int, eos_token_id: int
) -> CLIPModel:
    """The CLIPModel, float32, of an open_clip ViT with GELU.

    Args:
        tensors: open_clip's state dict.
        name: of the checkpoint, for messages.
        text_head_width: width of one attention head of the text model.
        vision_head_width: the same of the vision model.
        eos_token_id: the token whose place is the text's embedding; open_clip takes the one with the highest number.

    Raises:
        ValueError: when the checkpoint lacks something, has something else, or its widths are no multiple of a head's.
    """
    vocabulary, text_width = shape_of(tensors, "token_embedding.weight", name)
    vision_width, _, _, patch = shape_of(tensors, "visual.conv1.weight", name)
    positions, _ = shape_of(tensors, "visual.positional_embedding", name)
    (length, _), (_, projection) = (shape_of(tensors, key, name) for key in ("positional_embedding", "text_projection"))
    for part, width, head in (("text", text_width, text_head_width), ("vision", vision_width, vision_head_width)):
        if width % head:
            raise ValueError(f"{name} does not fit: its {part} width {width} is no multiple of a head's, {head}")
    shared = {"hidden_act": "gelu", "projection_dim": projection}
    config = CLIPConfig(
        projection_dim=projection,
        text_config={
            **shared,
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "hidden_size": text_width,
            "intermediate_size": shape_of(tensors, "transformer.resblocks.0.mlp.c_fc.weight", name)[0],
            "num_hidden_layers": _layers(tensors, "transformer."),
            "num_attention_heads": text_width // text_head_width,
            "eos_token_id": eos_token_id,
        },
        vision_config={
            **shared,
            "image_size": round((positions - 1) ** 0.5) * patch,
            "patch_size": patch,
            "hidden_size": vision_width,
            "intermediate_size": shape_of(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", name)[0],
            "num_hidden_layers": _layers(tensors, "visual.transformer."),
            "num_attention_heads": vision_width // vision_head_width,
        },
    )
    model = CLIPModel(config)
    load_exactly(model, renamed(tensors), name)
    return model


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's tensors by transformers' names and in its layouts; what is unknown keeps its name."""
    out: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        block = _BLOCK.fullmatch(key)
        if key in _TRANSPOSED:
            out[_TRANSPOSED[key]] = tensor.T.contiguous()
        elif block is None or (block[3] != "attn.in_proj" and block[3] not in _IN_BLOCK):
            out[_OUTSIDE.get(key, key)] = tensor
        else:
            layer = f"{_VISION if block[1] else _TEXT}.encoder.layers.{block[2]}"
            if block[3] == "attn.in_proj":
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    out[f"{layer}.self_attn.{letter}_proj.{block[4]}"] = part.contiguous()
            else:
                out[f"{layer}.{_IN_BLOCK[block[3]]}.{block[4]}"] = tensor
    return out


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.split(".resblocks.")[1].split(".")[0] for key in tensors if key.startswith(f"{prefix}resblocks.")})
