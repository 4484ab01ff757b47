"""From the cells' evaluations to a table: means over cells with 95 % bootstrap intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from instructbooth.intervals import Interval, interval
from instructbooth_miniature.captions import parse
from instructbooth_trainer.report.evaluation import MODELS, Evaluation

__all__ = ["HELD_OUT", "TRAINED", "Interval", "cell_numbers", "interval", "kind", "render"]

TRAINED, HELD_OUT = "trained", "held out"
Key = tuple[str, str, str]
"""(model, metric, group of prompts)."""


def kind(prompt: str) -> str:
    """What a prompt of the miniature world asks for: one skill, or `two at once`. Raises ValueError outside of it."""
    asked = parse(prompt)
    skills = [
        name
        for name, value in (
            ("background", asked.background),
            ("position/size", asked.position),
            ("position/size", asked.size),
            ("second object", asked.second),
        )
        if value
    ]
    return skills[0] if len(skills) == 1 else "two at once" if skills else "nothing"


def cell_numbers(evaluation: Evaluation, trained: Iterable[str]) -> dict[Key, float]:
    """Means of one cell by model, metric and group: trained, held out, and the held-out ones by kind."""
    sums: dict[Key, list[float]] = defaultdict(list)
    known = set(trained)
    for picture in evaluation.pictures:
        prompt = evaluation.prompts[picture.prompt_index]
        groups = [TRAINED] if prompt.template in known else [HELD_OUT, f"{HELD_OUT}: {kind(prompt.judged)}"]
        for metric, value in picture.scores.items():
            for group in groups:
                sums[picture.model, metric, group].append(value)
    return {key: float(np.mean(values)) for key, values in sums.items()}


def render(rows: dict[str, list[dict[Key, float]]], metrics: Sequence[str]) -> str:
    """A Markdown table: recipes and their models down, metrics by group of prompts across."""
    columns = [(metric, group) for metric in metrics for group in (TRAINED, HELD_OUT)]
    lines = ["| recipe | model | cells |" + "".join(f" {m}, {g} |" for m, g in columns)]
    lines.append("|---|---|---|" + "---|" * len(columns))
    for recipe, cells in rows.items():
        for model in MODELS:
            shown = [interval([cell[model, metric, group] for cell in cells]) for metric, group in columns]
            lines.append(f"| {recipe} | {model} | {len(cells)} |" + "".join(f" {value} |" for value in shown))
    return "\n".join(lines)
