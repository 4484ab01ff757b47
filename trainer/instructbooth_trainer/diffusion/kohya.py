"""An adapter under the names of kohya-ss/sd-scripts, which ComfyUI, AUTOMATIC1111 and others read.

`unet.down_blocks.0...to_q.lora_A.weight` is `lora_unet_down_blocks_0...to_q.lora_down.weight` there, and every layer
has its alpha beside it. DoRA is not written: the `dora_scale` of these programs is a length per input of a layer,
PEFT's is one per output (KohakuBlueleaf/LyCORIS issue 216), so that neither can be turned into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

KOHYA_WEIGHTS = "kohya/lora.safetensors"  # in a folder of its own: a LoRA's folder should hold one LoRA
_COMPONENTS = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
_SDXL_TEXT = {"text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}
_FACTORS = {"lora_A": "lora_down", "lora_B": "lora_up"}


def stable_diffusion_layer(component: str, module: str) -> str:
    """A layer's name in the file, of Stable Diffusion 1.x and 2.x."""
    return _COMPONENTS[component] + module.removeprefix("text_model.").replace(".", "_")


def sdxl_layer(unet: Any) -> Callable[[str, str], str]:
    """(component, module) -> a layer's name in the file, of Stable Diffusion XL.

    Kohya's U-Net of that family has the names of the original code, where blocks are numbered through.

    Args:
        unet: of diffusers; how it is built says which number a block has.
    """

    def name(component: str, module: str) -> str:
        if component in _SDXL_TEXT:
            return _SDXL_TEXT[component] + module.removeprefix("text_model.").replace(".", "_")
        return "lora_unet_" + original_module(module, unet).replace(".", "_")

    return name


_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def original_module(module: str, unet: Any) -> str:
    """A module of diffusers' U-Net by the name it has in the original code of latent diffusion."""
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    parts = module.split(".")
    if parts[0] == "mid_block":
        kind, rest = f"{parts[1]}.{parts[2]}", parts[3:]
        return f"middle_block.{_MIDDLE[kind]}.{_inside(parts[1], rest)}"
    block, kind, layer, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
    each = int(unet.config.layers_per_block) + 1
    if parts[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * each}.0.op"
        return f"input_blocks.{1 + block * each + layer}.{int(kind == 'attentions')}.{_inside(kind, rest)}"
    if kind == "upsamplers":  # behind the last resnet, and the last attention where there is one
        place = 2 if hasattr(unet.up_blocks[block], "attentions") else 1
        return f"output_blocks.{block * each + each - 1}.{place}.conv"
    return f"output_blocks.{block * each + layer}.{int(kind == 'attentions')}.{_inside(kind, rest)}"


def _inside(kind: str, rest: list[str]) -> str:
    return _RESNET[rest[0]] if kind == "resnets" else ".".join(rest)


def kohya_tensors(
    tensors: Mapping[str, Tensor], alpha: float, layer_name: Callable[[str, str], str] = stable_diffusion_layer
) -> dict[str, Tensor]:
    """Rename an adapter's weights.

    Args:
        tensors: by the names `Adapter.tensors` gives them; LoRA's two factors and nothing else.
        alpha: the adapter's, of all layers.
        layer_name: (component, module) -> name of the layer, as the family has it.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        component, _, rest = name.partition(".")
        module, factor, _ = rest.rsplit(".", 2)
        layer = layer_name(component, module)
        renamed[f"{layer}.{_FACTORS[factor]}.weight"] = tensor.contiguous()
        renamed[f"{layer}.alpha"] = torch.tensor(float(alpha))
    return renamed


def save_kohya(
    tensors: Mapping[str, Tensor],
    alpha: float,
    path: Path,
    layer_name: Callable[[str, str], str] = stable_diffusion_layer,
) -> None:
    """Write `kohya_tensors` into a file."""
    save_file(kohya_tensors(tensors, alpha, layer_name), path)
