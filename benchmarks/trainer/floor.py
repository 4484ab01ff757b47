"""The floor, in a process of its own: what the network's passes alone cost, with diffusers' U-Net and PEFT's LoRA.

`python -m benchmarks.trainer.floor KIND WORKLOAD`: `reinforce` gives the seconds of an epoch's passes, `personalize`
those of a step's, `passes` those of a single one. Nothing of ours is in it, so that a trick of ours can go below the
floor. In half precision passes run under autocast, as peers' do. On a GPU it also counts the passes' floating-point
operations and finds out how many of a large matrix product the device does in a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig

from benchmarks.trainer.clock import Clock
from benchmarks.trainer.workload import Workload, typical

SIDE = 8192  # of the product's matrices
PRODUCTS = 10
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
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
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
    count_operations(epoch, work, clock)


def personalize(work: Workload, clock: Clock) -> None:
    """The passes of a step."""
    network = Network(work)

    def step(_: int) -> None:
        network.train(work.batch)

    clock.laps(step, 5, work.steps - 5)
    count_operations(step, work, clock)


def passes(work: Workload, clock: Clock) -> None:
    """A forward pass, and a forward and a backward pass."""
    network = Network(work)
    clock.one_pass("forward_s", lambda: network.sample(work.sampling_batch * work.rows))
    clock.one_pass("training_s", lambda: network.train(work.train_batch * work.rows))


def count_operations(lap: Callable[[int], None], work: Workload, clock: Clock) -> None:
    """Operations of a lap, and how many the device does in a second at most; for half precision on a GPU alone."""
    if work.device == "cpu" or work.dtype == "fp32":
        return
    clock.look_at_memory()  # before a large product takes some
    with FlopCounterMode(display=False) as counter:
        lap(0)
    numbers = clock.result.numbers
    numbers["operations"] = float(counter.get_total_flops())
    matrix = torch.randn(SIDE, SIDE, device=work.device, dtype=DTYPES[work.dtype])
    product = Clock(work.device, work.threads)
    product.laps(lambda _: matrix @ matrix, 3, PRODUCTS)
    numbers["operations_per_s"] = 2 * SIDE**3 / typical([product.result])


def main() -> None:
    """One kind of floor."""
    work = Workload.read(Path(sys.argv[2]))
    clock = Clock(work.device, work.threads)
    {"reinforce": reinforce, "personalize": personalize, "passes": passes}[sys.argv[1]](work, clock)
    clock.finish("torch", "diffusers", "peft").say()


if __name__ == "__main__":
    main()
