"""Pictures of any aspect: where they go, what the models are told, and that training on them is what it should be."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth.spec.personalization import Lora, Personalization
from instructbooth_trainer.algorithms.dreambooth import squared_errors
from instructbooth_trainer.diffusion.adapter import Adapter
from instructbooth_trainer.diffusion.framing import conditioned_sizes, cropped_share, pixels
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.recipes.batches import Bucket, Data, batch, fit, prepare
from instructbooth_trainer.recipes.personalize import batch_loss
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import make_context
from tests.unit.trainer.harness import BUCKET, Lab, published
from tests.unit.trainer.second_stage import Killed, kill_at_update
from tests.unit.trainer.test_diffusion import disturb
from tests.unit.trainer.tiny import SIZE, TinyWorld
from tests.unit.trainer.tiny_families import BUILDERS

PERSONALIZE = Stage.PERSONALIZE
SIZES = [(32, 32), (60, 100), (100, 60), (120, 200)]  # the square, 24:40 twice, 40:24


def photos() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


@pytest.fixture
def photo_lab(tiny: TinyWorld, tmp_path: Path) -> Lab:
    """A lab whose subject has pictures of several aspects."""
    lab = Lab(tmp_path / "store", tiny)
    folder = lab.root / BUCKET / "subject"
    for path in folder.iterdir():
        path.unlink()
    for number, image in enumerate(photos()):
        image.save(folder / f"{number}.png")
    return lab


def options(**changes: Any) -> Personalization:
    return Personalization.model_validate({"aspectBuckets": True, **changes})


def test_pictures_are_sorted_into_buckets_and_mirrored_within_them(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    found = fit(model, photos(), options(flip=True), warn=True)
    assert [tuple(bucket.latents.shape) for bucket in found] == [(2, 4, 8, 8), (4, 4, 10, 6), (2, 4, 6, 10)]
    one, other = photos()[1], photos()[3]
    expected = model.encode_images([one, other, ImageOps.mirror(one), ImageOps.mirror(other)], (24, 40))
    assert torch.equal(found[1].latents, expected)
    assert found[1].sizes.tolist() == [[100, 60, 0, 0, 40, 24], [200, 120, 0, 0, 40, 24]] * 2


def test_by_default_pictures_are_cut_to_their_centre_and_it_is_said(
    tiny: TinyWorld, caplog: pytest.LogCaptureFixture
) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    (bucket,) = fit(model, photos(), Personalization(), warn=True)
    assert bucket.latents.shape == (4, *model.latent_shape)
    assert torch.equal(bucket.latents[1:2], model.encode_images([photos()[1].crop((0, 20, 60, 80))]))
    assert "3 of 4 subject pictures" in caplog.text
    assert "40 % of their area" in caplog.text
    assert "aspectBuckets: true" in caplog.text
    caplog.clear()
    fit(model, [Image.new("RGB", (40, 32))], Personalization(), warn=True)
    assert not caplog.text, "a fifth is what photos lose"


def test_a_picture_is_fitted_around_its_centre() -> None:
    # 100 x 50 into 24 x 40: 30 x 50 from (35, 0), and 0.8 pixels for one of it. Resized to cover, it is 80 x 40, of
    # which 28 are left over on the left.
    image = photos()[2].resize((100, 50))
    assert pixels(image, (24, 40)).shape == (3, 40, 24)
    inside = image.crop((35, 0, 65, 50)).resize((24, 40), Image.Resampling.LANCZOS)
    assert torch.equal(pixels(image, (24, 40)), pixels(inside, (24, 40)))
    assert conditioned_sizes((100, 50), (24, 40)) == [50, 100, 0, 28, 40, 24]
    assert conditioned_sizes((30, 90), (24, 40)) == [90, 30, 16, 0, 40, 24]
    assert cropped_share((100, 50), (24, 40)) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("family", "resolution", "step", "longest"),
    [
        ("stable-diffusion", 32, 8, 64),  # two levels of 4 pixels a latent
        ("stable-diffusion", 512, 32, 1024),
        ("stable-diffusion-xl", 1024, 64, 2048),
        ("flux", 1024, 64, 2048),
        ("stable-diffusion-3", 32, 8, 64),
        ("stable-diffusion-3", 48, 8, 64),  # 8 positions of 8 pixels
    ],
)
def test_buckets_are_those_the_model_can_take(
    folders: dict[str, Path], family: str, resolution: int, step: int, longest: int
) -> None:
    model = DiffusionModel.load(folders[family], resolution=resolution)
    assert (model.bucket_step(), model.longest_side()) == (step, longest)


def test_stable_diffusions_levels_are_all_halved_without_a_rest(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline, resolution=32)
    model.denoiser.register_to_config(block_out_channels=(8, 8, 8, 8))
    assert model.bucket_step() == 32  # 4 pixels a latent, halved three times; with 8 pixels it is 64


@pytest.mark.parametrize("family", sorted(BUILDERS))
@pytest.mark.parametrize("size", [(24, 40), (40, 24), (16, 64)])
def test_every_family_trains_on_a_rectangle_as_its_stock_denoiser_sees_it(
    folders: dict[str, Path], family: str, size: tuple[int, int]
) -> None:
    """The pixels of the rectangle, not of a square of as many: turning the latents around changes the prediction."""
    model = DiffusionModel.load(folders[family], resolution=SIZE)
    adapter = Adapter(model, Lora(rank=2), text_encoder=False, seed=0)
    disturb(adapter)
    latents = model.encode_images([photos()[1]], size)
    assert latents.shape == (1, model.latent_shape[0], size[1] // 4, size[0] // 4)
    objective = model.objective(None)
    generator = torch.Generator().manual_seed(0)
    timesteps = objective.draw_timesteps(1, generator)
    exercise = objective.exercise(latents, torch.randn(latents.shape, generator=generator), timesteps)
    sizes = torch.tensor([conditioned_sizes((60, 100), size)])
    conditioning = model.told_sizes(model.condition(["a sks star"], 1.0), sizes)
    prediction = model.predict(exercise.noisy, timesteps, conditioning)
    assert prediction.shape == latents.shape
    squared_errors(prediction, exercise.target).sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in adapter.parameters() if p.grad is not None) > 0
    turned = model.predict(exercise.noisy.transpose(2, 3), timesteps, conditioning).transpose(2, 3)
    assert not torch.allclose(turned, prediction, atol=1e-4)


def test_only_sdxl_is_told_the_sizes(folders: dict[str, Path]) -> None:
    sizes = torch.tensor([[100.0, 60.0, 0.0, 0.0, 40.0, 24.0]])
    for family in BUILDERS:
        model = DiffusionModel.load(folders[family], resolution=SIZE)
        conditioning = model.condition(["a sks star"], 1.0)
        told = model.told_sizes(conditioning, sizes)
        changed = [name for name, x in told.encoding.items() if not torch.equal(x, conditioning.encoding[name])]
        assert changed == (["time_ids"] if family == "stable-diffusion-xl" else [])
    assert model.told_sizes(conditioning, sizes).guidance == 1.0


def numbered(*counts: int, classes: int = 0) -> Data:
    """Buckets of so many pictures each, whose latents are their numbers; the first bucket has the square's shape."""
    start, buckets = 0, []
    for n, count in enumerate(counts):
        numbers = torch.arange(start, start + count).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2 + n)
        buckets.append(Bucket(numbers, torch.full((count, 6), float(n))))
        start += count
    class_latents = torch.full((classes, 1, 2, 2), -1.0)
    return Data(
        buckets,
        ["a", "b"],
        {0: class_latents} if classes else {},
        {0: torch.zeros(classes, dtype=torch.int64)},
        ["c"] * bool(classes),
        torch.full((6,), 9.0),
    )


class Uniform:
    """An objective of ten timesteps."""

    def draw_timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(10, (count,), generator=generator)


def test_a_batch_is_of_one_bucket_and_every_picture_as_likely_as_another() -> None:
    data, spec = numbered(1, 3), options(batchSize=2)
    drawn: Counter[int] = Counter()
    for number in range(2000):
        (rows,) = batch(spec, data, number, 0, Uniform())  # type: ignore[arg-type]
        numbers = [int(x) for x in rows.latents[:, 0, 0, 0]]
        assert {n > 0 for n in numbers} == {rows.latents.shape[-1] == 3}
        assert rows.sizes[:, 0].tolist() == [float(numbers[0] > 0)] * 2
        drawn.update(numbers)
    assert sorted(drawn) == [0, 1, 2, 3]
    assert all(abs(count / 4000 - 0.25) < 0.03 for count in drawn.values()), drawn
    again, other = (batch(spec, data, 7, rank, Uniform()) for rank in (0, 1))  # type: ignore[arg-type]
    assert torch.equal(again[0].noise, batch(spec, data, 7, 0, Uniform())[0].noise)  # type: ignore[arg-type]
    assert again[0].noise.shape != other[0].noise.shape or not torch.equal(again[0].noise, other[0].noise)


def test_class_pictures_join_the_square_and_are_a_pass_of_their_own_beside_others() -> None:
    data, spec = numbered(1, 1, classes=3), options(batchSize=2)
    seen = set()
    for number in range(20):
        parts = batch(spec, data, number, 0, Uniform())  # type: ignore[arg-type]
        seen.add(len(parts))
        assert [len(rows.latents) for rows in parts] == ([4] if len(parts) == 1 else [2, 2])
        texts, sizes = torch.cat([r.texts for r in parts]), torch.cat([r.sizes[:, 0] for r in parts])
        assert texts[2:].tolist() == [2, 2]
        assert set(texts[:2].tolist()) <= {0, 1}
        assert sizes[2:].tolist() == [9.0, 9.0]
        assert (len(parts) == 1) == (sizes[0] == 0)
        timesteps = torch.cat([rows.timesteps for rows in parts])
        assert len(timesteps) == 4
    assert seen == {1, 2}


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_two_passes_are_one_loss(tiny: TinyWorld, gamma: float | None) -> None:
    """The same rows in one pass or in two: the same loss, for only the order of the passes differs."""
    model = DiffusionModel.load(tiny.pipeline)
    square = model.encode_images([photos()[0], photos()[2]])
    data = Data(
        [Bucket(square, torch.zeros(2, 6))],
        ["a star"],
        {0: square.flip(0)},
        {0: torch.tensor([0, 0])},
        ["the mascot"],
        torch.zeros(6),
    )
    spec = options(batchSize=2, priorPreservation={"weight": 0.3})
    objective, conditioning = model.objective(gamma), model.condition(data.texts, 1.0)
    (rows,) = batch(spec, data, 0, 0, objective)
    halves = [type(rows)(*(getattr(rows, n)[part] for n in vars(rows))) for part in (slice(0, 2), slice(2, 4))]
    with torch.no_grad():
        whole = batch_loss(model, objective, spec, [rows], conditioning)
        parts = batch_loss(model, objective, spec, halves, conditioning)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_the_loss_is_of_the_sizes_that_each_photo_has(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DiffusionModel.load(folders["stable-diffusion-xl"], resolution=SIZE)
    buckets = fit(model, photos()[1:2], options())
    square = torch.tensor(conditioned_sizes((SIZE, SIZE), (SIZE, SIZE)))
    data = Data(
        buckets, ["a star"], {0: torch.zeros(1, *model.latent_shape)}, {0: torch.tensor([0])}, ["the mascot"], square
    )
    told: list[list[float]] = []
    forward = model.forward

    def watching(latents: Any, timesteps: Any, encoding: Any, guidance: float) -> Any:
        told.extend(encoding["time_ids"].tolist())
        return forward(latents, timesteps, encoding, guidance)

    monkeypatch.setattr(model, "forward", watching)
    objective, spec = model.objective(None), options(batchSize=1)
    with torch.no_grad():
        batch_loss(model, objective, spec, batch(spec, data, 0, 0, objective), model.condition(data.texts, 1.0))
    assert told == [[100, 60, 0, 0, 40, 24], [SIZE, SIZE, 0, 0, SIZE, SIZE]]


def test_a_step_is_the_mean_of_its_batches(lab: Lab) -> None:
    changes = {"steps": 1, "gradientAccumulationSteps": 3, "learningRate": 1e-9, "priorPreservation": {"weight": 0}}
    found = []
    for uid, change in {"mean": changes, "each": changes | {"steps": 3, "gradientAccumulationSteps": 1}}.items():
        job = lab.job(f"accumulated-{uid}", personalization=change)
        lab.run(job, PERSONALIZE)
        found.append(json.loads((lab.output(job, PERSONALIZE) / "personalize.json").read_text())["loss"])
    assert len(found[0]) == 1
    assert found[0][0] == pytest.approx(sum(found[1]) / 3, rel=1e-5)


def test_training_on_buckets_goes_on_bit_for_bit(photo_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"aspectBuckets": True, "flip": True, "steps": 9, "gradientAccumulationSteps": 2}
    whole, killed = (photo_lab.job(f"buckets-{n}", personalization=changes) for n in range(2))
    photo_lab.run(whole, PERSONALIZE)
    with monkeypatch.context() as patch:
        kill_at_update(patch, 9)
        with pytest.raises(Killed):
            photo_lab.run(killed, PERSONALIZE)
    photo_lab.run(killed, PERSONALIZE, attempt=2)
    assert published(photo_lab, killed, PERSONALIZE, 2) == published(photo_lab, whole, PERSONALIZE)
    losses = json.loads((photo_lab.output(whole, PERSONALIZE) / "personalize.json").read_text())["loss"]
    assert len(losses) == 9


def test_square_pictures_train_alike_with_and_without_buckets(lab: Lab) -> None:
    files = []
    for buckets in (False, True):
        job: ResolvedJob = lab.job(f"square-{buckets}", personalization={"aspectBuckets": buckets, "steps": 3})
        lab.run(job, PERSONALIZE)
        files.append(published(lab, job, PERSONALIZE))
    assert files[0] == files[1]


def test_nothing_is_said_where_nothing_is_lost(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lab.run(lab.job("whole", personalization={"steps": 1}), PERSONALIZE)
    assert "centre square" not in caplog.text


def test_every_picture_goes_with_its_own_caption(tiny: TinyWorld) -> None:
    model = DiffusionModel.load(tiny.pipeline)
    found = fit(model, photos(), options(flip=True), torch.arange(4))
    assert [bucket.captions.tolist() for bucket in found if bucket.captions is not None] == [
        [0, 0],
        [1, 3, 1, 3],
        [2, 2],
    ]
    data = numbered(2, 3, classes=1)
    own = [Bucket(b.latents, b.sizes, b.latents[:, 0, 0, 0].long()) for b in data.subject]
    data = Data(own, list("abcde"), data.classes, data.class_captions, ["class"], data.class_sizes)
    for number in range(20):
        parts = batch(options(batchSize=3), data, number, 0, Uniform())  # type: ignore[arg-type]
        assert parts[0].texts[:3].tolist() == parts[0].latents[:3, 0, 0, 0].tolist()
        assert parts[-1].texts[-1] == 5


def test_captions_from_files_are_what_is_trained_on(photo_lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    folder = photo_lab.root / BUCKET / "subject"
    for number, text in enumerate(["a {subject} on red", "the sks star", "a {subject}", "a small {subject}"]):
        (folder / f"{number}.txt").write_text(text)
    job = photo_lab.job("captions", personalization={"captions": "files", "steps": 1})
    workdir = photo_lab.root / "captions"
    workdir.mkdir()
    pod = PodEnvironment(job, PERSONALIZE, 1, {}, 0, None, local=True, workdir=workdir)
    with photo_lab.environment():
        run = make_context(pod, StopFlag())
    data = prepare(run, DiffusionModel.load(photo_lab.world.pipeline))
    name = "sks striped star mascot"
    assert data.captions == [f"a {name} on red", "the sks star", f"a {name}", f"a small {name}"]
    assert data.class_texts == ["a photo of a mascot", "a mascot"], "class pictures have the templates"
    assert data.subject[0].captions is not None
    assert data.subject[0].captions.tolist() == [0, 1, 2, 3]
    assert not caplog.text.count("not read")
    photo_lab.run(job, PERSONALIZE)
    photo_lab.run(photo_lab.job("templates", personalization={"steps": 1}), PERSONALIZE)
    assert "captions is templates" in caplog.text
