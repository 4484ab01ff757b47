"""Stage "restore": fills the work folder from the shipped weights, so that another machine can train them longer.

What a build keeps between sittings (checkpoints, latents) is far larger than what it ships. From the shipped weights
the autoencoder, the text encoder and the denoiser can go on; only the optimizer's moments start anew.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from .data import load_data
from .vae import encode_means


def restore(work: Path, weights: Path, num_shards: int) -> None:
    """Write into `work` what the stages would have left there; whatever is there already stays.

    A denoiser that the work folder trained itself, from nothing, also stays: the shipped one is not mixed in.

    Raises FileNotFoundError if the data of `num_shards` shards is missing: run the stage "data" first.
    """
    pipeline = weights / "pipeline"
    if not (work / "vae" / "config.json").exists():
        vae = AutoencoderKL.from_pretrained(str(pipeline / "vae")).float().eval()
        latents = encode_means(vae, load_data(work / "data", num_shards).pictures)
        save_file({"latents": latents.contiguous()}, work / "latents.safetensors")
        vae.save_pretrained(work / "vae-encoder")
        vae.save_pretrained(work / "vae")
    if not (work / "text_encoder" / "config.json").exists():
        CLIPTextModel.from_pretrained(str(pipeline / "text_encoder")).float().save_pretrained(work / "text_encoder")
    noted = {"clip-figures": "clip"}
    start = work / "unet-start.safetensors"
    own_denoiser = (work / "unet-checkpoint").exists() or start.exists()
    if not own_denoiser:
        noted["unet-seen"] = "unet"
    figures = json.loads((weights.parent / "figures.json").read_text())
    for name, group in noted.items():
        if group in figures and not (work / f"{name}.json").exists():
            (work / f"{name}.json").write_text(json.dumps(figures[group]))
    for name in ("clip", "fidelity"):
        if not (work / name).exists():
            shutil.copytree(weights / name, work / name)
    if not own_denoiser:  # last: were it there before the notes, a run killed between would never write them
        unet = UNet2DConditionModel.from_pretrained(str(pipeline / "unet")).float()
        save_file(dict(unet.named_parameters()), start)
