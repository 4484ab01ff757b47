"""The InstructBoothJob itself: spec as users write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue

from instructbooth.contract import Stage
from instructbooth.spec.base import LET_IN, ApiModel, ObjectName, RelativePath, Rule
from instructbooth.spec.personalization import Personalization
from instructbooth.spec.sources import CaBundleRef, ModelSource
from instructbooth.spec.stages import Dtype, Evaluation, Reinforcement, StageBase
from instructbooth.spec.subject import Subject

FLOW_FAMILIES = ("stable-diffusion-3", "flux")


class Model(ApiModel):
    """The base text-to-image model."""

    source: ModelSource = Field(description="Where the model's diffusers folder comes from.")
    family: Literal["auto", "stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3", "flux"] = Field(
        default="auto", description="Model family; `auto` reads it from the folder's model_index.json."
    )
    dtype: Dtype = Field(default="fp32", description="Dtype of the frozen weights. What is trained stays in fp32.")
    resolution: Annotated[int, Field(ge=16, le=4096, multiple_of=8)] | None = Field(
        default=None, description="Side of the square pictures in pixels; the model's own when left out."
    )
    compile: bool = Field(
        default=False,
        description="Make kernels for the denoiser with torch.compile while training: minutes at each start of a "
        "stage, then faster passes. Needs a C++ compiler in the image.",
    )
    cuda_graphs: bool = Field(
        default=False,
        description="On a GPU, in bf16 or fp16: record the denoiser's passes while training and launch each as a "
        "whole. Helps where the GPU waits for its processor; takes seconds and the memory of two passes.",
    )
    cache_claim_name: ObjectName | None = Field(
        default=None, description="A ReadWriteMany claim that keeps downloaded models between jobs."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.cudaGraphs || (self.dtype != 'fp32' && !self.compile)",
            check=lambda self: not self.cuda_graphs or (self.dtype != "fp32" and not self.compile),
            message="needs dtype bf16 or fp16, and no compile; change them or leave it out",
            field="cudaGraphs",
        ),
    )


class CredentialsSecretRef(ApiModel):
    """The Secret that holds the object storage's credentials. Only the kubelet reads it."""

    name: ObjectName = Field(description="Name of the Secret, in the job's namespace.")
    access_key_field: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="accessKey", description="Key that holds the access key id."
    )
    secret_key_field: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="secretKey", description="Key that holds the secret access key."
    )


class Retention(ApiModel):
    """How much is kept."""

    checkpoints: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=2, description="Newest checkpoints kept per stage attempt."
    )


class Artifacts(ApiModel):
    """The S3 storage where everything the job makes is kept."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+$", max_length=512)] = Field(
        description="URL of the S3 endpoint without a path, such as `https://s3.eu-central-1.amazonaws.com`."
    )
    bucket: Annotated[str, Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$")] = Field(
        description="Bucket."
    )
    prefix: RelativePath | None = Field(
        default=None, description="Key prefix of all runs; the bucket's root when left out."
    )
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Region; asked from the endpoint when left out."
    )
    path_style: bool = Field(
        default=True, description="`endpoint/bucket/key` (MinIO) rather than `bucket.endpoint/key` (AWS)."
    )
    ca_bundle: CaBundleRef | None = Field(
        default=None, description="PEM certificates of a private authority that signed the endpoint's certificate."
    )
    credentials_secret_ref: CredentialsSecretRef = Field(description="Access key and secret key.")
    create_bucket: bool = Field(default=False, description="Create the bucket if it is absent.")
    retention: Retention = Field(default=Retention(), description="How much is kept.")


Seconds = Annotated[int, Field(ge=1, le=31_536_000)]


class RunPolicy(ApiModel):
    """How the job is run, restarted and cleaned up. The one part of the spec that may change after creation."""

    # The exception: a stage's Job is born into its queue, and who changed it would wait for a queue that knows it not.
    frozen: ClassVar[frozenset[str]] = frozenset({"queue_name"})

    suspend: bool = Field(default=False, description="Stop the pods at a checkpoint; go on from it when false again.")
    queue_name: ObjectName | None = Field(default=None, description="Kueue LocalQueue that admits the stages' Jobs.")
    workload_priority_class_name: ObjectName | None = Field(
        default=None,
        description="Kueue WorkloadPriorityClass of the stages' Jobs: their place in the queue, and who makes room for "
        "whom. Without it Kueue goes by priorityClassName.",
    )
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    active_deadline_seconds: Seconds | None = Field(
        default=None,
        description="Seconds the job may be active, counted from its start; time suspended or queued does not count.",
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        default=3, description="Gang restarts after failures of the application, per stage."
    )
    disruption_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=20, description="Gang restarts after evictions, preemptions and node losses, per stage."
    )
    shrink_after_seconds: Seconds = Field(
        default=300,
        description="Seconds that a gang waits for room before it is started with fewer nodes, where its stage has "
        "minNodes.",
    )
    placement_timeout_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = Field(
        default=600,
        description="Seconds for which a part of a gang keeps its nodes while there is none for the rest. Then it "
        "gives them back, so that two half gangs cannot hold each other up for ever, and tries again a minute later, "
        "charged to nobody; each gang at its own time, up to half as long again. A gang that may become smaller "
        "(minNodes) does so instead. At least 30; 0 keeps them for ever.",
    )
    stall_timeout_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = Field(
        default=1800,
        description="A gang that has not moved for so many seconds hangs: it leaves the stack of every rank in its log "
        "and starts again, charged to backoffLimit. At least 30; 0 waits for ever.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None, description="Delete the finished job after so many seconds. Artifacts stay."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.placementTimeoutSeconds == 0 || self.placementTimeoutSeconds >= 30",
            check=lambda self: self.placement_timeout_seconds == 0 or self.placement_timeout_seconds >= 30,
            message="must be 0 (never) or at least 30: a scheduler tries again only every few seconds",
            field="placementTimeoutSeconds",
        ),
        Rule(
            cel="self.stallTimeoutSeconds == 0 || self.stallTimeoutSeconds >= 30",
            check=lambda self: self.stall_timeout_seconds == 0 or self.stall_timeout_seconds >= 30,
            message="must be 0 (never) or at least 30: progress is pulled every few seconds and may fail now and then",
            field="stallTimeoutSeconds",
        ),
        Rule(
            cel="has(self.queueName) || !has(self.workloadPriorityClassName)",
            check=lambda self: self.queue_name is not None or self.workload_priority_class_name is None,
            message="is Kueue's and means nothing without queueName; pods have priorityClassName",
            field="workloadPriorityClassName",
        ),
    )


# Pieces of core/v1 that pass through to the pods as they are; the API server checks them when the child Job is made.
CoreObject = dict[str, JsonValue]
CoreObjects = Annotated[list[CoreObject], Field(max_length=64)]
StringMap = Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=64)]


class PodTemplate(ApiModel):
    """What people need to change in the pods of every stage."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None,
        description="Trainer image with reward plug-ins of your own; the operator's default when left out.",
    )
    labels: StringMap = Field(default={}, description="Further labels.")
    annotations: StringMap = Field(default={}, description="Further annotations.")
    node_selector: StringMap = Field(default={}, description="core/v1 nodeSelector.")
    tolerations: CoreObjects = Field(default=[], description="core/v1 tolerations.")
    affinity: CoreObject | None = Field(
        default=None, description="core/v1 affinity; by default the pods of a gang prefer different nodes."
    )
    topology_spread_constraints: CoreObjects = Field(default=[], description="core/v1 topologySpreadConstraints.")
    scheduler_name: ObjectName | None = Field(
        default=None,
        description="core/v1 schedulerName, for a scheduler that places gangs as a whole. Labels or annotations tell "
        "it of the group; one of fixed size needs equal nodes in all stages, and no minNodes.",
    )
    runtime_class_name: ObjectName | None = Field(default=None, description="core/v1 runtimeClassName.")
    image_pull_secrets: CoreObjects = Field(default=[], description="core/v1 imagePullSecrets.")
    env: CoreObjects = Field(default=[], description="Further environment variables (core/v1 EnvVar).")
    volumes: CoreObjects = Field(default=[], description="Further volumes (core/v1 Volume).")
    volume_mounts: CoreObjects = Field(default=[], description="Mounts of those volumes in the trainer container.")
    security_context: CoreObject | None = Field(
        default=None, description="core/v1 PodSecurityContext, merged over the restricted default."
    )
    service_account_name: ObjectName | None = Field(
        default=None, description="ServiceAccount of the pods; no token is mounted."
    )


class InstructBoothJobSpec(ApiModel):
    """A subject, a base model, three stages and where to keep the results."""

    subject: Subject = Field(description="Who is taught.")
    model: Model = Field(description="The base text-to-image model.")
    personalization: Personalization = Field(default=Personalization(), description="Stage 1: learn the subject.")
    reinforcement: Reinforcement = Field(description="Stage 2: learn to obey again.")
    evaluation: Evaluation = Field(description="Stage 3: prove it.")
    artifacts: Artifacts = Field(description="Where everything the job makes is kept.")
    run_policy: RunPolicy = Field(default=RunPolicy(), description="How the job is run, restarted and cleaned up.")
    pod_template: PodTemplate = Field(default=PodTemplate(), description="Changes to the pods of every stage.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(self.model.family in ['stable-diffusion-3', 'flux']) || !has(self.personalization.minSnrGamma)",
            check=lambda self: self.model.family not in FLOW_FAMILIES or self.personalization.min_snr_gamma is None,
            message="has no meaning for model.family stable-diffusion-3 and flux, which are trained by flow matching; "
            "remove it, or see flowMatching",
            field="personalization.minSnrGamma",
        ),
        Rule(
            cel="!(self.model.family in ['stable-diffusion', 'stable-diffusion-xl']) "
            "|| !has(self.personalization.flowMatching)",
            check=lambda self: (
                self.model.family in ("auto", *FLOW_FAMILIES) or self.personalization.flow_matching is None
            ),
            message="has no meaning for model.family stable-diffusion and stable-diffusion-xl, which are not trained "
            "by flow matching; remove it, or see minSnrGamma",
            field="personalization.flowMatching",
        ),
        Rule(
            cel="!self.model.cudaGraphs || (self.reinforcement.gpusPerNode > 0 "
            "&& (self.personalization.gpusPerNode > 0 || has(self.personalization.adapter)))",
            check=lambda self: (
                not self.model.cuda_graphs
                or (
                    self.reinforcement.gpus_per_node > 0
                    and (self.personalization.gpus_per_node > 0 or self.personalization.adapter is not None)
                )
            ),
            message="needs GPUs: set gpusPerNode of personalization and reinforcement, or leave it out",
            field="model.cudaGraphs",
        ),
        Rule(
            cel="!self.model.cudaGraphs || !(self.personalization.gradientCheckpointing "
            "|| self.reinforcement.gradientCheckpointing || self.personalization.lora.useDora "
            "|| self.personalization.lora.dropout > 0.0)",
            check=lambda self: (
                not self.model.cuda_graphs
                or not (
                    self.personalization.gradient_checkpointing
                    or self.reinforcement.gradient_checkpointing
                    or self.personalization.lora.use_dora
                    or self.personalization.lora.dropout > 0
                )
            ),
            message="cannot record gradientCheckpointing, lora.dropout or lora.useDora, which draw random numbers or "
            "move weights within a pass; remove them or leave it out",
            field="model.cudaGraphs",
        ),
    )

    def stage(self, stage: Stage) -> StageBase:
        """The part of the spec that belongs to a stage."""
        stages: dict[Stage, StageBase] = {
            Stage.PERSONALIZE: self.personalization,
            Stage.REINFORCE: self.reinforcement,
            Stage.EVALUATE: self.evaluation,
        }
        return stages[stage]

    # Mutable after creation; the CRD freezes every other field by a transition rule.
    mutable: ClassVar[frozenset[str]] = frozenset({"run_policy"})


class ResolvedJob(ApiModel):
    """What a run resolved to: written once to an owned ConfigMap, read by the trainer. An upgrade of the operator
    never changes a running job.
    """

    namespace: ObjectName
    name: ObjectName
    uid: Annotated[str, Field(min_length=1, max_length=64)]
    spec: InstructBoothJobSpec

    @classmethod
    def from_object(
        cls, obj: Mapping[str, Any], extra: Literal["forbid", "ignore"] = "forbid", let_in: bool = False
    ) -> ResolvedJob:
        """Build from an InstructBoothJob as the API server returns it. Raises pydantic.ValidationError.

        Args:
            obj: with metadata and spec.
            extra: what to do about fields of the spec that this version does not know.
            let_in: whether the rules of this version do not count, because the job began under another one.
        """
        context = LET_IN if let_in else None
        fields = {name: obj["metadata"][name] for name in ("namespace", "name", "uid")}
        spec = InstructBoothJobSpec.model_validate(obj["spec"], extra=extra, context=context)
        # With the context once more: pydantic checks an instance's own rules again where it is put into another model.
        return cls.model_validate({**fields, "spec": spec}, context=context)
