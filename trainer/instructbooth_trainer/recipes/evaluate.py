"""Stage 3: base, personalized and reinforced model side by side, on held-out prompts with fixed seeds.

Pictures are drawn by the family's stock pipeline with the LoRA files of the earlier stages, as users will do it;
metrics score the very pixels that are kept as PNG. The base model is asked for the subject's description, the others
for "<identifier> <description>"; metrics never read the identifier.

Prompts are split over the ranks; all pictures of a prompt are one rank's, so that the gang's size changes nothing.
They are kept as soon as they are judged (evaluation_parts.py): who dies on the way goes on from there.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from instructbooth.contract import Outcome, PromptRole, Stage
from instructbooth.spec.stages import Sampling
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.prompts import expand, reward_text
from instructbooth_trainer.diffusion.sampling import sampling_batch, to_bytes
from instructbooth_trainer.recipes.evaluation_parts import Key, Parts
from instructbooth_trainer.report.card import evaluation_card
from instructbooth_trainer.report.evaluation import (
    MODELS,
    Drawing,
    Evaluation,
    Picture,
    Prompt,
    Scorer,
    summarize,
    summarize_prompts,
)
from instructbooth_trainer.report.page import TrainingRecord, render_page, training_record
from instructbooth_trainer.report.sheet import contact_sheet
from instructbooth_trainer.rewards import Reward, RewardContext, load_reward, score
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.errors import RunError, UserError

log = logging.getLogger(__name__)

BASE = MODELS[0]


@dataclass(frozen=True)
class Judged:
    """A picture and its PNG file's bytes."""

    picture: Picture
    png: bytes


def run(run: RunContext) -> Outcome:
    """Draw, judge, report, publish."""
    job = run.job.spec
    spec = job.evaluation
    templates = run.prompts(spec.prompts, PromptRole.EVALUATION)
    adapters: dict[str, Path | None] = dict(
        zip(MODELS, (None, run.input_folder(Stage.PERSONALIZE), run.input_folder(Stage.REINFORCE)), strict=True)
    )
    metrics = load_metrics(run)
    model = DiffusionModel.load(
        run.model_folder(job.model.source),
        family=job.model.family,
        dtype=job.model.dtype,
        device=run.accelerator.device,
        resolution=job.model.resolution,
    )
    # The stock pipeline would drop the words that are too many.
    model.check_prompts([expand(template, job.subject, identifier=True) for template in templates])
    drawing = run.gang.once(lambda: how_drawn(run, model))
    parts = Parts(run, drawing)
    judged = parts.find()
    run.progress.start(len(MODELS) * len(templates) * spec.images_per_prompt, "pictures", done=count(judged))
    for name, folder in adapters.items():
        missing = [index for index in range(len(templates)) if (name, index) not in judged]
        if not missing:
            continue
        with adapted(model.pipeline, folder):
            for turn in turns(missing, run.gang.world_size):
                judged |= judge_turn(run, model, metrics, parts, name, turn, templates)
                shown = headline(judged, name, spec.headline or spec.metrics[0].name)
                run.progress.update(count(judged), **shown)
                run.stop_if_asked()
    folder = run.workdir / "output"
    if not run.gang.is_main:
        return run.publish(folder, {})
    keys = [(name, index) for name in MODELS for index in range(len(templates))]
    evaluation = assemble(run, drawing, templates, metrics, parts.gather(keys, folder))
    write_output(folder, evaluation, training_record(adapters[MODELS[2]]))
    return run.publish(folder, evaluation.outcome_metrics())


def load_metrics(run: RunContext) -> dict[str, Reward]:
    """The metrics by name. Collective. Raises UserError MetricsAmbiguous, RewardUnknown, RewardInvalid."""
    specs = run.job.spec.evaluation.metrics
    names = [spec.name for spec in specs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            "MetricsAmbiguous",
            f"spec.evaluation.metrics names {', '.join(sorted(twice))} more than once: results are told apart by name",
        )
    context = RewardContext(run.model_folder, run.subject_images(), str(run.accelerator.device))
    return {spec.name: load_reward(spec, context) for spec in specs}


@contextmanager
def adapted(pipeline: Any, folder: Path | None) -> Iterator[None]:
    """The pipeline with a stage's LoRA, as users load it; without any for None."""
    if folder is None:
        yield
        return
    try:
        pipeline.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            "AdapterInvalid", f"the LoRA of an earlier stage does not load into the model: {error}"
        ) from error
    try:
        yield
    finally:
        pipeline.unload_lora_weights()


def turns(prompts: Sequence[int], world_size: int) -> list[Sequence[int]]:
    """Prompt numbers in turns, one per rank; every rank goes through every turn, the last may be short."""
    return [prompts[first : first + world_size] for first in range(0, len(prompts), world_size)]


def judge_turn(
    run: RunContext,
    model: DiffusionModel,
    metrics: Mapping[str, Reward],
    parts: Parts,
    name: str,
    turn: Sequence[int],
    templates: Sequence[str],
) -> dict[Key, list[Picture]]:
    """Draw, judge and keep a prompt on each rank; returns the pictures of all of them. Collective."""

    def judge() -> list[Picture]:
        if run.gang.rank >= len(turn):
            return []
        index = turn[run.gang.rank]
        found = judge_prompt(run, model, metrics, name, index, templates[index])
        pictures = [item.picture for item in found]
        parts.keep((name, index), pictures, {item.picture.file: item.png for item in found})
        log.info("%s model, prompt %d of %d: %d pictures drawn", name, index + 1, len(templates), len(found))
        return pictures

    shares = run.gang.gather(run.gang.together(judge))
    return {(name, index): share for index, share in zip(turn, shares, strict=False)}


def judge_prompt(
    run: RunContext, model: DiffusionModel, metrics: Mapping[str, Reward], name: str, index: int, template: str
) -> list[Judged]:
    """Draw and score all pictures of one prompt by one model."""
    job = run.job.spec
    spec, subject = job.evaluation, job.subject
    prompt = expand(template, subject, identifier=name != BASE)
    first = spec.seed + index * spec.images_per_prompt
    seeds = range(first, first + spec.images_per_prompt)
    size = sampling_batch(model.resolution)
    out: list[Judged] = []
    for start in range(0, len(seeds), size):
        batch = list(seeds[start : start + size])
        pixels = draw(model, prompt, batch, spec.sampling)
        kept = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        texts = [reward_text(template, subject)] * len(batch)
        scores = {metric: score(metric, judge, kept, texts).tolist() for metric, judge in metrics.items()}
        details = {metric: details_of(metric, judge, kept, texts) for metric, judge in metrics.items()}
        for place, image in enumerate(pixels):
            number = start + place
            picture = Picture(
                model=name,
                prompt_index=index,
                number=number,
                file=f"pictures/{name}/{index:03d}-{number}.png",
                prompt=prompt,
                batch_seeds=batch,
                batch_index=place,
                scores={metric: values[place] for metric, values in scores.items()},
                details={metric: rows[place] for metric, rows in details.items() if rows is not None},
            )
            out.append(Judged(picture, png_bytes(image)))
    return out


@torch.no_grad()
def draw(model: DiffusionModel, prompt: str, seeds: Sequence[int], sampling: Sampling) -> np.ndarray[Any, Any]:
    """Pictures uint8 [batch, height, width, 3] by the stock pipeline, one seed each; redraw.py does the same again."""
    latents = model.draw_stock([prompt] * len(seeds), seeds, sampling.steps, sampling.guidance_scale)
    return to_bytes(model.decode(latents))


def details_of(name: str, metric: Reward, images: Tensor, prompts: Sequence[str]) -> list[JsonValue] | None:
    """What a metric has to say beyond its score, per picture, if it has a method `details`. Raises RunError."""
    method = getattr(metric, "details", None)
    if method is None:
        return None
    rows: list[JsonValue] = json.loads(json.dumps(method(images, prompts)))
    if len(rows) != len(images):
        raise RunError("RewardFailed", f"metric {name!r} gave {len(rows)} details for {len(images)} pictures")
    return rows


def png_bytes(image: np.ndarray[Any, Any]) -> bytes:
    """A picture uint8 [height, width, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def count(judged: Mapping[Key, Sequence[Picture]]) -> int:
    """How many pictures there are."""
    return sum(len(pictures) for pictures in judged.values())


def headline(judged: Mapping[Key, Sequence[Picture]], name: str, metric: str) -> dict[str, float]:
    """The headline metric of the model that is being drawn, so far."""
    scores = [p.scores[metric] for (model, _), pictures in sorted(judged.items()) if model == name for p in pictures]
    return {"reward_mean": sum(scores) / len(scores)} if scores else {}


def how_drawn(run: RunContext, model: DiffusionModel) -> Drawing:
    """How rank 0 draws, and so all do."""
    job = run.job.spec
    return Drawing(
        steps=job.evaluation.sampling.steps,
        guidance_scale=job.evaluation.sampling.guidance_scale,
        resolution=model.resolution,
        dtype=job.model.dtype,
        threads=torch.get_num_threads(),
        device=str(run.accelerator.device),
        versions={name: version(name) for name in ("torch", "diffusers", "transformers", "peft")},
    )


def assemble(
    run: RunContext,
    drawing: Drawing,
    templates: Sequence[str],
    metrics: Mapping[str, Reward],
    pictures: Sequence[Picture],
) -> Evaluation:
    """Everything measured, with the summaries that follow from it."""
    job = run.job.spec
    spec = job.evaluation
    names = list(metrics)
    return Evaluation(
        job=f"{run.job.namespace}/{run.job.name}",
        uid=run.job.uid,
        subject=job.subject.phrase,
        identifier=job.subject.identifier,
        headline=spec.headline or spec.metrics[0].name,
        metrics=names,
        scorers={
            metric.name: Scorer(
                backbone=getattr(metrics[metric.name], "backbone", None),
                source=metric.model.label() if metric.model else None,
            )
            for metric in spec.metrics
        },
        drawing=drawing,
        prompts=[Prompt(template=t, judged=reward_text(t, job.subject)) for t in templates],
        pictures=list(pictures),
        summary=summarize(pictures, names),
        per_prompt=summarize_prompts(pictures, names, len(templates)),
    )


def write_output(folder: Path, evaluation: Evaluation, training: TrainingRecord) -> None:
    """Write evaluation.json, contact-sheet.png, report.html and README.md beside the pictures."""
    sheet = contact_sheet(evaluation, lambda picture: Image.open(folder / picture.file).convert("RGB"))
    sheet.save(folder / "contact-sheet.png", optimize=True)
    (folder / "evaluation.json").write_text(evaluation.model_dump_json(by_alias=True, indent=1))
    (folder / "report.html").write_text(render_page(evaluation, sheet, training), encoding="utf-8")
    (folder / "README.md").write_text(evaluation_card(evaluation), encoding="utf-8")
