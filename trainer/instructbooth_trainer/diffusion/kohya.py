"""An adapter under the names of kohya-ss/sd-scripts, which ComfyUI, AUTOMATIC1111 and others read.

`unet.down_blocks.0...to_q.lora_A.weight` is `lora_unet_down_blocks_0...to_q.lora_down.weight` there, and every layer
has its alpha beside it. Of DoRA there are several spellings, none of which stock diffusers reads: it is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

KOHYA_WEIGHTS = "kohya/lora.safetensors"  # in a folder of its own: a LoRA's folder should hold one LoRA
_COMPONENTS = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
_FACTORS = {"lora_A": "lora_down", "lora_B": "lora_up"}


def stable_diffusion_layer(component: str, module: str) -> str:
    """A layer's name in the file, of Stable Diffusion 1.x and 2.x."""
    return _COMPONENTS[component] + module.removeprefix("text_model.").replace(".", "_")


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
