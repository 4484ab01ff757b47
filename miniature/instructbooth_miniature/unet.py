"""Stage "unet": the denoiser and the text encoder, trained jointly on cached latents.

v-prediction with zero terminal signal (arXiv 2305.08891), so that whole-picture colours can be asked for; weights of
min-SNR (arXiv 2303.09556) with gamma 5; 10 % of captions are empty, for classifier-free guidance. Runs on one or
several single-threaded processes that average their gradients (gloo).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextModel

from .emphasis import Things, cell_weights, draw, draw_timesteps
from .muon import Muon, inner_matrices, other_parameters
from .processes import average_gradients
from .progress import Progress
from .text import WIDTH
from .training import (
    DECAY_SHARE,
    Ema,
    fast_precision,
    load_checkpoint,
    optimise,
    save_checkpoint,
    seeded,
    trapezoid_rate,
)
from .vae import LATENT_CHANNELS, LATENT_SIDE

TRAIN_TIMESTEPS: Final = 1000
EMPTY_CAPTION_SHARE: Final = 0.1
MIN_SNR_GAMMA: Final = 5.0
EMA_DECAY: Final = 0.999
TEXT_RATE_SHARE: Final = 0.25
"""The text encoder's learning rate as a share of the UNet's: it had its head start."""


def make_scheduler() -> DDIMScheduler:
    """The noise schedule that training and sampling share."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


def make_unet() -> UNet2DConditionModel:
    """An untrained denoiser: three levels (16, 8, 4), attention on the lower two."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


@dataclass(frozen=True)
class Corpus:
    """Scaled latents [scenes, channels, 16, 16] float32; ids int64 [scenes, captions, tokens]; empty ids [tokens]."""

    latents: torch.Tensor
    ids: torch.Tensor
    empty: torch.Tensor
    things: Things


@dataclass(frozen=True)
class UnetRun:
    """How long and how fast: `batch` is per process."""

    steps: int
    batch: int
    peak_rate: float
    checkpoint_steps: int
    seed: int


def denoising_loss(
    unet: nn.Module,
    text_encoder: nn.Module,
    scheduler: DDIMScheduler,
    corpus: Corpus,
    batch: int,
    generator: torch.Generator,
    emphasis: bool,
) -> torch.Tensor:
    """Weighted squared error of the predicted velocity for one random batch; a scalar.

    `emphasis`: look harder at things and at the words for shapes (the module `emphasis` says how and why).
    """
    index = draw(corpus.things.kinds, batch, generator, emphasis)
    which = torch.randint(corpus.ids.shape[1], (batch,), generator=generator)
    ids = corpus.ids[index, which]
    dropped = torch.rand(batch, generator=generator) < EMPTY_CAPTION_SHARE
    ids = torch.where(dropped[:, None], corpus.empty, ids)
    latents = corpus.latents[index]
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = draw_timesteps(TRAIN_TIMESTEPS, batch, generator, emphasis)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    with fast_precision():
        hidden = text_encoder(input_ids=ids).last_hidden_state
        predicted = unet(noisy, timesteps, encoder_hidden_states=hidden).sample
    weights = cell_weights(corpus.things.masks[index], emphasis)
    error = ((predicted.float() - target).square().mean(dim=1) * weights).mean(dim=(1, 2))
    alphas = scheduler.alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    weighted: torch.Tensor = error * (snr.clamp(max=MIN_SNR_GAMMA) + 1) / (snr + 1)
    return weighted.mean()


def train_unet(
    corpus: Corpus,
    text_encoder: CLIPTextModel,
    work: Path,
    run: UnetRun,
    on_checkpoint: Callable[[dict[str, Ema]], None],
    rank: int = 0,
    world_size: int = 1,
    earlier: dict[str, torch.Tensor] | None = None,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train both, resuming from `work`; returns their moving averages (the same ones on every rank).

    `earlier`: the denoiser's weights to start from when there is no checkpoint.

    Rank 0 calls `on_checkpoint` with the averages of "unet" and "text" after each checkpoint.
    """
    torch.manual_seed(run.seed)
    unet, scheduler = make_unet(), make_scheduler()
    # Measured on a CPU with AMX: the backward pass of the fused bf16 attention takes longer than all else together.
    unet.set_attn_processor(AttnProcessor())
    modules: dict[str, nn.Module] = {"unet": unet, "text": text_encoder.train()}
    groups = [
        {"params": other_parameters(unet), "share": 1.0},
        {"params": list(text_encoder.parameters()), "share": TEXT_RATE_SHARE},
    ]
    adamw = torch.optim.AdamW(groups, lr=run.peak_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    optimizers = [adamw, Muon(inner_matrices(unet), rank, world_size)]
    emas = {name: Ema(module, EMA_DECAY) for name, module in modules.items()}
    checkpoint = work / "unet-checkpoint"
    start = load_checkpoint(checkpoint, modules, emas, optimizers)
    if start == 0 and earlier is not None:
        unet.load_state_dict(earlier)
        emas["unet"] = Ema(unet, EMA_DECAY)
    progress = Progress(f"unet rank {rank}", run.steps, start)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    for step in range(start, run.steps):
        rate = trapezoid_rate(step, run.steps, run.peak_rate)
        generator = seeded(run.seed, f"unet{rank}", step)
        emphasis = step < (1 - DECAY_SHARE) * run.steps
        loss = denoising_loss(unet, text_encoder, scheduler, corpus, run.batch, generator, emphasis)
        optimise(loss, parameters, optimizers, rate, lambda: average_gradients(parameters, world_size))
        for name, module in modules.items():
            emas[name].update(module, step)
        if rank == 0:
            progress.advance({"loss": float(loss.detach()), "lr": rate})
            if (step + 1) % run.checkpoint_steps == 0 or step + 1 == run.steps:
                save_checkpoint(checkpoint, step + 1, modules, emas, optimizers)
                on_checkpoint(emas)
    for name, module in modules.items():
        emas[name].copy_to(module)
    return unet.eval(), text_encoder.eval()
