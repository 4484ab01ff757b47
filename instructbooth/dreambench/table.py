"""The collected table as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

from instructbooth.dreambench.collect import Collection


def markdown(found: Collection) -> str:
    """Models down, metrics across; below it each subject, what measured, and which jobs are absent."""
    head = "".join(f" {metric} |" for metric in found.metrics)
    lines = [f"| model | subjects |{head}", "|---|---|" + "---|" * len(found.metrics)]
    for model in found.models:
        cells = "".join(f" {found.over_subjects(model, metric)} |" for metric in found.metrics)
        lines.append(f"| {model} | {len(found.evaluations)} |{cells}")
    pictures = sum(len(e.pictures) for e in found.evaluations.values()) // max(1, len(found.models))
    lines += [
        "",
        f"Means over subjects with 95 % bootstrap intervals, subjects being drawn; {pictures} pictures a model.",
    ]
    lines += [f"- `{metric}`: {measured_by(found, metric)}" for metric in found.metrics]
    if found.evaluations:
        lines += ["", f"| job | model |{head}", "|---|---|" + "---|" * len(found.metrics)]
    for name, evaluation in found.evaluations.items():
        for model, row in evaluation.summary.items():
            lines.append(f"| {name} | {model} |" + "".join(f" {row[metric]} |" for metric in found.metrics))
    if found.absent:
        lines += ["", f"Without {len(found.absent)} of {len(found.absent) + len(found.evaluations)} jobs:"]
        lines += [f"- {name}: {reason}" for name, reason in found.absent.items()]
    return "\n".join(lines) + "\n"


def comma_separated(found: Collection) -> str:
    """A line for each job, model and metric, then one for each mean over subjects; absent jobs have no numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["job", "model", "metric", "mean", "low", "high", "n", "measured_by"])
    for name, evaluation in found.evaluations.items():
        for model, row in evaluation.summary.items():
            for metric, mean in row.items():
                numbers = [mean.mean, mean.low, mean.high, mean.n]
                writer.writerow([name, model, metric, *numbers, measured_by(found, metric)])
    for model in found.models:
        for metric in found.metrics:
            over = found.over_subjects(model, metric)
            row_ = [over.mean, over.low, over.high, over.cells]
            writer.writerow(["(all)", model, metric, *row_, measured_by(found, metric)])
    for name in found.absent:
        writer.writerow([name, "", "", "", "", "", 0, ""])
    return out.getvalue()


def as_json(found: Collection) -> str:
    """Everything, for programs."""
    record = {
        "summary": {m: {k: asdict(found.over_subjects(m, k)) for k in found.metrics} for m in found.models},
        "measuredBy": {metric: measured_by(found, metric) for metric in found.metrics},
        "jobs": {
            name: {
                "uid": e.uid,
                "subject": e.subject,
                "prompts": len(e.prompts),
                "pictures": len(e.pictures),
                "summary": {
                    m: {k: v.model_dump(by_alias=True) for k, v in row.items()} for m, row in e.summary.items()
                },
            }
            for name, e in found.evaluations.items()
        },
        "absent": found.absent,
    }
    return json.dumps(record, indent=1) + "\n"


def measured_by(found: Collection, metric: str) -> str:
    """Backbone and source of a metric's model."""
    scorer = next(iter(found.evaluations.values())).scorers.get(metric)
    return str(scorer) if scorer else "not recorded"
