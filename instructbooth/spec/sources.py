"""Where bytes come from: ConfigMaps, volumes, S3, the model hub. Exactly one source at a time."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from instructbooth.spec.base import ApiModel, ObjectName, RelativePath, Rule, exactly_one


class ConfigMapRef(ApiModel):
    """A ConfigMap in the job's namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap, in the job's own namespace.")


ConfigMapKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class PromptsRef(ConfigMapRef):
    """Prompts in a ConfigMap of the job's namespace."""

    key: ConfigMapKey = Field(default="prompts.txt", description="Key of the ConfigMap that holds the text.")


class CaBundleRef(ConfigMapRef):
    """Certificates in a ConfigMap of the job's namespace."""

    key: ConfigMapKey = Field(default="ca.crt", description="Key of the ConfigMap that holds the certificates.")


class S3Location(ApiModel):
    """A place in the object storage that `spec.artifacts` names, reached with the same credentials."""

    bucket: Annotated[str, Field(min_length=3, max_length=63)] | None = Field(
        default=None, description="Bucket; `spec.artifacts.bucket` when left out."
    )
    prefix: RelativePath = Field(description="Key prefix (a folder) or the key of a single object.")


class PvcLocation(ApiModel):
    """A folder or file on a PersistentVolumeClaim, mounted read-only."""

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim.")
    path: RelativePath | None = Field(default=None, description="Path inside the volume; its root when left out.")


class SecretKeyRef(ApiModel):
    """One key of a Secret in the job's namespace. Only the kubelet reads it; the operator never does."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(description="Key inside the Secret.")


class HubSource(ApiModel):
    """A model repository on the Hugging Face hub, pinned to one commit."""

    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$", max_length=200)] = Field(
        description="Repository id, `owner/name`."
    )
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] = Field(
        description="The commit (40 hex digits). A branch name would let a run change under you."
    )
    token_secret_ref: SecretKeyRef | None = Field(default=None, description="Access token for a gated repository.")


class ModelSource(ApiModel):
    """Where a model's folder (the Hugging Face layout, safetensors only) comes from."""

    hub: HubSource | None = Field(default=None, description="A pinned repository on the Hugging Face hub.")
    pvc: PvcLocation | None = Field(default=None, description="A folder on a volume.")
    s3: S3Location | None = Field(default=None, description="A folder in object storage.")
    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("hub", "pvc", "s3", example="s3: {prefix: models/base}"),)

    def label(self) -> str:
        """Where it comes from, for people."""
        if self.hub:
            return f"{self.hub.repo} at {self.hub.revision}"
        if self.pvc:
            return f"volume {self.pvc.claim_name}, {self.pvc.path or '/'}"
        assert self.s3 is not None  # the rule: exactly one source
        return f"object storage, {self.s3.prefix}"


class ImageSource(ApiModel):
    """The subject's pictures: PNG, JPEG or WebP files."""

    config_map: ConfigMapRef | None = Field(
        default=None, description="Every key is a picture. For small pictures: a ConfigMap holds 1 MiB."
    )
    pvc: PvcLocation | None = Field(default=None, description="A folder on a volume.")
    s3: S3Location | None = Field(default=None, description="A folder in object storage.")
    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("configMap", "pvc", "s3", example="configMap: {name: my-pictures}"),
    )


PLACEHOLDER = "{subject}"
CONTEXT = "{context}"

Prompt = Annotated[str, Field(min_length=1, max_length=300)]


class PromptSource(ApiModel):
    """Prompts, one per line in a file. `{subject}` marks where the subject is named: see docs/prompts.md."""

    inline: Annotated[list[Prompt], Field(min_length=1, max_length=500)] | None = Field(
        default=None, description="The prompts themselves."
    )
    config_map: PromptsRef | None = Field(default=None, description="A key of a ConfigMap, one prompt a line.")
    s3: S3Location | None = Field(default=None, description="One text object in object storage, one prompt a line.")
    contexts: Annotated[list[Prompt], Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="A prompt with `{context}` stands for one prompt with each of these in its place."
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("inline", "configMap", "s3", example='inline: ["a {subject} on a beach"]'),
        Rule(
            cel="!has(self.inline) || self.inline.exists(p, p.contains('{subject}'))",
            check=lambda self: self.inline is None or any(PLACEHOLDER in p for p in self.inline),
            message='no prompt names the subject; write {subject} where it belongs, as in "a {subject} on a beach"',
            field="inline",
        ),
        Rule(
            cel="!has(self.inline) || has(self.contexts) == self.inline.exists(p, p.contains('{context}'))",
            check=lambda self: (
                self.inline is None or (self.contexts is not None) == any(CONTEXT in p for p in self.inline)
            ),
            message="contexts and {context} go together: name contexts where a prompt has {context}, and only there",
            field="contexts",
        ),
    )
