"""Likeness to the subject's pictures: DINO as DreamBooth measures it, CLIP-I, and checkpoints that are not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPModel, ViTConfig, ViTImageProcessorPil, ViTModel

from instructbooth.spec.scores import RewardSpec
from instructbooth_trainer.rewards import RewardContext, load_reward
from instructbooth_trainer.rewards.clip_i import create as create_clip_i
from instructbooth_trainer.rewards.clip_score import create as create_clip_score
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.rewards.subject_identity import create as create_identity
from instructbooth_trainer.runtime.errors import UserError
from tests.unit.trainer.tiny import TinyWorld

SIDE = 32


def pictures(count: int, width: int, height: int) -> tuple[list[Image.Image], Tensor]:
    """Smooth random pictures, as PIL images and as the same numbers in [0, 1]."""
    rng = np.random.default_rng(2)
    small = [Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)) for _ in range(count)]
    images = [image.resize((width, height), Image.Resampling.BICUBIC) for image in small]
    return images, torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1).float() / 255 for i in images])


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random ViT in the format of facebook/dino-vits16: no pooler, one number as the processor's size."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=8,
        initializer_range=0.2,  # so that pictures differ
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "do_normalize": True,
                "do_resize": True,
                "feature_extractor_type": "ViTFeatureExtractor",
                "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225],
                "resample": 2,
                "size": SIDE,
            }
        )
    )
    return folder


def test_dino_is_the_class_token_of_a_square_picture(dino: Path) -> None:
    references, _ = pictures(3, 48, 80)
    asked, tensors = pictures(4, 64, 40)
    ours = create_identity({"model_folder": str(dino), "reference_images": references})(tensors, [""] * 4)
    model, processor = ViTModel.from_pretrained(dino), ViTImageProcessorPil.from_pretrained(dino)
    with torch.no_grad():
        tokens = [
            model(**processor(images=batch, return_tensors="pt")).last_hidden_state[:, 0]
            for batch in (asked, references)
        ]
    generated, real = (functional.normalize(token, dim=-1) for token in tokens)
    torch.testing.assert_close(ours, (generated @ real.T).mean(1), rtol=2e-3, atol=2e-3)
    assert float(ours.max() - ours.min()) > 0.02  # the comparison can fail


def test_dino_has_no_random_part(dino: Path) -> None:
    references, tensors = pictures(2, SIDE, SIDE)
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        reward = create_identity({"model_folder": str(dino), "reference_images": references})
        scores.append(reward(tensors, ["", ""]))
    assert torch.equal(*scores)


@pytest.mark.parametrize(("width", "height"), [(SIDE, SIDE), (80, 48), (40, 64)])
def test_a_vits_size_of_one_number_is_both_sides(dino: Path, width: int, height: int) -> None:
    images, tensors = pictures(2, width, height)
    theirs = ViTImageProcessorPil.from_pretrained(dino)(images=images, return_tensors="pt").pixel_values
    ours = Preprocess.from_folder(dino)(tensors)
    assert ours.shape == theirs.shape == (2, 3, SIDE, SIDE)
    assert float((ours - theirs).abs().max()) <= 1.01 / 255 / 0.22


@pytest.mark.parametrize("kind", [None, "CLIPFeatureExtractor", "BitImageProcessor", "ConvNextFeatureExtractor"])
def test_a_clips_size_of_one_number_is_the_shortest_edge(tmp_path: Path, kind: str | None) -> None:
    config = {"size": 16, "crop_size": 16, "resample": 3} | ({"feature_extractor_type": kind} if kind else {})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    preprocess = Preprocess.from_folder(tmp_path)
    assert (preprocess.shortest_edge, preprocess.exact, preprocess.crop) == (16, None, (16, 16))


def test_clip_i_is_the_mean_cosine_of_projected_embeddings(tiny: TinyWorld) -> None:
    references, _ = pictures(3, SIDE, SIDE)
    asked, tensors = pictures(5, SIDE, SIDE)  # not resized, so that the two processors agree to the last bits
    ours = create_clip_i({"model_folder": str(tiny.clip), "reference_images": references})(tensors, [""] * 5)
    model, processor = CLIPModel.from_pretrained(tiny.clip), CLIPImageProcessorPil.from_pretrained(tiny.clip)
    rows = []
    with torch.no_grad():
        for batch in (asked, references):
            pooled = model.vision_model(**processor(images=batch, return_tensors="pt")).pooler_output
            rows.append(functional.normalize(pooled @ model.visual_projection.weight.T, dim=-1))
    torch.testing.assert_close(ours, (rows[0] @ rows[1].T).mean(1), rtol=1e-5, atol=1e-5)
    before = create_identity({"model_folder": str(tiny.clip), "reference_images": references})(tensors, [""] * 5)
    assert float((ours - before).abs().max()) > 1e-3  # the projection makes a difference


def test_clip_i_of_the_subjects_own_picture_is_one_and_keeps_below_its_ceiling(tiny: TinyWorld) -> None:
    references, tensors = pictures(1, SIDE, SIDE)
    given = {"model_folder": str(tiny.clip), "reference_images": references}
    assert float(create_clip_i(given)(tensors, [""])) == pytest.approx(1, abs=1e-5)
    assert float(create_clip_i({**given, "ceiling": 0.6})(tensors, [""])) == pytest.approx(0.6)
    tensors.requires_grad_(True)
    create_clip_i({**given, "reference_images": pictures(2, 40, 40)[0][1:]})(tensors, [""]).sum().backward()
    assert tensors.grad is not None
    assert float(tensors.grad.abs().max()) > 0


def test_clip_i_needs_pictures_a_model_and_no_other_parameters(tiny: TinyWorld) -> None:
    given = {"model_folder": str(tiny.clip), "reference_images": tiny.subject_images()}
    with pytest.raises(ValueError, match="pictures"):
        create_clip_i({**given, "reference_images": []})
    with pytest.raises(ValueError, match="needs a model"):
        create_clip_i({"reference_images": tiny.subject_images()})
    with pytest.raises(ValueError, match=r"longPrompts.*ceiling"):
        create_clip_i({**given, "longPrompts": "truncate"})


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("subject-identity", "layernorm.weight"),
        ("subject-identity", "embeddings.cls_token"),
        ("clip-i", "visual_projection.weight"),
        ("clip-score", "text_projection.weight"),
    ],
)
def test_a_checkpoint_without_a_weight_that_is_used_is_refused(
    tiny: TinyWorld, dino: Path, tmp_path: Path, name: str, lost: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(dino if name == "subject-identity" else tiny.clip, folder)
    tensors = load_file(folder / "model.safetensors")
    (key,) = (key for key in tensors if key.endswith(lost) and ".layers." not in key)
    del tensors[key]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    spec = RewardSpec.model_validate({"name": name, "model": {"s3": {"prefix": "model"}}})
    with pytest.raises(UserError, match=rf"RewardInvalid.*lacks weights.*{lost}"):
        load_reward(spec, RewardContext(lambda _: folder, tiny.subject_images()))


def test_a_reward_says_what_it_measures_with(tiny: TinyWorld, dino: Path) -> None:
    given = {"reference_images": tiny.subject_images()}
    shape = "2 layers of width 32, patch 8"
    assert create_identity({**given, "model_folder": str(dino)}).backbone == f"ViTModel, {shape}"
    assert create_identity({**given, "model_folder": str(tiny.clip)}).backbone == f"CLIPModel, {shape}"
    assert create_clip_i({**given, "model_folder": str(tiny.clip)}).backbone == f"CLIP, {shape}"
    assert create_clip_score({"model_folder": str(tiny.clip)}).backbone == f"CLIP, {shape}"
