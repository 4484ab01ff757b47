"""Stage "vae": an AutoencoderKL that packs 64x64 pictures into 16x16 latents.

Loss: L1 of pixels, L1 of their gradients (sharp edges), and a very small KL term (a larger one
switched a latent channel off). Afterwards every latent channel is brought to mean 0 and
deviation 1 inside the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from .progress import Progress
from .training import Ema, cosine_rate, fast_precision, load_checkpoint, optimise, save_checkpoint, seeded

LATENT_CHANNELS: Final = 6
LATENT_SIDE: Final = 16
"""Width and height of a latent, in cells."""
KL_WEIGHT: Final = 1e-6
GRADIENT_WEIGHT: Final = 1.0
NORM_GROUPS: Final = 2
"""Few and wide: a group of two channels would leave nothing but a sign of a flat colour."""
DECORRELATION_WEIGHT: Final = 0.05
"""Without it several latent channels came out as copies of one (correlation .97)."""
BATCH: Final = 8
CROP: Final = 32
"""Side of the crops (pixels) of the first steps: the network is convolutional, and they cost a quarter."""
CROPS: Final = 28
CROP_SHARE: Final = 0.85
PEAK_RATE: Final = 2e-3
DECODER_RATE: Final = 1.5e-3
LATENT_NOISE: Final = 0.06
"""Deviation of the noise on (unit deviation) latents while the decoder is trained alone."""
CHECKPOINT_STEPS: Final = 500


def make_vae() -> AutoencoderKL:
    """An untrained autoencoder, 3x64x64 <-> 6x16x16, without attention."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=NORM_GROUPS,
        latent_channels=LATENT_CHANNELS,
        sample_size=64,
        mid_block_add_attention=False,
    )


def to_model_range(pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [batch, height, width, 3] -> float32 [batch, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _gradients(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pictures[..., 1:] - pictures[..., :-1], pictures[..., 1:, :] - pictures[..., :-1, :]


def picture_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """L1 of the pixels plus L1 of their differences along x and y, which asks for sharp edges; a scalar."""
    pairs = zip(_gradients(decoded), _gradients(pictures), strict=True)
    edges = torch.stack([functional.l1_loss(ours, theirs) for ours, theirs in pairs]).sum()
    return functional.l1_loss(decoded, pictures) + GRADIENT_WEIGHT * edges


def vae_loss(vae: AutoencoderKL, pictures: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The loss and its parts for pictures [batch, 3, height, width] in [-1, 1]."""
    posterior = vae.encode(pictures).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    latents = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
    decoded = vae.decode(latents).sample.float()
    reconstruction = picture_loss(decoded, pictures)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
    copies = correlation(mean)
    loss = reconstruction + KL_WEIGHT * kl + DECORRELATION_WEIGHT * copies
    return {"loss": loss, "pictures": reconstruction, "kl": kl, "correlation": copies}


def correlation(latents: torch.Tensor) -> torch.Tensor:
    """Mean squared correlation between different channels of latents [batch, channels, height, width]; a scalar."""
    channels = latents.shape[1]
    matrix = torch.corrcoef(latents.transpose(0, 1).flatten(1))
    return (matrix - torch.eye(channels)).square().sum() / (channels * (channels - 1))


def _random_crops(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One crop of each picture: [batch, 3, 64, 64] -> [batch, 3, CROP, CROP], at multiples of 4 like latents."""
    corners = torch.randint((pictures.shape[-1] - CROP) // 4 + 1, (len(pictures), 2), generator=generator) * 4
    return torch.stack(
        [picture[:, y : y + CROP, x : x + CROP] for picture, (y, x) in zip(pictures, corners.tolist(), strict=True)]
    )


def train_vae(pictures: npt.NDArray[np.uint8], work: Path, seed: int, steps: int) -> AutoencoderKL:
    """Train on pictures [pictures, 64, 64, 3] uint8, resuming from `work`; returns the averaged model."""
    torch.manual_seed(seed)
    vae = make_vae()
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    ema = Ema(vae, 0.998)
    checkpoint = work / "vae-checkpoint"
    start = load_checkpoint(checkpoint, {"vae": vae}, {"vae": ema}, [optimizer])
    progress = Progress("vae", steps, start)
    for step in range(start, steps):
        generator = seeded(seed, "vae", step)
        count = CROPS if step < CROP_SHARE * steps else BATCH
        index = torch.randint(len(pictures), (count,), generator=generator).numpy()
        batch = to_model_range(pictures[index])
        if step < CROP_SHARE * steps:
            batch = _random_crops(batch, generator)
        with fast_precision():
            parts = vae_loss(vae, batch, generator)
        optimise(parts["loss"], parameters, [optimizer], cosine_rate(step, steps, PEAK_RATE))
        ema.update(vae, step)
        progress.advance({name: float(value.detach()) for name, value in parts.items()})
        if (step + 1) % CHECKPOINT_STEPS == 0:
            save_checkpoint(checkpoint, step + 1, {"vae": vae}, {"vae": ema}, [optimizer])
    ema.copy_to(vae)
    return vae.eval()


def train_decoder(
    vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], latents: torch.Tensor, work: Path, seed: int, steps: int
) -> None:
    """Go on training the decoder alone, in place, from scaled latents [pictures, channels, 16, 16].

    The encoder stays as it is, so latents that were cached stay true and the denoiser can be trained meanwhile. A
    little noise on the latents teaches the decoder to forgive a denoiser's small errors.
    """
    decoder = torch.nn.ModuleList([vae.decoder, vae.post_quant_conv])
    parameters = list(decoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=DECODER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    ema = Ema(decoder, 0.998)
    checkpoint = work / "decoder-checkpoint"
    start = load_checkpoint(checkpoint, {"decoder": decoder}, {"decoder": ema}, [optimizer])
    progress = Progress("vae decoder", steps, start)
    side = CROP // 4
    for step in range(start, steps):
        generator = seeded(seed, "decoder", step)
        index = torch.randint(len(pictures), (CROPS,), generator=generator)
        batch, packed = to_model_range(pictures[index.numpy()]), latents[index]
        if step < CROP_SHARE * steps:
            y, x = (int(corner) for corner in torch.randint(16 - side + 1, (2,), generator=generator))
            batch = batch[:, :, 4 * y : 4 * (y + side), 4 * x : 4 * (x + side)]
            packed = packed[:, :, y : y + side, x : x + side]
        else:
            batch, packed = batch[:BATCH], packed[:BATCH]
        noise = torch.randn(packed.shape, generator=generator) * LATENT_NOISE
        with fast_precision():
            decoded = vae.decode(packed + noise).sample.float()
        loss = picture_loss(decoded, batch)
        optimise(loss, parameters, [optimizer], cosine_rate(step, steps, DECODER_RATE))
        ema.update(decoder, step)
        progress.advance({"loss": float(loss.detach())})
        if (step + 1) % CHECKPOINT_STEPS == 0:
            save_checkpoint(checkpoint, step + 1, {"decoder": decoder}, {"decoder": ema}, [optimizer])
    ema.copy_to(decoder)
    vae.eval()


@torch.no_grad()
def encode_means(vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], batch: int = 25) -> torch.Tensor:
    """Unscaled latent means of pictures, float32 [pictures, channels, 16, 16]."""
    chunks = []
    with fast_precision():
        for first in range(0, len(pictures), batch):
            posterior = vae.encode(to_model_range(pictures[first : first + batch])).latent_dist
            chunks.append(posterior.mean.float())
    return torch.cat(chunks)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Fold mean 0 and deviation 1 of every latent channel into the 1x1 convolutions round the latents, in place.

    latents: [pictures, channels, 16, 16], what the encoder gives before; returns what it gives after. `scaling_factor`
    is then 1: one number could not have evened out channels of deviation .4 and 1.9.
    """
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()  # the log-variance's half of the outputs
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean
    out_of.weight *= deviation.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)
    return (latents - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
