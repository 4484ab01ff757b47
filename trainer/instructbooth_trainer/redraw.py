"""Draw a picture of an evaluation again, in a fresh process, and compare it pixel by pixel.

    python -m instructbooth_trainer.redraw --model MODEL_FOLDER --lora LORA_FOLDER_OR_FILE \\
        --evaluation evaluation.json --picture 0

What it uses of this project is the format of evaluation.json alone: the pipeline is diffusers' own, and so is the
loading of the LoRA, as in a user's script. Exit code 0: exactly equal; 1: different; 2: bad arguments.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image

from instructbooth_trainer.report.evaluation import Evaluation, Picture

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOADING: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
}
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ANY_PATH = click.Path(exists=True, path_type=Path)


def redraw(model: Path, lora: Path | None, evaluation: Evaluation, picture: Picture) -> np.ndarray[Any, Any]:
    """The picture's pixels, uint8 [height, width, 3].

    Args:
        model: diffusers folder of the base model.
        lora: folder or file of the adapter; None for a picture of the base model.
        evaluation: says how pictures were drawn.
        picture: the one to draw; its whole batch is drawn, because batches of another size round differently.
    """
    drawing = evaluation.drawing
    torch.set_num_threads(drawing.threads)
    name = kind(model)
    options = dict(LOADING.get(name, {}))
    if name == "StableDiffusion3Pipeline":
        options |= {part: None for part in ("text_encoder_3", "tokenizer_3") if not (model / part).is_dir()}
    pipeline: Any = DiffusionPipeline.from_pretrained(
        str(model), dtype=DTYPES[drawing.dtype], use_safetensors=True, local_files_only=True, **options
    ).to(drawing.device)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "unet"):
        scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
        pipeline.scheduler = scheduler
    # As the trainer has them. Weights that ask for gradients take other kernels, even where none are computed: the
    # decoder's pixels then differ by 1e-6, and now and then one is rounded to its neighbour.
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False)
    if lora is not None:
        folder, file = (lora, "pytorch_lora_weights.safetensors") if lora.is_dir() else (lora.parent, lora.name)
        pipeline.load_lora_weights(str(folder), weight_name=file)
    latents = pipeline(
        prompt=[picture.prompt] * len(picture.batch_seeds),
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in picture.batch_seeds],
        num_inference_steps=drawing.steps,
        height=drawing.resolution,
        width=drawing.resolution,
        output_type="latent",
        **guidance(pipeline, drawing.guidance_scale, len(picture.batch_seeds)),
    ).images
    if latents.dim() == 3:  # FLUX gives patches of two by two
        latents = pipeline._unpack_latents(latents, drawing.resolution, drawing.resolution, pipeline.vae_scale_factor)
    config = pipeline.vae.config
    if drawing.dtype == "fp16" and config.force_upcast:  # its decoder overflows; the trainer decodes in fp32
        pipeline.vae.to(dtype=torch.float32)
    with torch.no_grad():
        scaled = (latents.float() / config.scaling_factor + (config.get("shift_factor") or 0.0)).to(pipeline.vae.dtype)
        pixels = (pipeline.vae.decode(scaled).sample.float() / 2 + 0.5).clamp(0, 1)[picture.batch_index]
    out: np.ndarray[Any, Any] = (pixels.cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return out


def kind(model: Path) -> str:
    """The pipeline a diffusers folder is of."""
    return str(json.loads((model / "model_index.json").read_text())["_class_name"])


def guidance(pipeline: Any, scale: float, count: int) -> dict[str, Any]:
    """The arguments by which a pipeline is guided, and draws without noise in the steps."""
    if hasattr(pipeline, "unet"):
        return {"guidance_scale": scale, "eta": 0.0}
    if pipeline.transformer.config.get("guidance_embeds") is False:  # FLUX without guidance distillation
        return {"true_cfg_scale": scale, "negative_prompt": [""] * count}
    return {"guidance_scale": scale}


@click.command()
@click.option("--model", required=True, type=FOLDER, help="Diffusers folder of the base model.")
@click.option("--lora", type=ANY_PATH, help="Adapter: the file or its folder. Leave out for the base model.")
@click.option("--evaluation", "file", required=True, type=ANY_PATH, help="evaluation.json, beside pictures/.")
@click.option("--picture", "number", default=0, show_default=True, help="Index into its list of pictures.")
@click.option("--save", type=click.Path(path_type=Path), help="Write what was drawn as a PNG.")
def main(model: Path, lora: Path | None, file: Path, number: int, save: Path | None) -> None:
    """Draw a picture of an evaluation again and compare."""
    evaluation = Evaluation.model_validate_json(file.read_text())
    if not 0 <= number < len(evaluation.pictures):
        raise click.BadParameter(f"{number} is not one of the {len(evaluation.pictures)} pictures")
    picture = evaluation.pictures[number]
    if (picture.model == "base") != (lora is None):
        raise click.UsageError(f"picture {number} is of the {picture.model} model: --lora does not fit")
    drawn = redraw(model, lora, evaluation, picture)
    if save is not None:
        Image.fromarray(drawn).save(save)
    kept = np.asarray(Image.open(file.parent / picture.file).convert("RGB"))
    if drawn.shape != kept.shape:
        raise click.ClickException(f"{picture.file} has shape {kept.shape}, drawn was {drawn.shape}")
    different = int((drawn != kept).any(axis=-1).sum())
    click.echo(f"{picture.file}: {different} of {kept.shape[0] * kept.shape[1]} pixels differ")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
