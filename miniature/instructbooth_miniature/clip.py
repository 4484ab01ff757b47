"""Stage "clip": the reward model, a small CLIPModel of this world's pictures and captions.

It learns from pictures and captions of the base's world, and for each picture from captions that are false of it in one
or two words: so it must look at the background, the place, the size and the second object, not the mascot alone. Every
batch is drawn anew: on 79,000 pictures it was seen to learn by heart which vague caption belongs to which of them.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from .captions import article, caption, place
from .contrastive import image_text_contrastive
from .muon import Muon, inner_matrices, other_parameters
from .progress import Progress
from .render import render
from .sampling import sample_training_scene
from .text import tokenize
from .tokenizer import MAX_TOKENS
from .training import Ema, cosine_rate, fast_precision, load_checkpoint, optimise, save_checkpoint
from .vae import to_model_range
from .world import BODIES, CLASS_NOUN, CRESTS, MASCOT_PALETTE, PALETTE, PATTERNS, POSITIONS, SHAPES, SIZE_PIXELS

WIDTH: Final = 128
BATCH: Final = 64
PEAK_RATE: Final = 1.5e-3
MAX_SCALE: Final = 100.0
CHECKPOINT_STEPS: Final = 250

_SWAPS: Final = (
    tuple(PALETTE),
    tuple(MASCOT_PALETTE),
    PATTERNS,
    CRESTS,
    SHAPES,
)
_PLACE = re.compile(rf" (?:on|at) the ({'|'.join(POSITIONS)})\b")
_SIZE = re.compile(rf"^an? (?:({'|'.join(size for size in SIZE_PIXELS if size)}) )?")
_MOVE, _RESIZE = -1, -2
_ARTICLE = re.compile(r"\ban? (?=(\w))")


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


def make_false(true: str, rng: random.Random) -> str:
    """A training caption with one or two things in it made false of its scene.

    A colour, shape, pattern, body or crest becomes another one; a position or a size becomes another one or, where the
    caption has none, is put in: a scene's captions always tell where a subject off the middle stands and whether it is
    small or big. The articles are right again, so that no grammar gives a false caption away.
    """
    words = true.split()
    kinds = {number: kind for number in range(len(words)) if (kind := _others(words, number))}
    chosen = rng.sample([*kinds, _MOVE, _RESIZE], rng.choice((1, 1, 2)))
    for number in chosen:
        if number in kinds:
            words[number] = rng.choice([word for word in kinds[number] if word != words[number]])
    text = " ".join(words)
    if _MOVE in chosen:
        text = _move(text, rng)
    if _RESIZE in chosen:
        text = _resize(text, rng)
    return _ARTICLE.sub(lambda found: article(found.group(1)).split()[0] + " ", text)


def _others(words: list[str], number: int) -> tuple[str, ...]:
    """The words of the same kind as one of a caption, itself among them; none for a word of no kind."""
    if words[number] in BODIES and words[number + 1 : number + 2] == [CLASS_NOUN]:
        return BODIES
    return next((kind for kind in _SWAPS if words[number] in kind), ())


def _move(text: str, rng: random.Random) -> str:
    found = _PLACE.search(text)
    there = found.group(1) if found else ""
    elsewhere = " " + place(rng.choice([position for position in POSITIONS if position != there]))
    return _PLACE.sub(elsewhere, text) if found else text + elsewhere


def _resize(text: str, rng: random.Random) -> str:
    found = _SIZE.match(text)
    said = found.group(1) if found else ""
    size = rng.choice([size for size in SIZE_PIXELS if size and size != said])
    return _SIZE.sub(f"a {size} ", text)


def draw_batch(rng: random.Random) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Pictures uint8 [BATCH, 64, 64, 3] and 3 BATCH captions: a true one of each, then a false one, then another."""
    scenes = [sample_training_scene(rng) for _ in range(BATCH)]
    true = [caption(scene, rng) for scene in scenes]
    false = [make_false(text, rng) for text in (*true, *(caption(scene, rng) for scene in scenes))]
    return np.stack([render(scene) for scene in scenes]), true + false


def train_clip(model: CLIPModel, tokenizer: CLIPTokenizer, work: Path, seed: int, before: int, steps: int) -> CLIPModel:
    """Train on scenes drawn for it; returns the average.

    Resumes from `work`. `before`: steps the model had been trained for, so that it now draws other batches.
    """
    parameters = list(model.parameters())
    adamw = torch.optim.AdamW(other_parameters(model), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    optimizers = [adamw, Muon(inner_matrices(model))]
    ema, checkpoint = Ema(model, 0.995), work / "clip-checkpoint"
    start = load_checkpoint(checkpoint, {"clip": model}, {"clip": ema}, optimizers)
    progress = Progress("clip", steps, start)
    for step in range(start, steps):
        pictures, captions = draw_batch(random.Random(f"clip/{seed}/{before + step}"))
        with fast_precision():
            seen = model.vision_model(pixel_values=to_model_range(pictures)).pooler_output
            read = model.text_model(input_ids=tokenize(tokenizer, captions)).pooler_output
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
