"""Rewards: preprocessing equal to the stock processor, scores equal to transformers', failures that stay failures."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, CLIPVisionModel

from instructbooth.spec.scores import RewardSpec
from instructbooth_trainer.rewards import Part, RewardContext, WeightedReward, load_reward, score
from instructbooth_trainer.rewards.clip_score import create as create_clip
from instructbooth_trainer.rewards.pick_score import create as create_pick
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.rewards.subject_identity import create as create_identity
from instructbooth_trainer.runtime.errors import RunError, UserError
from tests.unit.trainer.tiny import TinyWorld


def pictures(count: int, height: int, width: int) -> tuple[list[Image.Image], Tensor]:
    """Smooth random pictures, as PIL images and as the same numbers in [0, 1]."""
    rng = np.random.default_rng(1)
    small = [Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)) for _ in range(count)]
    images = [image.resize((width, height), Image.Resampling.BICUBIC) for image in small]
    return images, torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1).float() / 255 for i in images])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (48, 80), (80, 40), (20, 20)])
def test_preprocess_is_the_stock_processors(tiny: TinyWorld, height: int, width: int) -> None:
    images, tensors = pictures(3, height, width)
    theirs = CLIPImageProcessorPil.from_pretrained(tiny.clip)(images=images, return_tensors="pt").pixel_values
    ours = Preprocess.from_folder(tiny.clip)(tensors)
    assert ours.shape == theirs.shape
    # PIL rounds to 8 bits after each of its two passes (up to 1 / 255, over the smallest std 0.26), and where it
    # enlarges it cuts the first pass's overshoot before the second.
    bound = 1.01 if min(height, width) >= 32 else 2.5
    assert float((ours - theirs).abs().max()) <= bound / 255 / 0.26
    assert float((ours - theirs).abs().mean()) <= 0.5 / 255 / 0.26


def test_preprocess_reads_the_newer_file_and_does_not_crop_unasked(tmp_path: Path) -> None:
    config = {"size": {"shortest_edge": 16}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    assert Preprocess.from_folder(tmp_path)(torch.ones(1, 3, 32, 64)).shape == (1, 3, 16, 32)
    with pytest.raises(ValueError, match="neither"):
        Preprocess.from_folder(tmp_path / "nothing")


def test_clip_score_is_the_cosine(tiny: TinyWorld) -> None:
    images, tensors = pictures(2, 32, 32)
    prompts = ["a photo of a mascot", "a small star on red"]
    ours = create_clip({"model_folder": str(tiny.clip)})(tensors, prompts)
    model, tokenizer = CLIPModel.from_pretrained(tiny.clip), CLIPTokenizer.from_pretrained(tiny.clip)
    pixels = CLIPImageProcessorPil.from_pretrained(tiny.clip)(images=images, return_tensors="pt").pixel_values
    with torch.no_grad():
        for row in range(2):  # logits = exp(scale) * cosine, each text alone and so without padding
            out = model(**tokenizer([prompts[row]], return_tensors="pt"), pixel_values=pixels[row : row + 1])
            cosine = out.logits_per_image[0, 0] / model.logit_scale.exp()
            torch.testing.assert_close(ours[row], cosine, rtol=1e-4, atol=1e-5)


def test_pick_score_is_the_models_own_logit(tiny: TinyWorld) -> None:
    images, tensors = pictures(2, 32, 32)
    prompts = ["a photo of a mascot", "a small star on red"]
    ours = create_pick({"model_folder": str(tiny.clip)})(tensors, prompts)
    model, tokenizer = CLIPModel.from_pretrained(tiny.clip), CLIPTokenizer.from_pretrained(tiny.clip)
    pixels = CLIPImageProcessorPil.from_pretrained(tiny.clip)(images=images, return_tensors="pt").pixel_values
    with torch.no_grad():
        for row in range(2):
            out = model(**tokenizer([prompts[row]], return_tensors="pt"), pixel_values=pixels[row : row + 1])
            torch.testing.assert_close(ours[row], out.logits_per_image[0, 0], rtol=1e-4, atol=1e-4)
    # A fresh CLIP's logit_scale is 2.6592: exp(2.6592) = 14.285.
    cosine = create_clip({"model_folder": str(tiny.clip)})(tensors, prompts)
    torch.testing.assert_close(ours, 14.285 * cosine, rtol=1e-4, atol=1e-4)


def test_pick_scores_scale_is_not_rounded_to_the_dtype(tiny: TinyWorld) -> None:
    _, tensors = pictures(1, 32, 32)
    half = {"model_folder": str(tiny.clip), "dtype": "bf16"}  # bf16(2.6592) = 2.65625, whose exp is 0.3 % less
    ratio = create_pick(half)(tensors, ["a star"]) / create_clip(half)(tensors, ["a star"])
    assert float(ratio) == pytest.approx(14.285, rel=1e-4)


def test_clip_score_reaches_the_pixels(tiny: TinyWorld) -> None:
    _, tensors = pictures(2, 64, 64)
    tensors.requires_grad_(True)
    create_clip({"model_folder": str(tiny.clip)})(tensors, ["a star", "a mascot"]).sum().backward()
    assert tensors.grad is not None
    assert float(tensors.grad.abs().max()) > 0


def test_clip_score_does_not_drop_words_unasked(tiny: TinyWorld) -> None:
    _, tensors = pictures(1, 32, 32)
    long = "a " * 40
    with pytest.raises(UserError, match=r"PromptTooLong.*42 tokens.*clip-score.* 16: .*truncate"):
        create_clip({"model_folder": str(tiny.clip)})(tensors, [long])
    with pytest.raises(UserError, match=r"PromptTooLong.*pick-score"):
        create_pick({"model_folder": str(tiny.clip)})(tensors, [long])
    scores = create_clip({"model_folder": str(tiny.clip), "longPrompts": "truncate"})(tensors, [long])
    assert bool(scores.isfinite().all())


def test_subject_identity_is_the_mean_cosine(tiny: TinyWorld) -> None:
    references, tensors = pictures(3, 32, 32)
    reward = create_identity({"model_folder": str(tiny.vision), "reference_images": references})
    model = CLIPVisionModel.from_pretrained(tiny.vision)
    pixels = CLIPImageProcessorPil.from_pretrained(tiny.vision)(images=references, return_tensors="pt").pixel_values
    with torch.no_grad():
        features = torch.nn.functional.normalize(model(pixel_values=pixels).pooler_output, dim=-1)
    torch.testing.assert_close(reward(tensors, ["", "", ""]), (features @ features.T).mean(1), rtol=1e-3, atol=1e-3)


def test_nothing_is_gained_above_the_ceiling(tiny: TinyWorld) -> None:
    references, tensors = pictures(3, 32, 32)
    given = {"model_folder": str(tiny.vision), "reference_images": references}
    free = create_identity(given)(tensors, ["", "", ""])
    middle = float(free.median())
    capped = create_identity({**given, "ceiling": middle})(tensors, ["", "", ""])
    assert capped.tolist() == [min(likeness, middle) for likeness in free.tolist()]  # each picture by itself
    assert float(capped.min()) < middle < float(free.max())
    assert torch.equal(create_identity({**given, "ceiling": 1})(tensors, ["", "", ""]), free)


@pytest.mark.parametrize("ceiling", [-1, 1.01, "0.8", True, float("nan")])
def test_a_ceiling_outside_the_cosines_range_is_refused(tiny: TinyWorld, ceiling: object) -> None:
    with pytest.raises(ValueError, match=r"ceiling is .* above -1 and at most 1"):
        create_identity(
            {"model_folder": str(tiny.vision), "reference_images": tiny.subject_images(), "ceiling": ceiling}
        )


def test_subject_identity_needs_pictures_and_a_model(tiny: TinyWorld) -> None:
    with pytest.raises(ValueError, match="pictures"):
        create_identity({"model_folder": str(tiny.vision), "reference_images": []})
    with pytest.raises(ValueError, match="model"):
        create_identity({"reference_images": [Image.new("RGB", (32, 32))]})


def context(tiny: TinyWorld) -> RewardContext:
    return RewardContext(lambda source: tiny.clip, tiny.subject_images())


def test_a_plug_in_is_found_by_name(tiny: TinyWorld) -> None:
    spec = RewardSpec.model_validate({"name": "clip-score", "model": {"s3": {"prefix": "clip"}}})
    _, tensors = pictures(2, 32, 32)
    assert load_reward(spec, context(tiny))(tensors, ["a star", "a mascot"]).shape == (2,)


def test_a_package_of_one_s_own_brings_its_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/rewards.md says: an installed distribution with an entry point."""
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[instructbooth.rewards]\nmy-brightness = my_brightness:create\n")
    (tmp_path / "my_brightness.py").write_text(
        "def create(params):\n"
        "    if 'scale' not in params:\n"
        "        raise ValueError('params.scale is missing')\n"
        "    return lambda images, prompts: params['scale'] * images.mean(dim=(1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    context = RewardContext(lambda source: tmp_path, [])
    reward = load_reward(RewardSpec(name="my-brightness", params={"scale": 2.0}), context)
    images = torch.stack([torch.full((3, 4, 4), 0.25), torch.ones(3, 4, 4)])
    assert score("my-brightness", reward, images, ["a", "b"]).tolist() == [0.5, 2.0]
    with pytest.raises(UserError, match=r"RewardInvalid.*params\.scale is missing"):
        load_reward(RewardSpec(name="my-brightness"), context)


def test_every_entry_point_leads_to_a_factory() -> None:
    """Read from pyproject.toml: what is installed may be older."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    for name, target in project["entry-points"]["instructbooth.rewards"].items():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute)), name


def test_an_unknown_plug_in_names_those_there_are(tiny: TinyWorld) -> None:
    with pytest.raises(UserError, match=r"RewardUnknown.*clip-score.*subject-identity"):
        load_reward(RewardSpec(name="aesthetics"), context(tiny))


def test_bad_parameters_are_the_users_error(tiny: TinyWorld) -> None:
    wire = {"name": "clip-score", "model": {"s3": {"prefix": "clip"}}}
    for params in ({"longPrompt": "truncate"}, {"longPrompts": "cut"}):
        with pytest.raises(UserError, match=r"RewardInvalid.*longPrompts"):
            load_reward(RewardSpec.model_validate({**wire, "params": params}), context(tiny))
    with pytest.raises(UserError, match=r"RewardInvalid.*needs a model"):
        load_reward(RewardSpec(name="clip-score"), context(tiny))


class Fixed:
    """A reward whose answer is given."""

    def __init__(self, *answer: float) -> None:
        self.answer = torch.tensor(answer)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.answer


class Resembles(Fixed):
    """One that compares with the subject's pictures; its answer is the first pixel."""

    compares_subject = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images[:, 0, 0, 0]


class Broken:
    """A reward that raises."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise KeyError("weights")


@pytest.mark.parametrize("reward", [Fixed(1.0, float("nan")), Fixed(float("inf"), 0.0), Fixed(1.0), Broken()])
def test_a_failing_reward_is_an_error(reward: Fixed | Broken) -> None:
    with pytest.raises(RunError, match=r"RewardFailed.*'it'"):
        score("it", reward, torch.zeros(2, 3, 4, 4), ["a", "b"])


def test_weighted_sum() -> None:
    # 2 * (1, 3) - 0.5 * (4, 2) = (0, 5): mean 2.5, std 2.5.
    reward = WeightedReward([Part("a", 2.0, Fixed(1.0, 3.0)), Part("b", -0.5, Fixed(4.0, 2.0))])
    scores = reward(torch.zeros(2, 3, 4, 4), ["x", "y"], [True, False])
    assert scores.tolist() == [[1.0, 3.0], [4.0, 2.0]]
    assert reward.total(scores).tolist() == [0.0, 5.0]
    assert reward.numbers(scores) == {"reward_mean": 2.5, "reward_std": 2.5, "reward/a": 2.0, "reward/b": 3.0}
    assert not reward.normalizes


def test_a_normalised_part_is_weighed_in_standard_deviations_and_told_raw() -> None:
    # (1, 3) has mean 2, std 1: (-1, 1). 2 * (-1, 1) - 0.5 * (4, 2) = (-4, 1).
    reward = WeightedReward([Part("a", 2.0, Fixed(1.0, 3.0), normalize=True), Part("a", -0.5, Fixed(4.0, 2.0))])
    scores = reward(torch.zeros(2, 3, 4, 4), ["x", "y"], [True, True])
    assert reward.total(scores).tolist() == [-4.0, 1.0]
    assert reward.numbers(scores) == {"reward_mean": 2.5, "reward_std": 2.5, "reward/a": 2.0, "reward/a-2": 3.0}
    assert reward.normalizes


def test_likeness_is_paid_where_the_subject_is_asked_for_alone() -> None:
    reward = WeightedReward([Part("a", 1.0, Fixed(1.0, 2.0, 3.0)), Part("like", 10.0, Resembles())])
    images = torch.tensor([0.1, 0.2, 0.4])[:, None, None, None].expand(3, 3, 4, 4)
    scores = reward(images, ["x", "y", "z"], [True, False, True])
    torch.testing.assert_close(scores[1], torch.tensor([0.1, torch.nan, 0.4]), equal_nan=True)
    torch.testing.assert_close(reward.total(scores), torch.tensor([2.0, 2.0, 7.0]))
    # (1, 2, 3) + 10 (0.1, 0.25, 0.4) = (2, 4.5, 7), where 0.25 is the mean of those that were looked at.
    expected = {"reward_mean": 4.5, "reward_std": 2.5 * (2 / 3) ** 0.5, "reward/a": 2.0, "reward/like": 0.25}
    assert reward.numbers(scores) == pytest.approx(expected)
    nobody = reward(images, ["x", "y", "z"], [False] * 3)
    assert reward.total(nobody).tolist() == [1.0, 2.0, 3.0]
    assert set(reward.numbers(nobody)) == {"reward_mean", "reward_std", "reward/a"}
