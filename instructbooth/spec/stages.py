"""The stages and their hyper-parameters; those of stage 1 are in personalization.py.

Defaults suit Stable Diffusion 1.5 on one GPU a node.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from instructbooth.spec.base import ApiModel, Quantity, Rule
from instructbooth.spec.scores import Guards, RewardSpec, ScoreSpec
from instructbooth.spec.sources import PromptSource

PositiveFloat = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Quantities = Annotated[dict[str, Quantity], Field(max_length=16)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Resources(ApiModel):
    """Requests and limits of a stage's pods. `nvidia.com/gpu` comes from `gpusPerNode` and is refused here."""

    requests: Quantities = Field(
        default={}, description="What the scheduler sets aside, such as `{cpu: 4, memory: 16Gi}`."
    )
    limits: Quantities = Field(default={}, description="What the pod may use at most.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!('nvidia.com/gpu' in self.limits) && !('nvidia.com/gpu' in self.requests)",
            check=lambda self: "nvidia.com/gpu" not in {*self.limits, *self.requests},
            message="GPUs are asked for by gpusPerNode, which also sets the number of processes; remove nvidia.com/gpu",
        ),
    )


class StageBase(ApiModel):
    """The shape of a stage's gang of pods."""

    nodes: Annotated[int, Field(ge=1, le=256)] = Field(default=1, description="Pods of the gang.")
    min_nodes: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None,
        description="Where there is no room for all nodes, an attempt may have fewer, down to this number. A step then "
        "learns the same and takes longer. All nodes or none when left out.",
    )
    gpus_per_node: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0, description="GPUs, and so processes, in each pod. 0 trains on the CPU, one process a pod, over gloo."
    )
    resources: Resources = Field(default=Resources(), description="Requests and limits of each pod.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minNodes) || self.minNodes <= self.nodes",
            check=lambda self: self.min_nodes is None or self.min_nodes <= self.nodes,
            message="must be at most nodes",
            field="minNodes",
        ),
    )

    @property
    def world_size(self) -> int:
        """Processes of a whole gang: one per GPU, or one per pod on CPU. An attempt may have fewer (minNodes)."""
        return self.nodes * max(1, self.gpus_per_node)


class Sampling(ApiModel):
    """How pictures are drawn."""

    steps: Annotated[int, Field(ge=2, le=1000)] = Field(default=30, description="Denoising steps.")
    guidance_scale: Annotated[float, Field(ge=1, le=50)] = Field(
        default=5.0,
        description="Classifier-free guidance; 1 is without and costs half. FLUX.1-dev is told it, in one pass.",
    )


class EarlyStopping(ApiModel):
    """Stop when prompts that are not trained on no longer gain."""

    interval_epochs: Annotated[int, Field(ge=1, le=10000)] = Field(
        default=5, description="Epochs between two validations."
    )
    patience: Annotated[int, Field(ge=1, le=10000)] = Field(
        default=4, description="Validations without a gain before the stage stops and keeps the best adapter."
    )
    min_delta: Annotated[float, Field(ge=0, le=1000)] = Field(default=0.0, description="The smallest gain that counts.")
    prompts: PromptSource = Field(description="Validation prompts, apart from those of training and evaluation.")
    images_per_prompt: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Pictures per validation prompt."
    )


class TimestepWindow(ApiModel):
    """The steps of a trajectory that are stochastic and trained; the others are deterministic."""

    start: Annotated[int, Field(ge=0, le=998)] = Field(
        default=0, description="First step of the window; step 0 is the noisiest."
    )
    end: Annotated[int, Field(ge=1, le=999)] = Field(description="The step after the window's last one.")
    interval_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None,
        description="Move the window on by one step after so many epochs, and from the last steps back to `start`; it "
        "stays when left out.",
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.start < self.end",
            check=lambda self: self.start < self.end,
            message="must be above start: the window holds the steps from start to end - 1",
            field="end",
        ),
    )


class Reinforcement(StageBase):
    """Stage 2: policy-gradient fine-tuning on an image-text-alignment reward, with and without identifier.

    The policy goes on from stage 1's adapter: one adapter is the result, and a frozen copy of it is the reference.
    """

    prompts: PromptSource = Field(description="Prompts the policy is trained on.")
    prompt_weights: Annotated[dict[str, Annotated[float, Field(gt=0, le=1000)]], Field(max_length=64)] = Field(
        default={},
        description="How often prompts are drawn, by the prompt as its source has it; 1 for those not named here.",
    )
    identifier_free_share: Share = Field(
        default=0.5,
        description="Share of the prompts without identifier (the paper's second technique).",
    )
    identifier_free_phrase: Literal["className", "description"] = Field(
        default="className",
        description="What those prompts call the subject. The class noun keeps obeying where the description has "
        "learned the photos' background with the identifier.",
    )
    rewards: Annotated[list[RewardSpec], Field(min_length=1, max_length=16)] = Field(
        description="Weighted sum of rewards."
    )
    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(default=100, description="Rounds of sampling and training.")
    prompts_per_epoch: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=8, description="Prompts drawn per epoch, over all processes."
    )
    images_per_prompt: Annotated[int, Field(ge=2, le=1024)] = Field(
        default=8,
        description="Group size: pictures per prompt and epoch over all processes. Advantages compare within it.",
    )
    sampling: Sampling = Field(default=Sampling(), description="How rollouts are drawn.")
    guidance_in_training: bool = Field(
        default=True,
        description="Train the guided prediction that pictures are drawn with; `false` trains the conditional one "
        "alone, at half the cost.",
    )
    eta: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Noise of the stochastic step of DDIM or of the flow (0.7 is usual there); the policy is "
        "deterministic at 0 and cannot be trained.",
    )
    timesteps_per_trajectory: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Train on so many random steps of each trajectory; all when left out."
    )
    timestep_window: TimestepWindow | None = Field(
        default=None, description="Draw noise in, and train, some steps of each trajectory alone; all when left out."
    )
    inner_epochs: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Passes over each epoch's rollouts."
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=8, description="(latent, timestep) pairs per forward pass and process."
    )
    updates_per_epoch: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=4, description="Optimizer steps per inner epoch."
    )
    learning_rate: PositiveFloat = Field(default=3e-4, description="AdamW's learning rate.")
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.01, description="AdamW's: a step shrinks the adapter's weights by learningRate times this share."
    )
    clip_range: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=1e-4, description="Clip of the importance ratio; log-probabilities are means over latent dimensions."
    )
    advantage_clip: PositiveFloat = Field(
        default=5.0, description="Advantages are cut at +- this many standard deviations."
    )
    advantage_std: Literal["prompt", "epoch"] = Field(
        default="prompt",
        description="What advantages are divided by: the spread of the prompt's own rewards, so that every prompt "
        "pushes alike, or that of the whole epoch, so that prompts whose pictures differ little push little.",
    )
    kl_weight: Annotated[float, Field(ge=0, le=1e6)] = Field(
        default=0.01, description="Weight of the KL to the personalized policy."
    )
    max_grad_norm: PositiveFloat = Field(default=1.0, description="Gradients are scaled down to this norm.")
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations again in the backward pass: less memory, more time."
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="Stop on validation prompts; runs all epochs when left out."
    )
    guards: Guards = Field(default=Guards(), description="Bounds that stop a policy that drifts away.")
    checkpoint_interval_epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10, description="Epochs between two checkpoints."
    )
    seed: Seed = Field(default=0, description="Seed of everything random in the stage.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.promptsPerEpoch * self.imagesPerPrompt >= "
            "self.nodes * (self.gpusPerNode > 0 ? self.gpusPerNode : 1)",
            check=lambda self: self.prompts_per_epoch * self.images_per_prompt >= self.world_size,
            message="times imagesPerPrompt must be at least one picture for each process (nodes times gpusPerNode)",
            field="promptsPerEpoch",
        ),
        Rule(
            cel="!has(self.timestepsPerTrajectory) || self.timestepsPerTrajectory <= self.sampling.steps - 1",
            check=lambda self: (
                self.timesteps_per_trajectory is None or self.timesteps_per_trajectory < self.sampling.steps
            ),
            message="must be at most sampling.steps - 1: the last step has no noise and so no log-probability",
            field="timestepsPerTrajectory",
        ),
        Rule(
            cel="!has(self.timestepWindow) || self.timestepWindow.end <= self.sampling.steps - 1",
            check=lambda self: self.timestep_window is None or self.timestep_window.end < self.sampling.steps,
            message="end must be at most sampling.steps - 1: the last step has no noise and so no log-probability",
            field="timestepWindow",
        ),
        Rule(
            cel="!has(self.timestepWindow) || !has(self.timestepsPerTrajectory) || "
            "self.timestepsPerTrajectory <= self.timestepWindow.end - self.timestepWindow.start",
            check=lambda self: (
                self.timestep_window is None
                or self.timesteps_per_trajectory is None
                or self.timesteps_per_trajectory <= self.timestep_window.end - self.timestep_window.start
            ),
            message="must be at most timestepWindow.end - timestepWindow.start, the steps in the window",
            field="timestepsPerTrajectory",
        ),
        Rule(
            cel="!has(self.prompts.inline) || self.promptWeights.all(p, p in self.prompts.inline)",
            check=lambda self: (
                self.prompts.inline is None or all(p in self.prompts.inline for p in self.prompt_weights)
            ),
            message="names a prompt that is not in prompts.inline; write it as it stands there, placeholders and all",
            field="promptWeights",
        ),
        Rule(
            cel="!has(self.guards.identity) || has(self.earlyStopping) || "
            "self.identifierFreeShare * double(self.promptsPerEpoch) + 0.5 < double(self.promptsPerEpoch)",
            check=lambda self: (
                self.guards.identity is None
                or self.early_stopping is not None
                or self.identifier_free_share * self.prompts_per_epoch + 0.5 < self.prompts_per_epoch
            ),
            message="identity is measured on pictures with identifier, and the first epoch has none: lower "
            "identifierFreeShare, raise promptsPerEpoch, or set earlyStopping, whose pictures all have it",
            field="guards",
        ),
        Rule(
            cel="!has(self.guards.diversityFloor) || !has(self.earlyStopping) || "
            "self.earlyStopping.imagesPerPrompt > 1",
            check=lambda self: (
                self.guards.diversity_floor is None
                or self.early_stopping is None
                or self.early_stopping.images_per_prompt > 1
            ),
            message="diversityFloor compares pictures of a prompt: earlyStopping.imagesPerPrompt must be at least 2",
            field="guards",
        ),
    )


class Evaluation(StageBase):
    """Stage 3: base, personalized and reinforced model side by side on held-out prompts with fixed seeds."""

    prompts: PromptSource = Field(description="Held-out prompts.")
    images_per_prompt: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=4, description="Pictures per prompt and model."
    )
    sampling: Sampling = Field(default=Sampling(), description="How pictures are drawn (without noise in the steps).")
    metrics: Annotated[list[ScoreSpec], Field(min_length=1, max_length=16)] = Field(
        description="Scores, by the same plug-ins as rewards. Judge by another one than was trained on."
    )
    headline: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        default=None, description="The metric shown as REWARD by `kubectl get`; the first one when left out."
    )
    seed: Seed = Field(default=0, description="Seed of the initial noise: equal for all models.")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.headline) || self.metrics.exists(m, m.name == self.headline)",
            check=lambda self: self.headline is None or any(m.name == self.headline for m in self.metrics),
            message="must be the name of one of the metrics",
            field="headline",
        ),
        Rule(
            cel="self.metrics.all(m, self.metrics.exists_one(n, n.name == m.name))",
            check=lambda self: len({m.name for m in self.metrics}) == len(self.metrics),
            message="names a metric twice, and results are told apart by name; leave one",
            field="metrics",
        ),
    )


Dtype = Literal["fp32", "bf16", "fp16"]
