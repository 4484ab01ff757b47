"""Stage "text": a small CLIPTextModel with a head start, as CLIP's is one for Stable Diffusion.

It learns to say from a caption what the scene's attributes are (which colour has the second object, ...): each
attribute is read from the caption's last token by a linear head that is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .captions import parse
from .progress import Progress
from .tokenizer import MAX_TOKENS
from .training import cosine_rate, optimise, seeded
from .world import BODIES, CRESTS, MASCOT_PALETTE, PALETTE, PATTERNS, POSITIONS, SHAPES

WIDTH: Final = 128
BATCH: Final = 128
PEAK_RATE: Final = 2e-3

_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "background": ("", *PALETTE),
    "position": ("", *POSITIONS),
    "size": ("", "small", "big"),
    "second_colour": ("", *PALETTE),
    "second_shape": ("", *SHAPES),
    "subject_colour": ("", *PALETTE),
    "subject_shape": ("", *SHAPES),
    "body": ("", *BODIES),
    "pattern": ("", *PATTERNS),
    "crest": ("", *CRESTS),
    "main": ("", *MASCOT_PALETTE),
    "accent": ("", *MASCOT_PALETTE),
}


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder for this tokenizer: 2 layers, 128 wide, 4 heads."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Token ids int64 [texts, MAX_TOKENS], padded."""
    encoded = tokenizer(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: torch.Tensor = encoded["input_ids"]
    return ids


def attributes(text: str) -> list[int]:
    """What a caption says, as one class number per attribute; 0 is "not said"."""
    asked = parse(text)
    second, subject = asked.second, asked.subject
    head = text.split(" mascot")[0].split() if subject is None else []
    said = {
        "background": asked.background,
        "position": asked.position,
        "size": asked.size,
        "second_colour": second.colour if second else "",
        "second_shape": second.shape if second else "",
        "subject_colour": subject.colour if subject else "",
        "subject_shape": subject.shape if subject else "",
        "body": next((word for word in head if word in BODIES), ""),
        "pattern": next((word for word in head if word in PATTERNS), ""),
        "crest": next((word for word in head if word in CRESTS), ""),
        "main": next((word for word in head if word in MASCOT_PALETTE), ""),
        "accent": next((word for word in reversed(head) if word in MASCOT_PALETTE), ""),
    }
    return [values.index(said[name]) for name, values in _ATTRIBUTES.items()]


def train_text_encoder(
    tokenizer: CLIPTokenizer, ids: torch.Tensor, labels: torch.Tensor, seed: int, steps: int
) -> CLIPTextModel:
    """Train on token ids [captions, MAX_TOKENS] and labels [captions, attributes]."""
    torch.manual_seed(seed)
    encoder = make_text_encoder(tokenizer)
    heads = nn.ModuleList(nn.Linear(WIDTH, len(values)) for values in _ATTRIBUTES.values())
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.0)
    progress = Progress("text", steps)
    for step in range(steps):
        index = torch.randint(len(ids), (BATCH,), generator=seeded(seed, "text", step))
        pooled = encoder(input_ids=ids[index]).pooler_output
        target = labels[index]
        losses = [functional.cross_entropy(head(pooled), target[:, column]) for column, head in enumerate(heads)]
        loss = torch.stack(losses).sum()
        optimise(loss, parameters, [optimizer], cosine_rate(step, steps, PEAK_RATE))
        progress.advance({"loss": float(loss.detach())})
    return encoder.eval()


def load_or_none(folder: Path) -> CLIPTextModel | None:
    """The text encoder saved in a folder, or None if it is not there yet."""
    return CLIPTextModel.from_pretrained(str(folder)) if (folder / "config.json").exists() else None
