"""`report.html`: one file that needs nothing else. Pictures, style and curves are inside of it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from instructbooth_trainer.report.curves import line_chart
from instructbooth_trainer.report.evaluation import Evaluation, Mean
from instructbooth_trainer.report.sheet import TITLES

# What the curves of reinforce.json are called, in the order shown; others are left to the file.
CURVES = {"reward_mean": "mean reward", "kl": "KL to the personalized policy", "loss": "surrogate loss"}
SPREADS = {"reward_mean": "reward_std"}


@dataclass(frozen=True)
class TrainingRecord:
    """What stage 2 left: numbers of each epoch, and why it stopped early, if it did."""

    epochs: Sequence[Mapping[str, float]]
    stopped: str | None = None


def training_record(folder: Path | None) -> TrainingRecord:
    """Stage 2's curve, from its output."""
    path = None if folder is None else folder / "reinforce.json"
    if path is None or not path.is_file():
        return TrainingRecord([])
    record = json.loads(path.read_text())
    return TrainingRecord(record.get("epochs", []), record.get("stopped"))


def render_page(evaluation: Evaluation, sheet: Image.Image, training: TrainingRecord) -> str:
    """The page as a string."""
    drawing = evaluation.drawing
    template = Template(files("instructbooth_trainer.report").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(evaluation.subject),
        job=escape(evaluation.job),
        identifier=escape(evaluation.identifier),
        summary=summary_table(evaluation),
        sheet=data_uri(sheet),
        curves="".join(curves(training)),
        stopped=f"<p>Stopped early: {escape(training.stopped)}.</p>" if training.stopped else "",
        prompts=prompt_table(evaluation),
        drawn=escape(
            f"{len(evaluation.prompts)} held-out prompts, {len(evaluation.pictures)} pictures of "
            f"{drawing.resolution} x {drawing.resolution} pixels; DDIM, {drawing.steps} steps, guidance "
            f"{drawing.guidance_scale:g}, {drawing.dtype}, equal seeds for all models; uid {evaluation.uid}; "
            + ", ".join(f"{name} {version}" for name, version in drawing.versions.items())
        ),
    )


def summary_table(evaluation: Evaluation) -> str:
    """Models down, metrics across; the best of each metric is marked."""
    head = "".join(f"<th>{escape(metric)}{measured_by(evaluation, metric)}</th>" for metric in evaluation.metrics)
    best = {m: max(row[m].mean for row in evaluation.summary.values()) for m in evaluation.metrics}
    rows = "".join(
        f"<tr><th>{escape(TITLES.get(model, model))}</th>"
        + "".join(cell(row[m], best=row[m].mean == best[m]) for m in evaluation.metrics)
        + "</tr>"
        for model, row in evaluation.summary.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def prompt_table(evaluation: Evaluation) -> str:
    """Prompts down, models across, one table per metric."""
    tables = []
    head = "".join(f"<th>{escape(TITLES.get(model, model))}</th>" for model in evaluation.summary)
    for metric in evaluation.metrics:
        rows = ""
        for index, prompt in enumerate(evaluation.prompts):
            means = [by_metric[metric][index] for by_metric in evaluation.per_prompt.values()]
            best = max(m.mean for m in means)
            rows += f"<tr><th>{escape(prompt.judged)}</th>" + "".join(cell(m, best=m.mean == best) for m in means)
            rows += "</tr>"
        tables.append(
            f"<h3>{escape(metric)}</h3><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )
    return "".join(tables)


def cell(mean: Mean, *, best: bool) -> str:
    """A number with its interval, or else its standard error, and how many pictures it is of."""
    spread = str(mean).partition(" ")[2]
    error = f' <span class="error">{spread}</span>' if spread else ""
    return f'<td class="{"best" if best else ""}" title="n = {mean.n}">{mean.mean:.3f}{error}</td>'


def measured_by(evaluation: Evaluation, metric: str) -> str:
    """The backbone of a metric, small, below its name."""
    scorer = evaluation.scorers.get(metric)
    return f'<br><span class="error">{escape(str(scorer))}</span>' if scorer else ""


def curves(training: TrainingRecord) -> list[str]:
    """An <svg> for each known curve that every epoch has, and of a reward of several parts one for each part."""
    out = []
    names = dict.fromkeys(name for epoch in training.epochs for name in epoch)
    parts = [name for name in names if name.startswith("reward/")]
    titles = {name: f"mean {name.removeprefix('reward/')}" for name in parts if len(parts) > 1}
    for name, title in {**CURVES, **titles}.items():
        if training.epochs and all(name in epoch for epoch in training.epochs):
            spread_name = SPREADS.get(name, "")
            spread = [e[spread_name] for e in training.epochs] if spread_name in training.epochs[0] else None
            out.append(line_chart(title, [e[name] for e in training.epochs], "epochs", spread))
    return out


def data_uri(image: Image.Image) -> str:
    """The picture as a data: URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
