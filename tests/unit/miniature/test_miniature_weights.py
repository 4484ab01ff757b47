"""The shipped weights load where users load them, and do what the card says of them, within reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPProcessor

from instructbooth_miniature.fidelity import separation
from instructbooth_miniature.oracle import Oracle
from instructbooth_miniature.oracle_check import round_trip_figures
from instructbooth_miniature.subjects import IDENTIFIERS

MINIATURE = Path(__file__).parents[3] / "miniature"
WEIGHTS = MINIATURE / "weights"
LARGEST_MEGABYTES = 30


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(
        str(WEIGHTS / "pipeline"), safety_checker=None, dtype=torch.float32
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_nothing_but_safetensors_and_json_within_the_size() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
    assert sum(path.stat().st_size for path in files) < LARGEST_MEGABYTES * 1e6


def test_the_stock_pipeline_draws_what_is_asked(pipeline: StableDiffusionPipeline) -> None:
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    prompts = [f"a mascot on a {colour} background" for colour in ("blue", "red", "green", "yellow")] * 2
    generator = torch.Generator().manual_seed(7)
    images = pipeline(prompts, num_inference_steps=10, guidance_scale=4.0, generator=generator, output_type="np").images
    scores = Oracle()(torch.from_numpy(images).permute(0, 3, 1, 2), prompts)
    assert scores.mean() >= 0.75


def test_identifiers_are_single_tokens_that_kept_their_first_embedding(pipeline: StableDiffusionPipeline) -> None:
    rows = pipeline.tokenizer(list(IDENTIFIERS))["input_ids"]
    assert {len(row) for row in rows} == {3}
    table = pipeline.text_encoder.get_input_embeddings().weight
    trained = table[pipeline.tokenizer("background")["input_ids"][1]].std()
    assert max(float(table[row[1]].std()) for row in rows) < float(trained)


def test_the_autoencoder_keeps_what_the_oracle_reads(pipeline: StableDiffusionPipeline) -> None:
    figures = round_trip_figures(pipeline.vae, seed=9, count=60)
    assert figures["oracle_on_renders"] >= 0.99
    assert figures["oracle_after_round_trip"] >= 0.9


def test_the_reward_model_prefers_the_true_caption() -> None:
    model = CLIPModel.from_pretrained(str(WEIGHTS / "clip"), dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(str(WEIGHTS / "clip"))
    picture = Image.open(MINIATURE.parent / "examples" / "demo" / "subject" / "1.png")
    captions = [f"a teal and pink mascot on a {colour} background" for colour in ("white", "red", "blue", "black")]
    inputs = processor(text=captions, images=picture, return_tensors="pt", padding="max_length", max_length=32)
    with torch.no_grad():
        scores = model(**inputs).logits_per_image[0]
    assert int(scores.argmax()) == 0


def test_the_fidelity_encoder_tells_mascots_apart() -> None:
    encoder = AutoModel.from_pretrained(str(WEIGHTS / "fidelity"), dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(str(WEIGHTS / "fidelity"))
    pixels = processor(np.zeros((64, 64, 3), dtype=np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    assert torch.allclose(pixels, torch.tensor(-1.0))
    figures = separation(encoder, seed=9, count=60)
    assert figures["same"] - figures["other"] > 0.4
    assert figures["top1"] >= 0.75


def test_the_card_has_its_figures_and_its_picture() -> None:
    figures = json.loads((MINIATURE / "figures.json").read_text())
    card = (MINIATURE / "README.md").read_text()
    assert f"{figures['fidelity']['top1']:.0%}" in card
    assert f"{figures['round trip']['psnr']:.1f} dB" in card
    assert (MINIATURE / "contact-sheet.png").exists()
