"""The LoRA that is trained: made, saved, loaded and swapped. One adapter per model, in float32.

On disk it is `pytorch_lora_weights.safetensors`, which `load_lora_weights` of the family's own pipeline reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from instructbooth.spec.personalization import Lora
from instructbooth_trainer.diffusion.lora import fuse
from instructbooth_trainer.diffusion.model import CLIP_TARGETS, DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.runtime.errors import UserError

WEIGHTS = "pytorch_lora_weights.safetensors"


class Adapter:
    """The adapter of a model's denoiser and, if asked for, of its text encoders."""

    def __init__(self, model: DiffusionModel, lora: Lora, *, text_encoder: bool, seed: int) -> None:
        """Add a fresh adapter (B = 0: it changes nothing yet) to a model that has none; A is drawn from `seed`."""
        self._modules: dict[str, Any] = {model.denoiser_name: model.denoiser}
        self._device, self._dropout = model.device, lora.dropout
        self._pipeline, self._denoiser = type(model.pipeline), model.denoiser_name
        self.kohya_layer = model.kohya_layer()
        targets = denoiser_targets(model, lora)
        if text_encoder:
            self._modules |= model.text_encoders()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, module in self._modules.items():
                module.add_adapter(
                    LoraConfig(
                        r=lora.rank,
                        lora_alpha=lora.alpha,
                        lora_dropout=lora.dropout,
                        use_dora=lora.use_dora,
                        init_lora_weights="gaussian",
                        target_modules=targets if name == self._denoiser else CLIP_TARGETS,
                    )
                )
        for module in self._modules.values():
            module.eval()  # new layers come in training mode, in which every prediction would drop something
            for parameter_name, parameter in module.named_parameters():
                parameter.requires_grad_("lora_" in parameter_name)
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            fuse(module)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained, in a fixed order."""
        return [p for module in self._modules.values() for p in module.parameters() if p.requires_grad]

    def freeze_text_encoder(self) -> None:
        """Stop training the text encoders' adapters, if there are any; they stay in place and are saved along."""
        for name, module in self._modules.items():
            if name != self._denoiser:
                module.requires_grad_(False)

    @contextmanager
    def dropping(self, *key: int | str) -> Iterator[None]:
        """With dropout, which is chosen by the key alone; keep the backward pass inside. Nothing without dropout."""
        if not self._dropout:
            yield
            return
        # The layers as a whole, not their dropout alone: a DoRA layer asks itself whether it trains. The rest of the
        # model stays as it is evaluated.
        layers = [m for module in self._modules.values() for m in module.modules() if isinstance(m, LoraLayer)]
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(keyed_generator(*key).initial_seed())
            for layer in layers:
                layer.train()
            try:
                yield
            finally:
                for layer in layers:
                    layer.eval()

    def _live(self, component: str) -> dict[str, Tensor]:
        # PEFT's own names: diffusers reads them all, while its older names lose the attention layers on the way back
        # when convolutions are among the targets (seen with diffusers 0.42).
        tensors: dict[str, Tensor] = get_peft_model_state_dict(self._modules[component])
        return tensors

    def live(self) -> dict[str, Tensor]:
        """The adapter's weights themselves by PEFT's names with the component before them."""
        return {f"{c}.{name}": tensor for c in self._modules for name, tensor in self._live(c).items()}

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the adapter's weights by the names of `live`, on the CPU."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.live().items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the weights in place.

        Raises:
            UserError: `AdapterMismatch` when names or shapes are not this adapter's.
        """
        live = self.live()
        wrong = sorted(set(live) ^ set(tensors)) or [n for n in live if live[n].shape != tensors[n].shape]
        if wrong:
            raise UserError(
                "AdapterMismatch",
                f"{len(wrong)} of the adapter's weights differ in name or shape, such as {wrong[0]}: it was trained "
                "with another spec.personalization.lora, trainTextEncoder or base model",
            )
        for name, tensor in live.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def swapped(self, tensors: dict[str, Tensor]) -> Iterator[None]:
        """With other weights in place, such as the reference policy's; the present ones come back bit for bit."""
        present = self.tensors()
        self.load_tensors(tensors)
        try:
            yield
        finally:
            self.load_tensors(present)

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors` in diffusers' format, with rank and alpha in its header."""
        layers = {f"{c}_lora_layers": {_on_disk(n): t.cpu() for n, t in self._live(c).items()} for c in self._modules}
        header = {f"{c}_lora_adapter_metadata": _header(m.peft_config["default"]) for c, m in self._modules.items()}
        self._pipeline.save_lora_weights(str(folder), **layers, **header)
        _sort_header(folder / WEIGHTS)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: `AdapterCorrupt` when the file is no readable safetensors file, `AdapterMismatch` as above.
        """
        try:
            tensors = load_file(folder / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise UserError("AdapterCorrupt", f"{WEIGHTS} of the earlier stage cannot be read: {error}") from error
        self.load_tensors({_in_memory(name): tensor for name, tensor in tensors.items()})


def denoiser_targets(model: DiffusionModel, lora: Lora) -> list[str]:
    """Ends of the names of the denoiser's layers that are adapted.

    Raises:
        UserError: `LoraTargetsInvalid` when one of targetModules fits no layer, or one that is no linear layer and no
            convolution.
    """
    if lora.target_modules is None:
        return model.targets[lora.targets]
    layers = dict(model.denoiser.named_modules())
    for target in lora.target_modules:
        found = [layer for name, layer in layers.items() if f".{name}".endswith(f".{target}")]
        if not found or not all(isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) for layer in found):
            fits = f"fits a {type(found[0]).__name__}" if found else "fits none of its layers"
            raise UserError(
                "LoraTargetsInvalid",
                f"spec.personalization.lora.targetModules: {target!r} {fits}; name linear layers or convolutions of "
                f"the {model.denoiser_name}, such as {', '.join(model.targets['all'])}",
            )
    return lora.target_modules


# DoRA's lengths: PEFT has no `.weight` behind them, diffusers takes both, and transformers finds those of a text
# encoder only with it (seen with 5.23: they are reported as missing, and stay what a fresh adapter has).
_LENGTHS = ".lora_magnitude_vector"


def _on_disk(name: str) -> str:
    return f"{name}.weight" if name.endswith(_LENGTHS) else name


def _in_memory(name: str) -> str:
    return name.removesuffix(".weight") if name.endswith(f"{_LENGTHS}.weight") else name


def _sort_header(path: Path) -> None:
    """Rewrite a safetensors file's header in sorted order: its writer orders metadata at random, and equal adapters
    should be equal files. Offsets count from the header's end, so it may change its length.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def _header(config: LoraConfig) -> dict[str, Any]:
    """The adapter's configuration without what differs between equal runs: the order of sets and local paths.

    And without dropout: whoever loads the file does not train, but PEFT would give him layers in training mode.
    """
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return settings | {"base_model_name_or_path": None, "lora_dropout": 0.0}
