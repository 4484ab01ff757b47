"""Measures the base model by the oracle, skill by skill, sampled the way users sample it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline

from .captions import article, parse, place
from .oracle import judge
from .sampling import sample_mascot, sample_object
from .subjects import HELD_OUT_LOOKS
from .world import CLASS_NOUN, PALETTE, POSITIONS, Mascot

SKILL_FAMILIES: Final = ("background", "position", "size", "second", "combined")
SAMPLING_BATCH: Final = 32


def skill_prompts(family: str, count: int, rng: random.Random) -> list[str]:
    """Prompts that ask for one family of skills: half for "a mascot", half for a described one.

    Raises KeyError for a word that is not in SKILL_FAMILIES.
    """
    return [_prompt(family, _subject(number, rng), rng) for number in range(count)]


def _subject(number: int, rng: random.Random) -> str:
    mascot = sample_mascot(rng)
    while (mascot.body, mascot.pattern) in HELD_OUT_LOOKS:
        mascot = sample_mascot(rng)
    return mascot.description(rng.choice((1, 2, 3, 4))) if number % 2 else CLASS_NOUN


def _prompt(family: str, subject: str, rng: random.Random) -> str:
    background = rng.choice(sorted(PALETTE))
    second = sample_object(rng, {background})
    on = place(rng.choice(POSITIONS))
    behind = f"on {article(background)} background"
    beside = f"next to {article(f'{second.colour} {second.shape}')}"
    combined = (f"{on} {behind}", f"{behind} {beside}", f"{on} {beside}")
    return {
        "background": f"{article(subject)} {behind}",
        "position": f"{article(subject)} {on}",
        "size": f"a {rng.choice(('small', 'big'))} {subject}",
        "second": f"{article(subject)} {beside}",
        "combined": f"{article(subject)} {rng.choice(combined)}",
    }[family]


@torch.no_grad()
def sample(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], steps: int, guidance: float, seed: int
) -> npt.NDArray[np.uint8]:
    """One picture of each prompt, uint8 [prompts, 64, 64, 3]: deterministic DDIM, noise from the seed."""
    generator = torch.Generator().manual_seed(seed)
    chunks = []
    for first in range(0, len(prompts), SAMPLING_BATCH):
        images = pipeline(
            list(prompts[first : first + SAMPLING_BATCH]),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator,
            output_type="np",
        ).images
        chunks.append(np.round(images * 255).astype(np.uint8))
    return np.concatenate(chunks)


def skill_rates(pictures: npt.NDArray[np.uint8], prompts: Sequence[str]) -> dict[str, float]:
    """Share of right pictures for each skill that any prompt asks for, and for `all`."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for picture, prompt in zip(pictures, prompts, strict=True):
        for skill, right in judge(picture, parse(prompt)).items():
            verdicts[skill].append(right)
    return {skill: float(np.mean(right)) for skill, right in verdicts.items()}


def base_figures(
    pipeline: StableDiffusionPipeline, per_family: int, steps: int, guidance: float, seed: int
) -> dict[str, dict[str, float]]:
    """Per family of SKILL_FAMILIES the rates of `skill_rates` over `per_family` pictures."""
    figures = {}
    for family in SKILL_FAMILIES:
        prompts = skill_prompts(family, per_family, random.Random(f"{family}/{seed}"))
        figures[family] = skill_rates(sample(pipeline, prompts, steps, guidance, seed), prompts)
    return figures


def held_out_subject_prompts(mascot: Mascot, templates: Sequence[str]) -> list[str]:
    """The templates with the subject's description in place of `{subject}`."""
    return [template.format(subject=mascot.description(3)) for template in templates]
