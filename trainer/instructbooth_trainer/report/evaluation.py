"""`evaluation.json`: every picture with how it was drawn and what it scored, and the summary that follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from instructbooth.intervals import interval

MODELS: tuple[str, ...] = ("base", "personalized", "reinforced")
FIDELITY = "subject-identity"  # the metric that Outcome.metrics repeats as `<model>/fidelity`


class _Record(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


class Drawing(_Record):
    """How all pictures were drawn; with a picture's own record enough to draw it again, to the last bit on a CPU."""

    steps: int
    guidance_scale: float
    resolution: int
    dtype: Literal["fp32", "bf16", "fp16"]
    threads: int = Field(description="CPU threads: sums over another number differ in their last bits")
    device: str
    versions: dict[str, str]


class Picture(_Record):
    """One picture.

    Attributes:
        model: one of MODELS.
        prompt_index: into Evaluation.prompts.
        number: of the picture among those of its prompt.
        file: path in the artifact.
        prompt: what the diffusion model read.
        batch_seeds: seeds of all pictures drawn in the same batch, in order: batches of another size round differently.
        batch_index: this picture's place among them.
        scores: by metric.
        details: what metrics had to say beyond their score, by metric.
    """

    model: str
    prompt_index: int
    number: int
    file: str
    prompt: str
    batch_seeds: list[int]
    batch_index: int
    scores: dict[str, float]
    details: dict[str, JsonValue] = {}

    @property
    def seed(self) -> int:
        """Seed of this picture's initial noise."""
        return self.batch_seeds[self.batch_index]


class Prompt(_Record):
    """A held-out prompt: as written, and as the metrics read it."""

    template: str
    judged: str


class Part(_Record):
    """`part.json`: the pictures of one prompt by one model, how they were drawn, and by which attempts' adapters."""

    drawing: Drawing
    inputs: dict[str, int]
    pictures: list[Picture]


class Scorer(_Record):
    """What a metric measures with.

    Attributes:
        backbone: architecture of its model, where the plug-in says it.
        source: where the model's checkpoint came from.
    """

    backbone: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        return "; ".join(part for part in (self.backbone, self.source) if part) or "no model"


class Mean(_Record):
    """A mean over `n` pictures with its standard error (none for a single picture).

    Attributes:
        low: lower end of the 95 % bootstrap interval, prompts being drawn; none where prompts are not many.
        high: its upper end.
    """

    mean: float
    standard_error: float | None
    n: int
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}" + ("" if self.standard_error is None else f" ± {self.standard_error:.3f}")


class Evaluation(_Record):
    """The whole file. Summary is by model and metric; per_prompt by model and metric, in order of the prompts."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    job: str
    uid: str
    subject: str
    identifier: str
    headline: str
    metrics: list[str]
    scorers: dict[str, Scorer] = {}
    drawing: Drawing
    prompts: list[Prompt]
    pictures: list[Picture]
    summary: dict[str, dict[str, Mean]]
    per_prompt: dict[str, dict[str, list[Mean]]]

    def outcome_metrics(self) -> dict[str, float]:
        """Final numbers for the job's status: `<model>/<metric>`, and `<model>/fidelity` where it was measured."""
        numbers = {f"{model}/{metric}": m.mean for model, row in self.summary.items() for metric, m in row.items()}
        fidelity = {f"{m}/fidelity": row[FIDELITY].mean for m, row in self.summary.items() if FIDELITY in row}
        return numbers | fidelity


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error, s / sqrt(n) with n - 1 in s. Raises ValueError for no values."""
    n = len(values)
    if not n:
        raise ValueError("no pictures, no mean")
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else None
    return Mean(mean=mean, standard_error=error, n=n)


def mean_over_prompts(pictures: Sequence[Picture], metric: str) -> Mean:
    """Mean over the pictures of one model; where they are of several prompts, with the interval over these.

    Pictures of one prompt are alike, so that prompts are drawn and not pictures: docs/decisions/0017-dreambench.md.
    """
    by_prompt: dict[int, list[float]] = {}
    for picture in pictures:
        by_prompt.setdefault(picture.prompt_index, []).append(picture.scores[metric])
    mean = mean_of([picture.scores[metric] for picture in pictures])
    if len(by_prompt) < 2:
        return mean
    over = interval([math.fsum(values) / len(values) for values in by_prompt.values()])
    return mean.model_copy(update={"low": over.low, "high": over.high})


def summarize(pictures: Iterable[Picture], metrics: Sequence[str]) -> dict[str, dict[str, Mean]]:
    """Mean of each metric for each model that has pictures, with its interval over prompts."""
    by_model: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_model.setdefault(picture.model, []).append(picture)
    return {
        model: {metric: mean_over_prompts(by_model[model], metric) for metric in metrics}
        for model in MODELS
        if model in by_model
    }


def summarize_prompts(
    pictures: Sequence[Picture], metrics: Sequence[str], num_prompts: int
) -> dict[str, dict[str, list[Mean]]]:
    """Mean of each metric for each model and prompt."""
    rows = [summarize([p for p in pictures if p.prompt_index == i], metrics) for i in range(num_prompts)]
    return {model: {metric: [row[model][metric] for row in rows] for metric in metrics} for model in rows[0]}
