"""A model as the recipes need it: load, encode, predict, step, decode, and where an adapter goes.

What the families have in common is here; each family is one file of instructbooth_trainer.families (docs/families.md).
Frozen weights are in the job's dtype, trained ones in float32, and everything that leaves a model is float32.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from instructbooth.spec.personalization import FlowMatching
from instructbooth.spec.stages import Dtype
from instructbooth_trainer.algorithms.buckets import Size
from instructbooth_trainer.diffusion import autoencoder
from instructbooth_trainer.diffusion.conditioning import Conditioning, Encoding
from instructbooth_trainer.diffusion.framing import pixels
from instructbooth_trainer.diffusion.graphs import Graphs
from instructbooth_trainer.diffusion.objective import Objective
from instructbooth_trainer.diffusion.schedule import Schedule
from instructbooth_trainer.runtime.errors import UserError

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILERS = ("g++", "clang++")
CLIP_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class DiffusionModel(ABC):
    """A loaded model of some family.

    Attributes:
        family: the family's name in spec.model.family.
        pipeline_name: diffusers' pipeline, as model_index.json names it.
        denoiser_name: the pipeline's component that is trained, `unet` or `transformer`.
        text_encoder_names: its text encoders that can be trained.
        targets: ends of the names of the denoiser's layers an adapter is put on, by spec.personalization.lora.targets.
        load_options: further arguments of the pipeline's from_pretrained.
        optional: components that a folder may lack.
        pipeline: the stock pipeline around the same modules.
        resolution: side of the square pictures, pixels.
        latent_shape: (channels, height, width) of one picture's latents.
        device: where it computes.
        graphs: replays of the denoiser's passes; None where each is launched kernel by kernel.
    """

    family: ClassVar[str]
    pipeline_name: ClassVar[str]
    denoiser_name: ClassVar[str]
    text_encoder_names: ClassVar[tuple[str, ...]]
    targets: ClassVar[Mapping[str, list[str]]]
    load_options: ClassVar[Mapping[str, Any]] = {}
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pipeline: Any, device: torch.device, resolution: int | None) -> None:
        self.pipeline = pipeline
        self.device = device
        self.denoiser, self.vae = getattr(pipeline, self.denoiser_name), pipeline.vae
        self.graphs: Graphs | None = None
        pixels = int(pipeline.vae_scale_factor)
        self.resolution = resolution or self.native_latent_side() * pixels
        factor = pixels * self.patch_side()
        if self.resolution % factor:
            raise UserError(
                "ResolutionInvalid",
                f"spec.model.resolution {self.resolution} is no multiple of {factor}, this model's pixels per "
                f"{'latent' if factor == pixels else 'patch of latents'}",
            )
        side = self.resolution // pixels
        self.latent_shape = (int(self.vae.config.latent_channels), side, side)

    @staticmethod
    def load(
        folder: Path,
        *,
        family: str = "auto",
        dtype: Dtype = "fp32",
        device: torch.device | str = "cpu",
        resolution: int | None = None,
    ) -> DiffusionModel:
        """Load a diffusers folder of any family: safetensors only, no safety checker, all weights frozen.

        Raises:
            UserError: `ModelInvalid` when the folder is no model of the family or cannot be read.
        """
        from instructbooth_trainer.families import find_family  # the families stand on this file

        return find_family(folder, family).open(folder, dtype, torch.device(device), resolution)

    @classmethod
    def open(cls, folder: Path, dtype: Dtype, device: torch.device, resolution: int | None) -> DiffusionModel:
        """Load a folder of this family. Raises UserError ModelInvalid."""
        absent = {name: None for name in cls.optional if not (folder / name).is_dir()}
        options = {"dtype": DTYPES[dtype], "use_safetensors": True, "local_files_only": True, **cls.load_options}
        try:
            pipeline: Any = getattr(diffusers, cls.pipeline_name).from_pretrained(str(folder), **options, **absent)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                "ModelInvalid",
                f"spec.model.source cannot be loaded as a diffusers folder with safetensors weights: {error}",
            ) from error
        for name in (*cls.text_encoder_names, "vae", cls.denoiser_name):
            if getattr(pipeline, name) is None:
                raise UserError("ModelInvalid", f"spec.model.source: the {cls.pipeline_name} has no {name}")
        cls.prepare(pipeline)
        pipeline.set_progress_bar_config(disable=True)
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                module.requires_grad_(False).eval().to(device)
        if dtype == "fp16" and pipeline.vae.config.force_upcast:
            pipeline.vae.to(dtype=torch.float32)  # it overflows fp16 on some pictures of some checkpoints
        return cls(pipeline, device, resolution)

    # What a family says of itself.

    @classmethod
    @abstractmethod
    def prepare(cls, pipeline: Any) -> None:
        """Check a pipeline that was loaded, and give it the scheduler of our sampler. Raises UserError ModelInvalid."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Encoding:
        """What the text encoders make of prompts; with gradient where one has a trained adapter.

        Raises:
            UserError: `PromptTooLong`.
        """

    @abstractmethod
    def forward(self, latents: Tensor, timesteps: Tensor, encoding: Encoding, guidance: float) -> Tensor:
        """The denoiser's output, [batch, *latent_shape], in any dtype and without classifier-free guidance.

        Args:
            latents: x_t, [batch, *latent_shape], float32.
            timesteps: as the schedule has them, [batch].
            encoding: a row per picture.
            guidance: for models that are told it, the others leave it alone.
        """

    @abstractmethod
    def schedule(self, num_steps: int, eta: float) -> Schedule:
        """The steps of a sampling run; eta 0 is deterministic, and then what the stock pipeline does."""

    @abstractmethod
    def objective(self, min_snr_gamma: float | None, flow_matching: FlowMatching | None = None) -> Objective:
        """What stage 1 trains. Raises UserError where a weighting has no meaning for the family."""

    def encode_empty(self) -> Encoding:
        """The encoding that guidance leads away from, one row, as the stock pipeline has it."""
        return self.encode_prompts([""])

    def token_limits(self) -> list[tuple[Any, int]]:
        """Tokenizers, and how many tokens are read of each."""
        return [(self.tokenizer, int(self.tokenizer.model_max_length))]

    def native_latent_side(self) -> int:
        """Side of the latents the model was made for."""
        return int(self.denoiser.config.sample_size)

    def patch_side(self) -> int:
        """Side of the patches that latents are cut into."""
        return 1

    def bucket_step(self) -> int:
        """What sides of aspect-ratio buckets are multiples of, pixels: all levels of a denoiser take it.

        A sixteenth of the resolution, 64 pixels at 1024, so that pictures of nearly one aspect share a bucket.
        """
        smallest = int(self.pipeline.vae_scale_factor) * self.patch_side()
        return smallest * -(-self.resolution // (16 * smallest))

    def longest_side(self) -> int:
        """The longest side of a bucket, pixels."""
        return 2 * self.resolution

    def told_sizes(self, conditioning: Conditioning, sizes: Tensor) -> Conditioning:
        """The conditioning of rows whose pictures were fitted so (`framing.conditioned_sizes`, [batch, 6])."""
        return conditioning

    def embeds_guidance(self) -> bool:
        """Whether the model is told the guidance (guidance distillation), so that one pass does."""
        return False

    def pipeline_options(self, guidance: float, count: int) -> dict[str, Any]:
        """Arguments that make the stock pipeline draw `count` pictures deterministically with this guidance."""
        return {"guidance_scale": guidance}

    def unpack(self, latents: Tensor) -> Tensor:
        """Latents as the stock pipeline gives them -> [batch, *latent_shape]."""
        return latents

    def kohya_layer(self) -> Callable[[str, str], str] | None:
        """(component, module) -> name of the layer in a Kohya file; None where that format has no such family."""
        return None

    # What they have in common.

    @property
    def tokenizer(self) -> Any:
        """The first tokenizer: a byte-pair one, of CLIP."""
        return self.pipeline.tokenizer

    def text_encoders(self) -> dict[str, Any]:
        """The text encoders that can be trained, by their component's name."""
        return {name: getattr(self.pipeline, name) for name in self.text_encoder_names}

    def checkpoint_gradients(self, *, text_encoder: bool) -> None:
        """Compute activations again in the backward pass rather than keep them; the gradients are the same.

        Call it once the adapter is added.
        """
        self.denoiser.enable_gradient_checkpointing()
        if not text_encoder:
            return
        for encoder in self.text_encoders().values():
            encoder.activation_checkpointing_enable({"use_reentrant": False})
            for layer in encoder.modules():
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = True  # else it keeps them after all; what is inside of it stays as it is evaluated

    def compile(self, backend: str = "inductor") -> None:
        """Let torch.compile make kernels of the denoiser for the shapes that it will meet; weights keep their names.

        Call it once the adapter is added. Predictions differ from those of eager layers by rounding.

        Raises:
            UserError: `CompilerMissing`, for inductor would only find out in the middle of the first step.
        """
        if backend == "inductor" and not any(map(shutil.which, COMPILERS)):
            raise UserError(
                "CompilerMissing",
                f"spec.model.compile: torch.compile needs a C++ compiler, and this image has none of "
                f"{', '.join(COMPILERS)}; name an image with one in spec.podTemplate.image, or leave compile out",
            )
        self.denoiser.compile(backend=backend)

    def record(self) -> None:
        """Record the denoiser's passes as CUDA graphs from now on.

        Call it once the adapter is added, on a GPU, in half precision. The spec refuses layers that draw random numbers
        within a pass, as dropout and gradient checkpointing do, and those whose frozen weights move, as DoRA's and
        float32 ones do (lora.merged).
        """
        self.graphs = Graphs(self.denoiser)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that no text encoder reads to their end.

        Raises:
            UserError: `PromptTooLong` rather than dropping words nobody would miss until the pictures are drawn.
        """
        limits = self.token_limits()
        for prompt in prompts:
            lengths = [len(tokenizer(prompt).input_ids) for tokenizer, _ in limits]
            if all(length > limit for length, (_, limit) in zip(lengths, limits, strict=True)):
                _, limit = limits[-1]
                raise UserError(
                    "PromptTooLong", f"{prompt!r} has {lengths[-1]} tokens, the model reads {limit}: shorten it"
                )

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids of the first tokenizer, [batch, tokens]. Raises UserError PromptTooLong."""
        self.check_prompts(prompts)
        ids: Tensor = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids.to(self.device)

    def condition(self, prompts: Sequence[str], guidance: float) -> Conditioning:
        """Encode prompts; the empty prompt too if guidance needs it."""
        needed = guidance != 1.0 and not self.embeds_guidance()
        return Conditioning(self.encode_prompts(prompts), self.encode_empty() if needed else None, guidance)

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output, float32, with classifier-free guidance folded into one batch.

        Args:
            latents: x_t, [batch, *latent_shape].
            timesteps: as the schedule has them, [batch].
            conditioning: a row per picture.
        """
        guidance = conditioning.guidance
        if guidance == 1.0 or self.embeds_guidance():
            return self._pass(latents, timesteps, conditioning.encoding, guidance).float()
        twice = torch.cat([latents] * 2), torch.cat([timesteps] * 2)
        without, conditioned = self._pass(*twice, conditioning.folded(), guidance).float().chunk(2)
        return without + guidance * (conditioned - without)

    def _pass(self, latents: Tensor, timesteps: Tensor, encoding: Encoding, guidance: float) -> Tensor:
        if self.graphs is None:
            return self.forward(latents, timesteps, encoding, guidance)
        names = tuple(encoding)

        def function(latents: Tensor, timesteps: Tensor, *rows: Tensor) -> Tensor:
            return self.forward(latents, timesteps, dict(zip(names, rows, strict=True)), guidance)

        return self.graphs(function, [latents, timesteps, *encoding.values()], guidance, names)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image], size: Size | None = None) -> Tensor:
        """Latents of pictures fitted into a rectangle, [batch, channels, height, width]; else into the square."""
        size = size or (self.resolution, self.resolution)
        return autoencoder.encode(self.vae, torch.stack([pixels(image, size) for image in images]), self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [batch, 3, resolution, resolution], float32 in [0, 1]."""
        return autoencoder.decode(self.vae, latents)

    @torch.no_grad()
    def draw_stock(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        """Latents [batch, *latent_shape], float32, by the stock pipeline, as users draw: a prompt and a seed each."""
        latents: Tensor = self.pipeline(
            prompt=list(prompts),
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=steps,
            height=self.resolution,
            width=self.resolution,
            output_type="latent",
            **self.pipeline_options(guidance, len(prompts)),
        ).images
        return self.unpack(latents).float()
