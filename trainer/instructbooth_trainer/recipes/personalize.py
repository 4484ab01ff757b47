"""Stage 1: bind the identifier to the subject.

DreamBooth (arXiv 2208.12242) as InstructBooth (arXiv 2312.03011) uses it: captions name the subject as
"<identifier> <detailed description>", and class pictures drawn by the base model keep the class what it was.

Assumptions and deviations, for neither paper published its code:
- LoRA on U-Net or transformer (and optionally text encoders) instead of all weights: stage 2 needs a small policy.
- Class latents are kept as the sampler left them, not decoded and encoded again (class_images.py). Each share of a step
  has its own share of them, as a sharded data loader would. Their captions are the templates with the class noun alone.
- A step is made of as many shares as the whole gang has processes. Where an attempt has fewer (minNodes), each process
  goes through several: the same rows, so the same step and the same learning rate, only later.
- The subject's latents are the posterior's mean, made once; so are the embeddings unless the text encoder is trained.
- Every random number is keyed by (seed, step, share): a resumed run repeats an unbroken one bit for bit.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

import torch
from PIL import ImageOps
from torch import Tensor

from instructbooth.contract import Outcome
from instructbooth.spec.personalization import Personalization
from instructbooth_trainer.algorithms.dreambooth import dreambooth_loss
from instructbooth_trainer.algorithms.learning_rate import learning_rate
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.identifier import IdentifierReport, check_identifier
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.objective import Objective
from instructbooth_trainer.diffusion.prompts import class_text, expand
from instructbooth_trainer.recipes.adoption import adopt
from instructbooth_trainer.recipes.average import AdapterAverage
from instructbooth_trainer.recipes.class_images import class_latents, share
from instructbooth_trainer.recipes.export import write_adapter
from instructbooth_trainer.recipes.training import AdapterState, SynchronizedAdamW, samples_sheet
from instructbooth_trainer.recipes.validation import ValidationPictures
from instructbooth_trainer.runtime.context import RunContext

log = logging.getLogger(__name__)

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Data:
    """What a rank trains on.

    Attributes:
        subject: latents of the subject's pictures, mirrored ones among them if asked for, [pictures, *latent_shape].
        captions: their captions with the identifier, one per template.
        classes: latents of class pictures by this rank's shares, [n, *latent_shape]; empty without prior preservation.
        class_captions: index of each class picture's template by share, [n].
        class_texts: class prompts, one per template.
    """

    subject: Tensor
    captions: list[str]
    classes: dict[int, Tensor]
    class_captions: dict[int, Tensor]
    class_texts: list[str]


def run(run: RunContext) -> Outcome:
    """Train the adapter on the subject's pictures and publish it."""
    job = run.job.spec
    spec = job.personalization
    device = run.accelerator.device
    model = DiffusionModel.load(
        run.model_folder(job.model.source),
        family=job.model.family,
        dtype=job.model.dtype,
        device=device,
        resolution=job.model.resolution,
    )
    identifier = look_at_identifier(run, model)
    if spec.adapter is not None:
        return adopt(run, model, spec.adapter, identifier)
    objective = model.objective(spec.min_snr_gamma)
    data = prepare(run, model)
    adapter = Adapter(model, spec.lora, text_encoder=spec.train_text_encoder, seed=spec.seed)
    if spec.gradient_checkpointing:
        model.checkpoint_gradients(text_encoder=spec.train_text_encoder)
    optimizer = SynchronizedAdamW(
        run.accelerator, adapter, spec.learning_rate, MAX_GRAD_NORM, job.model.dtype, spec.optimizer
    )
    state = AdapterState(adapter, optimizer.optimizer)
    average = AdapterAverage(adapter, state, spec.ema)
    pictures = ValidationPictures(run, model, state, average)
    run.start_checkpoints(spec.checkpoint_interval_steps)
    start = run.resume(state)

    texts = data.captions + data.class_texts
    fixed = None if spec.train_text_encoder else model.condition(texts, guidance=1.0)
    per_step = (2 if data.classes else 1) * spec.batch_size * spec.world_size
    run.progress.start(spec.steps, "steps", done=start)
    if start == 0:
        pictures.after(0)
    began = time.monotonic()
    for step in range(start, spec.steps):
        total = 0.0
        for share_number in shares(run):
            latents, rows, noise, timesteps = batch(spec, data, step, share_number, objective)
            exercise = objective.exercise(latents, noise.to(device), timesteps)
            with adapter.dropping(spec.seed, "dropout", step, share_number):
                conditioning = model.condition(texts, guidance=1.0) if fixed is None else fixed
                prediction = model.predict(exercise.noisy, timesteps.to(device), conditioning.rows(rows))
                weight = spec.prior_preservation.weight
                loss = dreambooth_loss(prediction, exercise.target, spec.batch_size, weight, exercise.weights)
                optimizer.backward(loss)
            total += float(loss.detach())
        optimizer.set_learning_rate(
            learning_rate(spec.learning_rate, spec.schedule, step, spec.steps, spec.warmup_steps)
        )
        result = optimizer.step(count=len(shares(run)), total_loss=total)
        average.update(step)
        state.curve.append({"loss": result.loss})
        speed = (step + 1 - start) * per_step / (time.monotonic() - began)
        run.progress.update(step + 1, loss=result.loss, grad_norm=result.grad_norm, images_per_second=speed)
        pictures.after(step + 1)
        run.checkpoint(step + 1, state)
    with average.in_place():
        return finish(run, model, adapter, state, identifier, pictures)


def look_at_identifier(run: RunContext, model: DiffusionModel) -> IdentifierReport:
    """Check the identifier against the tokenizer; a poor one is worth a warning, not an error."""
    report = check_identifier(model.tokenizer, run.job.spec.subject.identifier)
    if report.warning and run.gang.is_main:
        log.warning("%s", report.warning)
    return report


def shares(run: RunContext) -> range:
    """The shares of a step that this rank goes through: its own, and those of processes that this attempt lacks."""
    return range(run.gang.rank, run.job.spec.personalization.world_size, run.gang.world_size)


def prepare(run: RunContext, model: DiffusionModel) -> Data:
    """Encode the subject's pictures and get this rank's shares of the class pictures. Collective."""
    spec, subject = run.job.spec.personalization, run.job.spec.subject
    pictures = run.subject_images()
    latents = model.encode_images([*pictures, *map(ImageOps.mirror, pictures)] if spec.flip else pictures)
    class_texts = [class_text(template, subject) for template in spec.caption_templates]
    captions = [expand(template, subject, identifier=True) for template in spec.caption_templates]
    if not spec.prior_preservation.weight:
        return Data(latents, captions, {}, {}, [])
    classes, texts = class_latents(run, model, class_texts)
    numbers = {n: share(len(classes), n, spec.world_size) for n in shares(run)}
    own = {n: classes[of_share].to(model.device) for n, of_share in numbers.items()}
    return Data(latents, captions, own, {n: texts[of_share] for n, of_share in numbers.items()}, class_texts)


def batch(
    spec: Personalization, data: Data, step: int, share_number: int, objective: Objective
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of one share of a step, a pure function of (seed, step, share).

    Returns:
        latents [batch, *latent_shape], subject first; caption numbers into captions + class_texts, [batch]; noise like
        latents, on the CPU; timesteps [batch]. batch is batchSize, twice that with class pictures.
    """
    generator = keyed_generator(spec.seed, "batch", step, share_number)

    def choose(count: int) -> Tensor:
        return torch.randint(count, (spec.batch_size,), generator=generator)

    latents, rows = data.subject[choose(len(data.subject))], choose(len(data.captions))
    if data.classes:
        classes = data.classes[share_number]
        chosen = choose(len(classes))
        latents = torch.cat([latents, classes[chosen]])
        rows = torch.cat([rows, len(data.captions) + data.class_captions[share_number][chosen]])
    timesteps = objective.draw_timesteps(len(latents), generator)
    noise = torch.randn(latents.shape, generator=generator)
    return latents, rows, noise, timesteps


def finish(
    run: RunContext,
    model: DiffusionModel,
    adapter: Adapter,
    state: AdapterState,
    identifier: IdentifierReport,
    pictures: ValidationPictures,
) -> Outcome:
    """Publish adapter, numbers and a sheet of samples. Collective."""
    spec = run.job.spec.personalization
    losses = [point["loss"] for point in state.curve]
    tail = losses[-20:]
    numbers = {"loss": sum(tail) / len(tail), **identifier.metrics()}
    folder = run.workdir / "output"
    if run.gang.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        record = {"loss": losses, "identifier": identifier.record(), "spec": spec.to_wire()}
        (folder / "personalize.json").write_text(json.dumps(record, indent=1))
        samples_sheet(run, model, folder / "samples.png", spec.caption_templates)
        write_adapter(run, adapter, folder, numbers | {"steps": float(len(losses))})
        pictures.write(folder)
    return run.publish(folder, numbers)
