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
- Every random number is keyed by (seed, batch, share): a resumed run repeats an unbroken one bit for bit.
"""

from __future__ import annotations

import json
import logging
import time
from itertools import product

import torch
from torch import Tensor

from instructbooth.contract import Outcome
from instructbooth.spec.personalization import Personalization
from instructbooth_trainer.algorithms.dreambooth import dreambooth_loss, squared_errors
from instructbooth_trainer.algorithms.learning_rate import learning_rate
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.conditioning import Conditioning
from instructbooth_trainer.diffusion.identifier import IdentifierReport, check_identifier
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.objective import Objective
from instructbooth_trainer.recipes.adoption import adopt
from instructbooth_trainer.recipes.average import AdapterAverage
from instructbooth_trainer.recipes.batches import Rows, batch, prepare, shares
from instructbooth_trainer.recipes.export import write_adapter
from instructbooth_trainer.recipes.plateau import BEST, Plateau
from instructbooth_trainer.recipes.training import AdapterState, SynchronizedAdamW, samples_sheet
from instructbooth_trainer.recipes.validation import ValidationPictures
from instructbooth_trainer.runtime.context import RunContext

log = logging.getLogger(__name__)

MAX_GRAD_NORM = 1.0


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
    objective = model.objective(spec.min_snr_gamma, spec.flow_matching)
    data = prepare(run, model)
    adapter = Adapter(model, spec.lora, text_encoder=spec.train_text_encoder, seed=spec.seed)
    if spec.gradient_checkpointing:
        model.checkpoint_gradients(text_encoder=spec.train_text_encoder)
    if job.model.compile:
        model.compile()
    if job.model.cuda_graphs:
        model.record()
    optimizer = SynchronizedAdamW(
        run.accelerator,
        adapter,
        spec.learning_rate,
        MAX_GRAD_NORM,
        job.model.dtype,
        spec.weight_decay,
        spec.optimizer,
    )
    state = AdapterState(adapter, optimizer.optimizer)
    average = AdapterAverage(adapter, state, spec.ema)
    pictures = ValidationPictures(run, model, state, average)
    plateau = Plateau(run, model, objective, data, adapter, state, average)
    run.start_checkpoints(spec.checkpoint_interval_steps)
    start, batches, own = run.resume(state), spec.gradient_accumulation_steps, shares(run)

    fixed = None if spec.train_text_encoder else model.condition(data.texts, guidance=1.0)
    per_step = (2 if data.classes else 1) * spec.batch_size * batches * spec.world_size
    run.progress.start(spec.steps, "steps", done=start)
    if start == 0:
        pictures.after(0)
    began = time.monotonic()
    for step in range(start, spec.steps):
        total = 0.0
        for share_number, number in product(own, range(step * batches, (step + 1) * batches)):
            rows = batch(spec, data, number, share_number, objective)
            with adapter.dropping(spec.seed, "dropout", number, share_number):
                conditioning = model.condition(data.texts, guidance=1.0) if fixed is None else fixed
                loss = batch_loss(model, objective, spec, rows, conditioning)
                optimizer.backward(loss)
            total += float(loss.detach())
        optimizer.set_learning_rate(
            learning_rate(spec.learning_rate, spec.schedule, step, spec.steps, spec.warmup_steps)
        )
        result = optimizer.step(count=len(own) * batches, total_loss=total)
        average.update(step)
        state.curve.append({"loss": result.loss})
        speed = (step + 1 - start) * per_step / (time.monotonic() - began)
        run.progress.update(step + 1, loss=result.loss, grad_norm=result.grad_norm, images_per_second=speed)
        pictures.after(step + 1)
        if plateau.reached(step + 1):
            break
        run.checkpoint(step + 1, state)
    best = state.kept.get(BEST)
    with average.in_place() if best is None else adapter.swapped(best):
        return finish(run, model, adapter, state, identifier, pictures, plateau)


def batch_loss(
    model: DiffusionModel, objective: Objective, spec: Personalization, parts: list[Rows], conditioning: Conditioning
) -> Tensor:
    """The loss of one batch, a scalar.

    Args:
        model: with its adapter.
        objective: what it should predict.
        spec: batchSize and the prior's weight.
        parts: rows of one size each, the subject's first.
        conditioning: a row per text of `Data.texts`.
    """
    errors, weights = [], []
    for rows in parts:
        exercise = objective.exercise(rows.latents, rows.noise.to(model.device), rows.timesteps)
        told = model.told_sizes(conditioning.rows(rows.texts), rows.sizes)
        prediction = model.predict(exercise.noisy, rows.timesteps.to(model.device), told)
        errors.append(squared_errors(prediction, exercise.target))
        if exercise.weights is not None:
            weights.append(exercise.weights)
    weighed = torch.cat(weights) if weights else None
    return dreambooth_loss(torch.cat(errors), spec.batch_size, spec.prior_preservation.weight, weighed)


def look_at_identifier(run: RunContext, model: DiffusionModel) -> IdentifierReport:
    """Check the identifier against the tokenizer; a poor one is worth a warning, not an error."""
    report = check_identifier(model.tokenizer, run.job.spec.subject.identifier)
    if report.warning and run.gang.is_main:
        log.warning("%s", report.warning)
    return report


def finish(
    run: RunContext,
    model: DiffusionModel,
    adapter: Adapter,
    state: AdapterState,
    identifier: IdentifierReport,
    pictures: ValidationPictures,
    plateau: Plateau,
) -> Outcome:
    """Publish adapter, numbers and a sheet of samples. Collective."""
    spec = run.job.spec.personalization
    losses = [point["loss"] for point in state.curve]
    steps = plateau.best_step or len(losses)  # of the adapter that is published
    tail = losses[:steps][-20:]
    numbers = {"loss": sum(tail) / len(tail), **identifier.metrics()}
    folder = run.workdir / "output"
    if run.gang.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        record = {"loss": losses, "identifier": identifier.record(), "spec": spec.to_wire()} | plateau.numbers()
        (folder / "personalize.json").write_text(json.dumps(record, indent=1))
        samples_sheet(run, model, folder / "samples.png", spec.caption_templates)
        write_adapter(run, adapter, folder, numbers | {"steps": float(steps)})
        pictures.write(folder)
    return run.publish(folder, numbers)
