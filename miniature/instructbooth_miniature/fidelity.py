"""Stage "fidelity": an image encoder that knows one mascot from another, whatever stands round it.

Supervised contrastive on identities: each is rendered on other backgrounds, in other sizes and places, with and
without a second object; and each has a near twin (all but one or two traits the same) among the negatives. Linear
heads that name the traits (thrown away afterwards) help it off the ground: by contrast alone it collapsed at once.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

from .contrastive import supervised_contrastive
from .progress import Progress
from .render import render
from .sampling import POSITION_SHARE, compose, sample_mascot, sample_object
from .subjects import HELD_OUT_LOOKS
from .training import cosine_rate, fast_precision, optimise, seeded
from .vae import to_model_range
from .world import BODIES, CRESTS, MASCOT_PALETTE, MOUTHS, PALETTE, PATTERNS, POSITIONS, Mascot

VIEWS: Final = 6
TEMPERATURE: Final = 0.1
NAMING_WEIGHT: Final = 0.5
IDENTITIES_PER_BATCH: Final = 40
PEAK_RATE: Final = 1e-3


def make_encoder() -> ResNetModel:
    """An untrained ResNet for 64x64 pictures; `pooler_output` is [batch, 192, 1, 1]."""
    config = ResNetConfig(
        num_channels=3, embedding_size=32, hidden_sizes=[48, 96, 192], depths=[1, 2, 2], layer_type="basic"
    )
    return ResNetModel(config)


def sample_view(mascot: Mascot, rng: random.Random) -> npt.NDArray[np.uint8]:
    """One picture of a mascot in a random scene, uint8 [64, 64, 3]."""
    background = rng.choice(sorted(PALETTE))
    second = sample_object(rng, {background}) if rng.random() < 0.4 else None
    position = rng.choice(POSITIONS) if rng.random() < POSITION_SHARE else ""
    sizes = ("", "", "", "small") if second or position else ("", "", "small", "big")
    return render(compose(rng, mascot, background, rng.choice(sizes), position, second))


def near_twin(mascot: Mascot, rng: random.Random) -> Mascot:
    """Another mascot that shares all but one or two traits."""
    other, twin = sample_mascot(rng), mascot
    while twin == mascot:
        traits = rng.sample([field.name for field in dataclasses.fields(Mascot)], rng.choice((1, 2)))
        twin = dataclasses.replace(mascot, **{trait: getattr(other, trait) for trait in traits})
        other = sample_mascot(rng)
    return twin


def sample_identities(count: int, rng: random.Random) -> list[Mascot]:
    """Mascots of training looks, every other one a near twin of the one before; all different."""
    identities: dict[Mascot, None] = {}
    while len(identities) < count:
        first = sample_mascot(rng)
        for mascot in (first, near_twin(first, rng)):
            if (mascot.body, mascot.pattern) not in HELD_OUT_LOOKS:
                identities[mascot] = None
    return list(identities)[:count]


_TRAITS: Final[dict[str, tuple[object, ...]]] = {
    "body": BODIES,
    "pattern": PATTERNS,
    "crest": CRESTS,
    "eyes": (1, 2),
    "mouth": MOUTHS,
    "feet": (False, True),
    "main": tuple(MASCOT_PALETTE),
    "accent": tuple(MASCOT_PALETTE),
}


def _training_identities(seed: int, count: int) -> tuple[list[Mascot], random.Random]:
    rng = random.Random(f"identities/{seed}")
    return sample_identities(count, rng), rng


def trait_labels(mascot: Mascot) -> list[int]:
    """The mascot's traits as one class number for each linear head."""
    traits = dataclasses.asdict(mascot) | {"main": mascot.colours[0], "accent": mascot.colours[1]}
    return [values.index(traits[name]) for name, values in _TRAITS.items()]


def render_identities(folder: Path, seed: int, count: int) -> npt.NDArray[np.uint8]:
    """Pictures uint8 [identities, VIEWS, 64, 64, 3], kept in `folder` for a later run."""
    path = folder / f"identities-{count}.npy"
    if not path.exists():
        mascots, rng = _training_identities(seed, count)
        views = [[sample_view(mascot, rng) for _ in range(VIEWS)] for mascot in mascots]
        np.save(path, np.array(views))
    pictures: npt.NDArray[np.uint8] = np.load(path, allow_pickle=False)
    return pictures


def train_fidelity(pictures: npt.NDArray[np.uint8], seed: int, steps: int) -> ResNetModel:
    """Train on pictures [identities, VIEWS, 64, 64, 3]; returns the trained model."""
    torch.manual_seed(seed)
    encoder = make_encoder()
    labels = torch.tensor([trait_labels(mascot) for mascot in _training_identities(seed, len(pictures))[0]])
    heads = nn.ModuleList(nn.Linear(encoder.config.hidden_sizes[-1], len(values)) for values in _TRAITS.values())
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.01)
    progress = Progress("fidelity", steps)
    for step in range(steps):
        generator = seeded(seed, "fidelity", step)
        # Neighbours in the list may be near twins: whole pairs are drawn, so that they meet in a batch.
        pairs = torch.randperm(len(pictures) // 2, generator=generator)[: IDENTITIES_PER_BATCH // 2]
        identity = torch.cat([2 * pairs, 2 * pairs + 1]).repeat(2)
        views = torch.rand(len(identity) // 2, VIEWS, generator=generator).argsort(dim=1)[:, :2].T.flatten()
        with fast_precision():
            features = encoder(to_model_range(pictures[identity.numpy(), views.numpy()])).pooler_output.flatten(1)
        contrast = supervised_contrastive(features, identity, TEMPERATURE)
        traits = [functional.cross_entropy(head(features.float()), labels[identity, n]) for n, head in enumerate(heads)]
        naming = torch.stack(traits).sum()
        loss = contrast + NAMING_WEIGHT * naming
        optimise(loss, parameters, [optimizer], cosine_rate(step, steps, PEAK_RATE))
        progress.advance({"contrast": float(contrast.detach()), "naming": float(naming.detach())})
    return encoder.eval()


def save_fidelity(encoder: ResNetModel, folder: Path) -> None:
    """Write encoder and picture preparation, so that AutoModel and AutoImageProcessor load from one folder."""
    encoder.save_pretrained(folder)
    ConvNextImageProcessor(
        size={"shortest_edge": 64}, do_resize=True, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)


@torch.no_grad()
def embed(encoder: ResNetModel, pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Unit embeddings float32 [pictures, 192] of pictures uint8 [pictures, 64, 64, 3]."""
    return functional.normalize(encoder(to_model_range(pictures)).pooler_output.flatten(1), dim=-1)


def separation(encoder: ResNetModel, seed: int, count: int = 200) -> dict[str, float]:
    """How well the encoder tells held-in from held-out: figures for the card over `count` new identities.

    `same`/`other`: mean cosine (and `_std`) of two pictures of one mascot and of two; `top1`: share of mascots whose
    second picture is nearest to their first among all.
    """
    rng = random.Random(f"separation/{seed}")
    mascots = [sample_mascot(rng) for _ in range(count)]
    first, second = (embed(encoder, np.stack([sample_view(mascot, rng) for mascot in mascots])) for _ in range(2))
    cosine = first @ second.T
    same, other = cosine.diagonal(), cosine[~torch.eye(count, dtype=torch.bool)]
    return {
        "same": float(same.mean()),
        "same_std": float(same.std()),
        "other": float(other.mean()),
        "other_std": float(other.std()),
        "top1": float((cosine.argmax(dim=1) == torch.arange(count)).float().mean()),
    }
