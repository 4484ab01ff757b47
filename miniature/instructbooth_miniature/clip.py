"""Stage "clip": the reward model, a small CLIPModel of this world's pictures and captions.

It learns from the same pictures and captions as the base, and for each picture from captions that are false of it in
one or two words: so it must look at the background, the place, the size and the second object, not the mascot alone.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from .contrastive import image_text_contrastive
from .muon import Muon, inner_matrices
from .progress import Progress
from .tokenizer import MAX_TOKENS
from .training import Ema, cosine_rate, fast_precision, load_checkpoint, optimise, save_checkpoint, seeded
from .vae import to_model_range
from .world import BODIES, CRESTS, MASCOT_PALETTE, PALETTE, PATTERNS, POSITIONS, SHAPES

WIDTH: Final = 128
BATCH: Final = 64
PEAK_RATE: Final = 1.5e-3
MAX_SCALE: Final = 100.0
CHECKPOINT_STEPS: Final = 250

_SWAPS: Final = (
    tuple(PALETTE),
    SHAPES,
    tuple(MASCOT_PALETTE),
    PATTERNS,
    BODIES,
    CRESTS,
    POSITIONS[:2],
    POSITIONS[2:],
    ("small", "big"),
)


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIPModel: 8-pixel patches of 64x64 pictures, both towers 128 wide."""
    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = shared | {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = shared | {"num_hidden_layers": 5, "image_size": 64, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    config._attn_implementation = "eager"  # the fused bf16 attention is slow on a CPU in its backward pass
    return CLIPModel(config)


def make_processor(tokenizer: CLIPTokenizer) -> CLIPProcessor:
    """Tokenizer and picture preparation in one, as CLIPProcessor.from_pretrained gives it back."""
    images = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return CLIPProcessor(images, tokenizer)


def make_false(caption: str, rng: random.Random) -> str:
    """The caption with one or two of its words swapped for another of their kind."""
    words = caption.split()
    places = [(place, kind) for place, word in enumerate(words) for kind in _SWAPS if word in kind]
    for place, kind in rng.sample(places, min(len(places), rng.choice((1, 1, 2)))):
        words[place] = rng.choice([word for word in kind if word != words[place]])
    return " ".join(words)


def train_clip(
    model: CLIPModel,
    pictures: npt.NDArray[np.uint8],
    ids: torch.Tensor,
    false_ids: torch.Tensor,
    work: Path,
    seed: int,
    before: int,
    steps: int,
) -> CLIPModel:
    """Train on pictures [n, 64, 64, 3] with true and false token ids [n, captions, tokens]; returns the average.

    Resumes from `work`. `before`: steps the model had been trained for, so that it now draws other batches.
    """
    parameters, inner = list(model.parameters()), inner_matrices(model)
    taken = {id(weight) for weight in inner}
    outer = [weight for weight in parameters if id(weight) not in taken]
    optimizers = [torch.optim.AdamW(outer, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02), Muon(inner)]
    ema, checkpoint = Ema(model, 0.995), work / "clip-checkpoint"
    start = load_checkpoint(checkpoint, {"clip": model}, {"clip": ema}, optimizers)
    progress = Progress("clip", steps, start)
    for step in range(start, steps):
        generator = seeded(seed, "clip", before + step)
        index = torch.randint(len(pictures), (BATCH,), generator=generator)
        which = torch.randint(ids.shape[1], (2, BATCH), generator=generator)
        texts = torch.cat([ids[index, which[0]], false_ids[index, which[0]], false_ids[index, which[1]]])
        with fast_precision():
            seen = model.vision_model(pixel_values=to_model_range(pictures[index.numpy()])).pooler_output
            read = model.text_model(input_ids=texts).pooler_output
        image = functional.normalize(model.visual_projection(seen.float()), dim=-1)
        text = functional.normalize(model.text_projection(read.float()), dim=-1)
        loss = image_text_contrastive(image, text[:BATCH], text[BATCH:], model.logit_scale.exp().clamp(max=MAX_SCALE))
        optimise(loss, parameters, optimizers, cosine_rate(step, steps, PEAK_RATE))
        ema.update(model, step)
        progress.advance({"loss": float(loss.detach())})
        if (step + 1) % CHECKPOINT_STEPS == 0:
            save_checkpoint(checkpoint, step + 1, {"clip": model}, {"clip": ema}, optimizers)
    ema.copy_to(model)
    return model.eval()


@torch.no_grad()
def clip_figures(
    model: CLIPModel, pictures: npt.NDArray[np.uint8], ids: torch.Tensor, false_ids: torch.Tensor
) -> dict[str, float]:
    """Over unseen pictures [n, 64, 64, 3] and their true and false captions [n, tokens].

    `top1`: share of pictures whose own caption scores best among all n; `true_over_false`: share whose own caption
    scores above the one with a word or two swapped (chance: one half).
    """
    image = functional.normalize(
        model.visual_projection(model.vision_model(pixel_values=to_model_range(pictures)).pooler_output), dim=-1
    )
    true, false = (
        functional.normalize(model.text_projection(model.text_model(input_ids=tokens).pooler_output), dim=-1)
        for tokens in (ids, false_ids)
    )
    cosine = image @ true.T
    own = cosine.diagonal()
    return {
        "top1": float((own >= cosine.max(dim=1).values - 1e-6).float().mean()),
        "true_over_false": float((own > (image * false).sum(dim=-1)).float().mean()),
    }


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write model and processor, so that CLIPModel and CLIPProcessor load from one folder."""
    model.save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
