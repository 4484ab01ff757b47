"""Stage "card": measures what is shipped and writes miniature/README.md, figures.json and the contact sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers import ResNetModel

from .card_text import GUIDANCE, PER_FAMILY, SHEET_COLUMNS, SHEET_PROMPTS, SHEET_STEPS, card_text
from .evaluate import base_figures, held_out_subject_prompts, sample, skill_rates
from .fidelity import separation
from .oracle_check import round_trip_figures
from .pipeline import load_pipeline
from .subjects import DEMO_HELD_OUT_PROMPTS, DEMO_TRAIN_PROMPTS, HELD_OUT_SUBJECTS

BY_EYE = "by-eye.txt"


def contact_sheet(pictures: npt.NDArray[np.uint8], columns: int, zoom: int = 2) -> Image.Image:
    """Pictures [rows * columns, 64, 64, 3] row by row on one sheet, enlarged without smoothing."""
    rows = [np.concatenate(list(row), axis=1) for row in pictures.reshape(-1, columns, *pictures.shape[1:])]
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    return sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST)


def measure(work: Path, weights: Path, seed: int) -> dict[str, dict[str, float]]:
    """All figures of the card, by group."""
    pipeline = load_pipeline(weights / "pipeline")
    figures = {"round trip": round_trip_figures(pipeline.vae, seed)}
    for steps in (20, 8):
        for family, rates in base_figures(pipeline, PER_FAMILY, steps, GUIDANCE, seed).items():
            figures[f"{family}, {steps} steps"] = rates
    for family, rates in base_figures(pipeline, PER_FAMILY, 20, 1.0, seed).items():
        figures[f"{family}, 20 steps, no guidance"] = rates
    demo = held_out_subject_prompts(HELD_OUT_SUBJECTS["demo"], (*DEMO_TRAIN_PROMPTS, *DEMO_HELD_OUT_PROMPTS)) * 8
    figures["the demo's prompts, described subject"] = skill_rates(sample(pipeline, demo, 20, GUIDANCE, seed), demo)
    figures["clip"] = json.loads((work / "clip-figures.json").read_text())
    figures["fidelity"] = separation(ResNetModel.from_pretrained(str(weights / "fidelity")).float().eval(), seed)
    return figures


def write_card(work: Path, weights: Path, folder: Path, plan: Mapping[str, int | float]) -> None:
    """Measure the shipped weights; write figures.json, contact-sheet.png and README.md into `folder`.

    `plan` holds the build's numbers (steps, seed, ...), `work` its seconds by stage. What a person saw on the sheet is
    taken from BY_EYE in `folder`; look again after a build.
    """
    figures = measure(work, weights, int(plan["seed"]))
    seconds = json.loads((work / "seconds.json").read_text())
    # What `restore` needs on another machine.
    figures |= {"seconds": seconds, "unet": {"pictures": plan["unet_pictures"]}}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    pipeline = load_pipeline(weights / "pipeline")
    prompts = [prompt for prompt in SHEET_PROMPTS for _ in range(SHEET_COLUMNS)]
    pictures = sample(pipeline, prompts, SHEET_STEPS, GUIDANCE, int(plan["seed"]))
    contact_sheet(pictures, SHEET_COLUMNS).save(folder / "contact-sheet.png", optimize=True)
    sizes = {name: _bytes(weights / name) / 1e6 for name in ("pipeline", "clip", "fidelity")}
    noted = folder / BY_EYE
    by_eye = noted.read_text().strip() if noted.exists() else ""
    (folder / "README.md").write_text(card_text(figures, plan, seconds, sizes, by_eye))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
