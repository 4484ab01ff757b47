"""The pictures of docs/results.md: training curves of the main recipes, and a contact sheet of one cell.

A sheet's columns may come from sessions on several machines: each cell leaves a small strip, one picture a prompt, and
the sheet is put together from the strips that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from experiments.recipes import KINDS, prompts_of
from experiments.records import Record
from experiments.tables import interval
from instructbooth_trainer.report.curves import HEIGHT, WIDTH, line_chart
from instructbooth_trainer.report.evaluation import Evaluation
from instructbooth_trainer.report.validation import picture_sheet

CURVES: Final = {"reward/clip-score": "alignment reward", "reward/subject-identity": "likeness", "kl": "KL a step"}
ROWS_PER_KIND: Final = 2
SIDE: Final = 64
_STYLE = (
    "svg{background:#fff}.title{font:600 13px sans-serif;fill:#1c1e22}.tick{font:11px sans-serif;fill:#6b6f78}"
    ".grid{stroke:#e3e5e9}.curve{fill:none;stroke:#2f6fbe;stroke-width:2}.band{fill:#2f6fbe;opacity:.15}"
)


def curves_picture(records: Mapping[str, Sequence[Record]]) -> str:
    """An SVG: a line of charts per recipe, the mean over its cells in each epoch with its 95 % interval as a band.

    Args:
        records: by the recipe's title; those without any are left out.
    """
    charts = []
    shown = {title: cells for title, cells in records.items() if cells}
    for line, (title, cells) in enumerate(shown.items()):
        for column, (name, says) in enumerate(CURVES.items()):
            mean, spread = mean_curve([cell.curve[name] for cell in cells if name in cell.curve])
            if mean:
                chart = line_chart(f"{title}: {says}, {len(cells)} cells", mean, "epochs", spread)
                place = f'<svg x="{column * WIDTH}" y="{line * HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
                charts.append(chart.replace("<svg ", place, 1))
    size = f"{len(CURVES) * WIDTH} {len(shown) * HEIGHT}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"><style>{_STYLE}</style>{"".join(charts)}</svg>\n'
    )


def mean_curve(curves: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean and half of the interval in each epoch, as far as all curves go (one that was stopped ends early)."""
    found = [interval(values) for values in zip(*curves, strict=False)]
    return [i.mean for i in found], [(i.high - i.low) / 2 for i in found]


def sheet_prompts(trained: Sequence[str]) -> list[str]:
    """The prompts of the contact sheet: the first ones trained on, and the first ones of each unseen kind."""
    return [*trained[:ROWS_PER_KIND], *(line for kind in KINDS for line in prompts_of(kind)[:ROWS_PER_KIND])]


def strip(evaluation: Evaluation, folder: Path, model: str, prompts: Sequence[str]) -> Image.Image:
    """A model's first picture of each prompt, one below the other. Raises KeyError for a prompt not evaluated."""
    index = {prompt.template: number for number, prompt in enumerate(evaluation.prompts)}
    files = {(p.model, p.prompt_index): p.file for p in evaluation.pictures if p.number == 0}
    out = Image.new("RGB", (SIDE, SIDE * len(prompts)))
    for row, prompt in enumerate(prompts):
        picture = Image.open(folder / files[model, index[prompt]]).convert("RGB")
        out.paste(picture, (0, SIDE * row))
    return out


def sheet(title: str, strips: Mapping[str, Image.Image], prompts: Sequence[str]) -> Image.Image:
    """The contact sheet from strips by column title."""
    boxes = [(0, SIDE * row, SIDE, SIDE * (row + 1)) for row in range(len(prompts))]
    rows = [[picture.crop(box) for picture in strips.values()] for box in boxes]
    said = [prompt.replace("{subject}", "[*]") for prompt in prompts]
    return picture_sheet(title, list(strips), said, rows)
