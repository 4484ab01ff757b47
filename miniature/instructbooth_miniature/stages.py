"""The stages of the build, each from files of the work folder to files of the work folder."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, ResNetModel

from . import clip as clip_stage
from . import fidelity as fidelity_stage
from . import restore as restore_stage
from . import text as text_stage
from . import unet as unet_stage
from . import vae as vae_stage
from .card import write_card
from .data import CAPTIONS_PER_SCENE, Dataset, build_data, load_data
from .emphasis import find_things
from .pipeline import save_pipeline
from .tokenizer import MAX_TOKENS, make_tokenizer
from .training import Ema

HELD_BACK = 1000
"""Scenes at the end of the data that no stage trains on: the card's figures come from them."""
TEXT_CAPTIONS = 60000
RENDEZVOUS_PORT = 29713


@dataclass(frozen=True)
class Plan:
    """Where the build works and how much it does."""

    work: Path
    weights: Path
    seed: int = 0
    workers: int = 2
    unet_steps: int = 24000
    num_shards: int = 40
    vae_shards: int = 10
    unet_shards: int = 40
    vae_steps: int = 1800
    decoder_steps: int = 3000
    text_steps: int = 350
    clip_steps: int = 3600
    fidelity_steps: int = 1200
    fidelity_identities: int = 5000
    unet_batch: int = 32
    unet_peak_rate: float = 1.0e-3
    checkpoint_steps: int = 250


def _data(plan: Plan, num_shards: int | None = None) -> Dataset:
    return load_data(plan.work / "data", num_shards or plan.num_shards)


def _tokenizer(plan: Plan) -> CLIPTokenizer:
    return make_tokenizer(plan.work / "tokenizer")


def _token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Ids [scenes, captions, tokens] of all captions, in the order of the data."""
    chunks = [text_stage.tokenize(tokenizer, texts[first : first + 4000]) for first in range(0, len(texts), 4000)]
    return torch.cat(chunks).view(-1, CAPTIONS_PER_SCENE, MAX_TOKENS)


def _all_captions(dataset: Dataset) -> list[str]:
    return [text for texts in dataset.captions for text in texts]


def data(plan: Plan) -> None:
    """Render pictures and write captions."""
    build_data(plan.work / "data", plan.seed, plan.num_shards, plan.workers)


def vae(plan: Plan) -> None:
    """Train the autoencoder, then its decoder alone; cache the normalised latents between the two."""
    dataset = _data(plan)
    few = dataset.pictures[: plan.vae_shards * 2000]
    if not (plan.work / "vae-encoder" / "config.json").exists():
        model = vae_stage.train_vae(few, plan.work, plan.seed, plan.vae_steps)
        latents = vae_stage.normalise_latents(
            model, vae_stage.encode_means(model, _data(plan, plan.unet_shards).pictures)
        )
        save_file({"latents": latents.contiguous()}, plan.work / "latents.safetensors")
        model.save_pretrained(plan.work / "vae-encoder")
    if not (plan.work / "vae" / "config.json").exists():
        model = AutoencoderKL.from_pretrained(str(plan.work / "vae-encoder"))
        latents = load_file(plan.work / "latents.safetensors")["latents"][: len(few)]
        vae_stage.train_decoder(model, few, latents, plan.work, plan.seed, plan.decoder_steps)
        model.save_pretrained(plan.work / "vae")


def restore(plan: Plan) -> None:
    """Take up the shipped weights again, to train them longer."""
    restore_stage.restore(plan.work, plan.weights, plan.unet_shards)


def text(plan: Plan) -> None:
    """Give the text encoder its head start."""
    if text_stage.load_or_none(plan.work / "text_encoder") is None:
        tokenizer = _tokenizer(plan)
        texts = _all_captions(_data(plan))[:TEXT_CAPTIONS]
        ids = _token_ids(tokenizer, texts).flatten(0, 1)
        labels = torch.tensor([text_stage.attributes(text) for text in texts])
        encoder = text_stage.train_text_encoder(tokenizer, ids, labels, plan.seed, plan.text_steps)
        encoder.save_pretrained(plan.work / "text_encoder")


def unet(plan: Plan) -> None:
    """Train denoiser and text encoder on `plan.workers` processes."""
    ids = plan.work / "ids.safetensors"
    if not ids.exists():
        tokenizer = _tokenizer(plan)
        empty = text_stage.tokenize(tokenizer, [""])[0]
        captions = _all_captions(_data(plan, plan.unet_shards))
        save_file({"ids": _token_ids(tokenizer, captions), "empty": empty}, ids)
    mp.spawn(_unet_worker, args=(plan,), nprocs=plan.workers)  # type: ignore[attr-defined, no-untyped-call]


def _unet_worker(rank: int, plan: Plan) -> None:
    torch.set_num_threads(1)
    if plan.workers > 1:
        address = f"tcp://127.0.0.1:{RENDEZVOUS_PORT}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=plan.workers)
    tokens = load_file(plan.work / "ids.safetensors")
    latents = load_file(plan.work / "latents.safetensors")["latents"]
    things = find_things(plan.seed, plan.unet_shards)
    corpus = unet_stage.Corpus(latents[:-HELD_BACK], tokens["ids"][:-HELD_BACK], tokens["empty"], things[:-HELD_BACK])
    encoder = CLIPTextModel.from_pretrained(str(plan.work / "text_encoder"))
    run = unet_stage.UnetRun(
        plan.unet_steps, plan.unet_batch // plan.workers, plan.unet_peak_rate, plan.checkpoint_steps, plan.seed
    )

    def snapshot(emas: dict[str, Ema]) -> None:
        save_file(emas["unet"].values, plan.work / "unet-average.safetensors")
        save_file(emas["text"].values, plan.work / "text-average.safetensors")

    start = plan.work / "unet-start.safetensors"
    earlier = load_file(start) if start.exists() else None
    unet_stage.train_unet(corpus, encoder, plan.work, run, snapshot, rank, plan.workers, earlier)


def clip(plan: Plan) -> None:
    """Train the reward model until it has had `plan.clip_steps` steps, from the one that is there if there is one."""
    folder, noted = plan.work / "clip", plan.work / "clip-figures.json"
    before = int(json.loads(noted.read_text())["steps"]) if noted.exists() else 0
    if before >= plan.clip_steps:
        return
    torch.manual_seed(plan.seed)
    tokenizer = _tokenizer(plan)
    model = CLIPModel.from_pretrained(str(folder)).float() if before else clip_stage.make_clip(tokenizer)
    steps, dataset = plan.clip_steps - before, _data(plan)
    clip_stage.train_clip(model, tokenizer, plan.work, plan.seed, before, steps)
    pictures, texts = dataset.pictures[-HELD_BACK:], [texts[0] for texts in dataset.captions[-HELD_BACK:]]
    rng = random.Random(f"false/{plan.seed}")
    ids, false_ids = (
        text_stage.tokenize(tokenizer, captions)
        for captions in (texts, [clip_stage.make_false(text, rng) for text in texts])
    )
    figures = clip_stage.clip_figures(model, pictures, ids, false_ids)
    clip_stage.save_clip(model, tokenizer, folder)
    noted.write_text(json.dumps({"steps": plan.clip_steps} | figures, indent=1))
    shutil.rmtree(plan.work / "clip-checkpoint", ignore_errors=True)


def fidelity(plan: Plan) -> None:
    """Train the subject-fidelity encoder."""
    if (plan.work / "fidelity" / "config.json").exists():
        return
    pictures = fidelity_stage.render_identities(plan.work, plan.seed, plan.fidelity_identities)
    encoder = fidelity_stage.train_fidelity(pictures, plan.seed, plan.fidelity_steps)
    fidelity_stage.save_fidelity(encoder, plan.work / "fidelity")


def export(plan: Plan) -> None:
    """Put what is there (finished or not) into the weights folder, in half precision."""
    tokenizer = _tokenizer(plan)
    encoder = text_stage.make_text_encoder(tokenizer)
    encoder.load_state_dict(load_file(plan.work / "text-average.safetensors"), strict=False)
    denoiser = unet_stage.make_unet()
    denoiser.load_state_dict(load_file(plan.work / "unet-average.safetensors"))
    finished = plan.work / "vae"
    model = AutoencoderKL.from_pretrained(str(finished if finished.exists() else plan.work / "vae-encoder"))
    save_pipeline(plan.weights / "pipeline", model, encoder, tokenizer, denoiser)
    for name, kind in (("clip", CLIPModel), ("fidelity", ResNetModel)):
        if (plan.work / name / "config.json").exists():
            shutil.copytree(plan.work / name, plan.weights / name, dirs_exist_ok=True)
            kind.from_pretrained(str(plan.work / name)).half().save_pretrained(plan.weights / name)


def card(plan: Plan) -> None:
    """Measure what was exported and write the card with its contact sheet."""
    numbers = {name: value for name, value in asdict(plan).items() if isinstance(value, int | float)}
    numbers["unet_pictures"] = _pictures_before(plan) + plan.unet_batch * _steps_done(plan)
    write_card(plan.work, plan.weights, plan.weights.parent, numbers)


def _pictures_before(plan: Plan) -> int:
    """Pictures that the denoiser had been trained on when it was shipped the last time."""
    path = plan.work / "unet-seen.json"
    return int(json.loads(path.read_text())["pictures"]) if path.exists() else 0


def _steps_done(plan: Plan) -> int:
    path = plan.work / "unet-checkpoint" / "step.json"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0
