"""What a rank trains on in stage 1, and the rows of each batch.

The subject's pictures lie in buckets of one size each: a single one, the model's square, unless aspect-ratio buckets
are asked for. A batch has the subject's rows from one bucket, drawn so that every picture is as likely as every other,
and class pictures, which are always square: where the sizes differ they are two passes and one loss.
Shares of a step draw buckets of their own: all have about the same area, and so cost the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor

from instructbooth.spec.personalization import Personalization
from instructbooth_trainer.algorithms.buckets import Size, bucket_sizes, nearest_bucket
from instructbooth_trainer.diffusion.framing import conditioned_sizes, cropped_share
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import keyed_generator
from instructbooth_trainer.diffusion.objective import Objective
from instructbooth_trainer.diffusion.prompts import class_text, expand
from instructbooth_trainer.recipes.class_images import class_latents, share
from instructbooth_trainer.runtime.captions import has_captions
from instructbooth_trainer.runtime.context import RunContext

log = logging.getLogger(__name__)

MUCH = 0.2  # a photo of 4 to 5 that is cut square; who cuts more away should know of the buckets


@dataclass(frozen=True)
class Bucket:
    """Pictures of one size.

    Attributes:
        latents: [pictures, channels, height, width].
        sizes: how each picture was fitted, [pictures, 6]; see framing.conditioned_sizes.
        captions: number of each picture's own caption, [pictures]; None where any caption may stand with any picture.
    """

    latents: Tensor
    sizes: Tensor
    captions: Tensor | None = None


@dataclass(frozen=True)
class Data:
    """What a rank trains on.

    Attributes:
        subject: the subject's pictures, mirrored ones among them if asked for, by size.
        captions: their captions with the identifier, one per template or one per picture.
        classes: latents of class pictures by this rank's shares, [n, *latent_shape]; empty without prior preservation.
        class_captions: index of each class picture's template by share, [n].
        class_texts: class prompts, one per template.
        class_sizes: of the square, [6].
    """

    subject: list[Bucket]
    captions: list[str]
    classes: dict[int, Tensor]
    class_captions: dict[int, Tensor]
    class_texts: list[str]
    class_sizes: Tensor

    @property
    def texts(self) -> list[str]:
        """All captions; `Rows.texts` counts in them."""
        return self.captions + self.class_texts


@dataclass(frozen=True)
class Rows:
    """Rows of one size, for one pass through the model.

    Attributes:
        latents: [rows, channels, height, width].
        noise: of that shape, on the CPU.
        timesteps: [rows], on the CPU.
        texts: numbers into `Data.texts`, [rows], on the CPU.
        sizes: [rows, 6].
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    texts: Tensor
    sizes: Tensor


def shares(run: RunContext) -> range:
    """The shares of a step that this rank goes through: its own, and those of processes that this attempt lacks."""
    return range(run.gang.rank, run.job.spec.personalization.world_size, run.gang.world_size)


def prepare(run: RunContext, model: DiffusionModel) -> Data:
    """Encode the subject's pictures and get this rank's shares of the class pictures. Collective."""
    spec, subject = run.job.spec.personalization, run.job.spec.subject
    pictures = run.subject_images()
    templates, captions_of = spec.caption_templates, None
    if spec.captions == "files":
        templates, captions_of = run.subject_captions(), torch.arange(len(pictures))
    elif run.gang.is_main and has_captions(run.subject_folder()):  # no collective: the pictures came from there
        log.warning(
            "captions lie beside the subject's pictures and are not read: spec.personalization.captions is templates"
        )
    buckets = fit(model, pictures, spec, captions_of, warn=run.gang.is_main)
    class_texts = [class_text(template, subject) for template in spec.caption_templates]
    captions = [expand(template, subject, identifier=True) for template in templates]
    square = (model.resolution, model.resolution)
    sizes = torch.tensor(conditioned_sizes(square, square))
    if not spec.prior_preservation.weight:
        return Data(buckets, captions, {}, {}, [], sizes)
    classes, texts = class_latents(run, model, class_texts)
    numbers = {n: share(len(classes), n, spec.world_size) for n in shares(run)}
    own = {n: classes[of_share].to(model.device) for n, of_share in numbers.items()}
    return Data(buckets, captions, own, {n: texts[of_share] for n, of_share in numbers.items()}, class_texts, sizes)


def fit(
    model: DiffusionModel,
    pictures: list[Image.Image],
    spec: Personalization,
    captions: Tensor | None = None,
    *,
    warn: bool = False,
) -> list[Bucket]:
    """Encode pictures in the sizes they are trained in, buckets in the order in which their first picture comes.

    Args:
        model: encodes them.
        pictures: the subject's.
        spec: says whether there are buckets and mirrored pictures.
        captions: number of each picture's own caption, [pictures], if they have such.
        warn: say so where much of a picture is cut away.
    """
    square = (model.resolution, model.resolution)
    sizes = (
        bucket_sizes(model.resolution, model.bucket_step(), model.longest_side()) if spec.aspect_buckets else [square]
    )
    if warn and not spec.aspect_buckets:
        cut = [share for share in (cropped_share(picture.size, square) for picture in pictures) if share > MUCH]
        if cut:
            log.warning(
                "%d of %d subject pictures are cut to their centre square and lose up to %.0f %% of their area; "
                "spec.personalization.aspectBuckets: true keeps them",
                len(cut),
                len(pictures),
                100 * max(cut),
            )
    every = [*pictures, *map(ImageOps.mirror, pictures)] if spec.flip else pictures
    found: dict[Size, list[int]] = {}
    for number, picture in enumerate(every):
        found.setdefault(nearest_bucket(picture.size, sizes), []).append(number)
    return [
        Bucket(
            model.encode_images([every[number] for number in members], size),
            torch.tensor([conditioned_sizes(every[number].size, size) for number in members]),
            None if captions is None else captions[torch.tensor(members) % len(pictures)],
        )
        for size, members in found.items()
    ]


def choose_bucket(spec: Personalization, data: Data, number: int, share_number: int) -> Bucket:
    """The bucket of a batch's subject rows: each with the share of the pictures that it holds."""
    if len(data.subject) == 1:
        return data.subject[0]
    ends = torch.tensor([len(bucket.latents) for bucket in data.subject]).cumsum(0)
    picture = torch.randint(int(ends[-1]), (1,), generator=keyed_generator(spec.seed, "bucket", number, share_number))
    return data.subject[int(torch.searchsorted(ends, picture, right=True))]


def batch(spec: Personalization, data: Data, number: int, share_number: int, objective: Objective) -> list[Rows]:
    """The rows of one batch of a share, a pure function of (seed, number, share).

    Args:
        spec: batchSize and seed.
        data: what is drawn from.
        number: of the batch, counted over the steps.
        share_number: which of the gang's shares of a step.
        objective: draws the timesteps.

    Returns:
        batchSize rows of the subject, then as many class pictures if there are any; one part, or two where the sizes of
        the two differ.
    """
    bucket = choose_bucket(spec, data, number, share_number)
    generator = keyed_generator(spec.seed, "batch", number, share_number)

    def choose(count: int) -> Tensor:
        return torch.randint(count, (spec.batch_size,), generator=generator)

    chosen = choose(len(bucket.latents))
    texts = choose(len(data.captions)) if bucket.captions is None else bucket.captions[chosen]
    parts = [(bucket.latents[chosen], texts, bucket.sizes[chosen])]
    if data.classes:
        own = data.classes[share_number]
        chosen = choose(len(own))
        texts = len(data.captions) + data.class_captions[share_number][chosen]
        classes = (own[chosen], texts, data.class_sizes.expand(len(chosen), -1))
        if classes[0].shape == parts[0][0].shape:
            parts = [tuple(torch.cat(pair) for pair in zip(parts[0], classes, strict=True))]  # type: ignore[list-item]
        else:
            parts.append(classes)
    timesteps = objective.draw_timesteps(sum(len(latents) for latents, _, _ in parts), generator)
    told = torch.split(timesteps, [len(latents) for latents, _, _ in parts])
    return [
        Rows(latents, torch.randn(latents.shape, generator=generator), part, texts, sizes)
        for (latents, texts, sizes), part in zip(parts, told, strict=True)
    ]
