"""The floor, in a process of its own: what the network's passes alone cost, with diffusers' U-Net and PEFT's LoRA.

`python -m benchmarks.trainer.floor KIND WORKLOAD`: `reinforce` gives the seconds of an epoch's passes, `personalize`
those of a step's. Nothing of ours is in it, so that a trick of ours can go below the floor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextConfig

from benchmarks.trainer.clock import Clock
from benchmarks.trainer.workload import Workload

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Network:
    """A model's U-Net with a fresh adapter on its attention."""

    def __init__(self, work: Workload) -> None:
        folder, self._device, self._dtype = Path(work.model), work.device, DTYPES[work.dtype]
        self._unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=self._dtype).to(work.device)
        self._unet.requires_grad_(False)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        self._unet.add_adapter(LoraConfig(r=work.rank, lora_alpha=work.rank, target_modules=targets))
        for parameter in self._unet.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        side = int(self._unet.config.sample_size)
        self._latents = (int(self._unet.config.in_channels), side, side)
        text = CLIPTextConfig.from_pretrained(folder / "text_encoder")
        self._text = (int(text.max_position_embeddings), int(text.hidden_size))

    def _predict(self, rows: int) -> torch.Tensor:
        latents, text = (
            torch.zeros(rows, *shape, device=self._device, dtype=self._dtype) for shape in (self._latents, self._text)
        )
        steps = torch.full((rows,), 500, device=self._device)
        prediction: torch.Tensor = self._unet(latents, steps, encoder_hidden_states=text).sample
        return prediction

    @torch.no_grad()
    def sample(self, rows: int) -> None:
        """A forward pass."""
        self._unet.eval()
        self._predict(rows)

    def train(self, rows: int) -> None:
        """A forward and a backward pass."""
        self._predict(rows).float().square().mean().backward()  # type: ignore[no-untyped-call]


def reinforce(work: Workload, clock: Clock) -> None:
    """The passes of an epoch."""
    network = Network(work)

    def epoch(_: int) -> None:
        for _ in range(work.sampling_passes):
            network.sample(work.sampling_batch * work.rows)
        for _ in range(work.training_passes):
            network.train(work.train_batch * work.rows)

    clock.laps(epoch, work.warmup_epochs, work.epochs)


def personalize(work: Workload, clock: Clock) -> None:
    """The passes of a step."""
    network = Network(work)
    clock.laps(lambda _: network.train(work.batch), 5, work.steps - 5)


def main() -> None:
    """One kind of floor."""
    work = Workload.read(Path(sys.argv[2]))
    clock = Clock(work.device, work.threads)
    {"reinforce": reinforce, "personalize": personalize}[sys.argv[1]](work, clock)
    clock.finish("torch", "diffusers", "peft").say()


if __name__ == "__main__":
    main()
