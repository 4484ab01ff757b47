"""Stage 1 and its hyper-parameters. Defaults suit Stable Diffusion 1.5 on one GPU a node."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from instructbooth.spec.base import ApiModel, Rule
from instructbooth.spec.sources import PLACEHOLDER, ModelSource, PromptSource
from instructbooth.spec.stages import PositiveFloat, Sampling, Seed, StageBase

ModuleName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")]


class Lora(ApiModel):
    """The low-rank adapter that is trained."""

    rank: Annotated[int, Field(ge=1, le=1024)] = Field(default=16, description="Rank of the update matrices.")
    alpha: Annotated[float, Field(gt=0, le=4096)] = Field(
        default=16, description="Scale: the update is alpha / rank times B A."
    )
    targets: Literal["attention", "all"] = Field(
        default="attention",
        description="`attention`: its projections. `all`: also feed-forward layers, and a U-Net's convolutions.",
    )
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | None = Field(
        default=None,
        description="Layers of the U-Net or transformer by the ends of their names, such as `to_q`; takes the place of "
        "`targets`.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of the adapter's inputs that is left out in each training step of stage 1."
    )
    use_dora: bool = Field(
        default=False,
        description="DoRA: also train the lengths of weights, apart from their direction. Slower, and without a file "
        "under Kohya's names.",
    )


class PriorPreservation(ApiModel):
    """DreamBooth's prior loss on class pictures that the base model draws itself."""

    weight: Annotated[float, Field(ge=0, le=100)] = Field(
        default=1.0, description="Weight of the prior loss; 0 is without."
    )
    num_images: Annotated[int, Field(ge=1, le=10000)] = Field(
        default=200, description="Class pictures drawn by the base model."
    )
    sampling: Sampling = Field(default=Sampling(), description="How the class pictures are drawn.")


Template = Annotated[str, Field(min_length=1, max_length=300)]


class Ema(ApiModel):
    """An exponential moving average of the adapter's weights; it is what the stage publishes."""

    decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.99, description="What of the average stays in each step; less in the first steps."
    )


class FlowMatching(ApiModel):
    """How timesteps are drawn and weighed, under the names of diffusers' scripts; see docs/personalization.md."""

    weighting_scheme: Literal["logit_normal", "mode", "cosmap", "sigma_sqrt", "none"] = Field(
        default="logit_normal",
        description="`logit_normal` and `mode` draw timesteps from the middle more often, `cosmap` and `sigma_sqrt` "
        "draw them uniformly and weigh them, `none` does neither.",
    )
    logit_mean: Annotated[float, Field(ge=-10, le=10)] = Field(
        default=0.0, description="Of `logit_normal`: above 0 there are more noisy timesteps."
    )
    logit_std: Annotated[float, Field(gt=0, le=10)] = Field(
        default=1.0, description="Of `logit_normal`: how far from the middle timesteps lie."
    )
    mode_scale: Annotated[float, Field(ge=-1, le=1.75)] = Field(
        default=1.29, description="Of `mode`: 0 is uniform, above it the middle is favoured, below it the ends."
    )


class Validation(ApiModel):
    """Pictures drawn on the way from the same noise each time, so that one sees the subject come."""

    prompts: PromptSource = Field(description="What is drawn, with the identifier where a prompt says `{subject}`.")
    interval_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=100, description="Steps between two validations; there is also one before the first step."
    )
    images_per_prompt: Annotated[int, Field(ge=1, le=16)] = Field(default=2, description="Pictures per prompt.")


class LossStopping(ApiModel):
    """Stop when the loss on the subject's pictures, at noises and timesteps that stay the same, no longer falls."""

    interval_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=50, description="Steps between two looks at that loss; there is also one after the last step."
    )
    patience: Annotated[int, Field(ge=1, le=10000)] = Field(
        default=4,
        description="Looks without a fall before the stage stops; the adapter of the lowest loss is published.",
    )
    min_delta: Annotated[float, Field(ge=0, le=1000)] = Field(default=0.0, description="The smallest fall that counts.")


class Personalization(StageBase):
    """Stage 1: DreamBooth-like personalization with identifier, class noun and detailed description."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=800, description="Optimizer steps.")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=2, description="Subject pictures per batch and process; as many class pictures come with them."
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Batches of each process that make one optimizer step: less memory than a larger batch."
    )
    learning_rate: PositiveFloat = Field(default=1e-4, description="AdamW's learning rate.")
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.01, description="AdamW's: a step shrinks the adapter's weights by learningRate times this share."
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default="constant", description="How the learning rate falls to 0 over the steps after warm-up, if it does."
    )
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0, description="First steps, over which the learning rate rises from 0."
    )
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw",
        description="`adamw8bit` keeps AdamW's statistics in 8 bits; needs an image with bitsandbytes.",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations again in the backward pass: less memory, more time."
    )
    ema: Ema | None = Field(
        default=None, description="Publish an average over the steps; the last step's weights when left out."
    )
    validation: Validation | None = Field(default=None, description="Draw pictures on the way; none when left out.")
    early_stopping: LossStopping | None = Field(
        default=None, description="Stop before `steps` once the loss no longer falls; all steps when left out."
    )
    adapter: ModelSource | None = Field(
        default=None,
        description="A folder with a LoRA, `pytorch_lora_weights.safetensors` or the only safetensors file at its "
        "root, that is published in place of training. It must fit `lora` and `trainTextEncoder`.",
    )
    lora: Lora = Field(
        default=Lora(), description="Adapter on the U-Net or transformer (and on text encoders, if trained)."
    )
    train_text_encoder: bool = Field(
        default=False, description="Also train an adapter on every CLIP text encoder of the model; T5 stays as it is."
    )
    prior_preservation: PriorPreservation = Field(
        default=PriorPreservation(), description="Keeps the class what it was."
    )
    caption_templates: Annotated[list[Template], Field(min_length=1, max_length=100)] = Field(
        default=["a photo of a {subject}"],
        description="Captions of the subject's pictures, drawn at random, and with the class noun alone of the class "
        "pictures.",
    )
    captions: Literal["templates", "files"] = Field(
        default="templates",
        description="`files`: each of the subject's pictures has a caption beside it, `1.txt` for `1.png` or a line of "
        "metadata.jsonl, which names the subject by `{subject}` or the identifier.",
    )
    aspect_buckets: bool = Field(
        default=False,
        description="Train on the pictures in their own aspect, in rectangles of the resolution's area, rather than on "
        "their centre squares. Class pictures stay square.",
    )
    flip: bool = Field(
        default=False,
        description="Also train on the pictures mirrored; not for a subject with writing or one that is not symmetric.",
    )
    min_snr_gamma: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None,
        description="Weigh timesteps by min-SNR with this gamma (usually 5); all weigh alike when left out. Refused "
        "for families of flow matching, which have `flowMatching`.",
    )
    flow_matching: FlowMatching | None = Field(
        default=None,
        description="How timesteps are drawn and weighed in families of flow matching; logit-normal when left out. "
        "Refused for the others, which have `minSnrGamma`.",
    )
    checkpoint_interval_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=200, description="Steps between two checkpoints."
    )
    seed: Seed = Field(default=0, description="Seed of everything random in the stage.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.captionTemplates.all(t, t.contains('{subject}'))",
            check=lambda self: all(PLACEHOLDER in t for t in self.caption_templates),
            message='every caption template must name the subject, for example "a photo of a {subject}"',
            field="captionTemplates",
        ),
        Rule(
            cel="self.warmupSteps <= self.steps",
            check=lambda self: self.warmup_steps <= self.steps,
            message="must be at most steps: the learning rate would never be reached",
            field="warmupSteps",
        ),
        Rule(
            cel="!has(self.adapter) || !(has(self.ema) || has(self.validation) || has(self.minSnrGamma) "
            "|| has(self.flowMatching) || has(self.earlyStopping))",
            check=lambda self: (
                self.adapter is None
                or not (self.ema or self.validation or self.min_snr_gamma or self.flow_matching or self.early_stopping)
            ),
            message="is published as it is, and nothing is trained; remove ema, validation, minSnrGamma, "
            "flowMatching and earlyStopping, or adapter",
            field="adapter",
        ),
    )
