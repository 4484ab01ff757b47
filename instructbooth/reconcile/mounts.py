"""Volumes of a trainer pod: scratch, shared memory, and what the spec's sources ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from instructbooth.contract import Path, PromptRole, Stage
from instructbooth.reconcile.names import snapshot_name
from instructbooth.reconcile.quantity import parse_quantity
from instructbooth.spec.job import InstructBoothJobSpec, ResolvedJob
from instructbooth.spec.scores import ScoreSpec
from instructbooth.spec.sources import HubSource, ModelSource, PromptSource
from instructbooth.spec.stages import Resources

# Volume names of ours begin so; podTemplate.volumes may not.
PREFIX = "ib-"
_MIB = 2**20
_DEFAULT_SHM = 1024 * _MIB


@dataclass(frozen=True)
class Mount:
    """A volume and where it is mounted."""

    volume: dict[str, Any]
    path: str
    read_only: bool = True

    def to_volume_mount(self) -> dict[str, Any]:
        """core/v1 VolumeMount."""
        return {
            "name": self.volume["name"],
            "mountPath": self.path,
            **({"readOnly": True} if self.read_only else {}),
        }


def mounts(job: ResolvedJob, stage: Stage) -> list[Mount]:
    """Everything that the pods of a stage have mounted, in a fixed order."""
    spec = job.spec
    shm = str(shared_memory_bytes(spec.stage(stage).resources))
    found = [
        Mount(_config_map("config", snapshot_name(job.name)), Path.CONFIG_DIR),
        Mount({"name": f"{PREFIX}work", "emptyDir": {}}, Path.WORK, read_only=False),
        Mount({"name": f"{PREFIX}tmp", "emptyDir": {}}, "/tmp", read_only=False),
        Mount(
            {"name": f"{PREFIX}shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}}, "/dev/shm", read_only=False
        ),
    ]
    if bundle := spec.artifacts.ca_bundle:
        found.append(Mount(_config_map("ca", bundle.name, bundle.key), Path.CA_DIR))
    if images := spec.subject.images.config_map:
        found.append(Mount(_config_map("subject", images.name), Path.SUBJECT_IMAGES))
    for role, source in prompt_sources(spec, stage).items():
        if source.config_map:
            volume = _config_map(f"prompts-{role.value}", source.config_map.name, source.config_map.key)
            found.append(Mount(volume, f"{Path.PROMPTS}/{role.value}"))
    cache = spec.model.cache_claim_name
    for number, claim in enumerate(claims(spec, stage)):
        # A claim that is the cache as well is mounted once on the node, and must be writable there.
        found.append(Mount(_claim(f"claim-{number}", claim, read_only=claim != cache), f"{Path.VOLUMES}/{claim}"))
    if cache:
        found.append(Mount(_claim("cache", cache, read_only=False), Path.CACHE, read_only=False))
    return found


def prompt_sources(spec: InstructBoothJobSpec, stage: Stage) -> dict[PromptRole, PromptSource]:
    """The prompts that a stage reads."""
    if stage is Stage.EVALUATE:
        return {PromptRole.EVALUATION: spec.evaluation.prompts}
    if stage is Stage.REINFORCE:
        sources = {PromptRole.REINFORCEMENT: spec.reinforcement.prompts}
        if stopping := spec.reinforcement.early_stopping:
            sources[PromptRole.VALIDATION] = stopping.prompts
        return sources
    validation = spec.personalization.validation
    return {PromptRole.VALIDATION: validation.prompts} if validation else {}


def model_sources(spec: InstructBoothJobSpec, stage: Stage) -> dict[str, ModelSource]:
    """The models that a stage reads, by the path of their field in the spec."""
    sources = {"model.source": spec.model.source}
    scorers: dict[str, ScoreSpec]
    if stage is Stage.REINFORCE:
        scorers = {f"reinforcement.rewards[{n}]": reward for n, reward in enumerate(spec.reinforcement.rewards)}
        if identity := spec.reinforcement.guards.identity:
            scorers["reinforcement.guards.identity"] = identity
    elif stage is Stage.EVALUATE:
        scorers = {f"evaluation.metrics[{n}]": metric for n, metric in enumerate(spec.evaluation.metrics)}
    else:
        adapter = spec.personalization.adapter
        return sources | ({"personalization.adapter": adapter} if adapter else {})
    return sources | {f"{field}.model": scorer.model for field, scorer in scorers.items() if scorer.model}


def hub_sources(spec: InstructBoothJobSpec, stage: Stage) -> dict[str, HubSource]:
    """The hub repositories that a stage reads, by the path of their field."""
    return {f"{field}.hub": source.hub for field, source in model_sources(spec, stage).items() if source.hub}


def claims(spec: InstructBoothJobSpec, stage: Stage) -> list[str]:
    """Names of the claims that a stage reads from, each once."""
    locations = [spec.subject.images.pvc, *(source.pvc for source in model_sources(spec, stage).values())]
    return list(dict.fromkeys(location.claim_name for location in locations if location))


def shared_memory_bytes(resources: Resources) -> int:
    """Size of /dev/shm: a quarter of the memory the pod may use, 1 GiB where no bound is given.

    A memory-backed volume is charged to the container. Were it as large as the limit, a full /dev/shm would end in an
    out-of-memory kill; bounded, it ends in an error that says what is full.
    """
    memory = resources.limits.get("memory", resources.requests.get("memory"))
    if memory is None:
        return _DEFAULT_SHM
    return max(int(parse_quantity(memory) / 4) // _MIB, 1) * _MIB


def _config_map(name: str, config_map: str, key: str | None = None) -> dict[str, Any]:
    items = {} if key is None else {"items": [{"key": key, "path": key}]}
    return {"name": f"{PREFIX}{name}", "configMap": {"name": config_map, **items}}


def _claim(name: str, claim: str, read_only: bool = True) -> dict[str, Any]:
    """A claim. Read-only for the whole pod and not only where it is mounted, or the kubelet gives all its files to our
    group first.
    """
    source = {"claimName": claim, **({"readOnly": True} if read_only else {})}
    return {"name": f"{PREFIX}{name}", "persistentVolumeClaim": source}
