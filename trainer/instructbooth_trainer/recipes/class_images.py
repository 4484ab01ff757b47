"""Class pictures for prior preservation: drawn by the base model, kept in object storage for every job that wants them.

The key is made of all that a picture depends on, so that another job with the same model, class and sampling finds
them. Picture n has a generator of its own, and pictures are always drawn in the same batches, whatever the gang: only
another kind of machine makes other last bits. Latents are kept as the sampler left them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from instructbooth.artifacts.commit import sha256_of
from instructbooth.artifacts.layout import class_images
from instructbooth.artifacts.pieces import Piece
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.sampling import conditioning_for, sample, sampling_batch
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.errors import RunError
from instructbooth_trainer.runtime.shared import SharedArtifact

log = logging.getLogger(__name__)

FORMAT = 1  # goes up with every change of the sampler that changes pictures
PIECE = 8  # pictures drawn at once: what fits at 512 pixels, and small enough that a gang shares small pictures too
OTHER_PARTS = ("vae", "safety_checker", "feature_extractor", "image_encoder")  # latents do not depend on them
SUFFIXES = (".safetensors", ".json", ".txt", ".model")


def class_latents(run: RunContext, model: DiffusionModel, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """All class pictures, on the CPU. Collective.

    Drawn by the base model, where nobody drew them before: call it before an adapter is added.

    Returns:
        latents [n, *latent_shape] and the index of each one's class text, [n].
    """
    shared = open_artifact(run, model, texts)
    pieces = shared.read()
    for _ in range(2):  # twice where a piece that was found turns out to be damaged
        if pieces is None:
            shared.seal(draw_missing(run, model, texts, shared))
            pieces = shared.read()
    if pieces is None:
        raise RunError("ClassImagesUnreadable", f"{shared.store.url(shared.prefix)} does not keep what is written")
    latents = torch.cat(pieces)
    return latents, torch.arange(len(latents)) % len(texts)


def share(num_images: int, number: int, count: int) -> Tensor:
    """Numbers of the pictures of a share; where there are more shares than pictures, some have the same."""
    return torch.arange(number % num_images, num_images, count)


def open_artifact(run: RunContext, model: DiffusionModel, texts: Sequence[str]) -> SharedArtifact:
    """The place of the class pictures in object storage. Collective."""
    job = run.job.spec
    prior = job.personalization.prior_preservation
    folder = run.model_folder(job.model.source)
    inputs = {
        "format": FORMAT,
        "model": run.gang.once(lambda: model_identity(folder)),
        "dtype": job.model.dtype,
        "resolution": model.resolution,
        "texts": list(texts),
        "images": prior.num_images,
        "sampling": prior.sampling.to_wire(),
        "seed": job.personalization.seed,
    }
    text = json.dumps(inputs, indent=1, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return SharedArtifact(run.store, class_images(job.artifacts, key), text, run.gang, run.workdir)


def model_identity(folder: Path) -> str:
    """Hash of the files that latents depend on: the same model from the hub, from S3 or a volume is the same one."""
    parts = (part for part in folder.iterdir() if part.name not in OTHER_PARTS and not part.name.startswith("."))
    paths = sorted(p for part in parts for p in part.rglob("*") if p.suffix in SUFFIXES)
    content = [(path.relative_to(folder).as_posix(), sha256_of(path)) for path in paths]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def draw_missing(run: RunContext, model: DiffusionModel, texts: Sequence[str], shared: SharedArtifact) -> list[Piece]:
    """Draw the pieces nobody drew yet, split over the ranks; returns all pieces. Collective.

    Each piece is kept as soon as it is drawn: who is stopped or dies on the way goes on from there.
    """
    spec, gang = run.job.spec.personalization, run.gang
    prior = spec.prior_preservation
    size = min(PIECE, sampling_batch(model.resolution))
    batches = [range(first, min(first + size, prior.num_images)) for first in range(0, prior.num_images, size)]
    pieces = {number: piece for number, piece in shared.present().items() if number < len(batches)}
    missing = [number for number in range(len(batches)) if number not in pieces]
    done = sum(len(batches[number]) for number in pieces)
    schedule = model.schedule(prior.sampling.steps, eta=0.0)
    conditioning = conditioning_for(model, texts, prior.sampling.guidance_scale)

    def draw(turn: Sequence[int]) -> Piece | None:
        if gang.rank >= len(turn):
            return None
        batch = batches[turn[gang.rank]]
        rows = conditioning.rows(torch.tensor([n % len(texts) for n in batch], device=model.device))
        generators = [keyed_generator(spec.seed, "class", n) for n in batch]
        piece = shared.put(turn[gang.rank], sample(model, schedule, rows, generators)[-1])
        log.info("class pictures %d to %d of %d are drawn", batch[0] + 1, batch[-1] + 1, prior.num_images)
        return piece

    run.progress.start(prior.num_images, "class pictures", done=done)
    for first in range(0, len(missing), gang.world_size):
        turn = missing[first : first + gang.world_size]
        drawn = gang.gather(gang.together(lambda turn=turn: draw(turn)))  # type: ignore[misc]
        pieces |= {piece.number: piece for piece in drawn if piece is not None}
        done += sum(len(batches[number]) for number in turn)
        run.progress.update(done)
        run.stop_if_asked()
    return [pieces[number] for number in range(len(batches))]
