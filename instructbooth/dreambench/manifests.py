"""A job per subject from one base manifest: what differs is name, pictures, class noun, description and prompts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from instructbooth.dreambench.dataset import BenchSubject, DataSet, DataSetError

Manifest = dict[str, Any]
LABEL = "instructbooth.io/benchmark"


def subject_name(base_name: str, subject: BenchSubject) -> str:
    """Name of a subject's job: `<base>-<subject>`, underscores being no letters of Kubernetes' names."""
    return f"{base_name}-{subject.name.lower().replace('_', '-')}"


def subject_manifest(base: Manifest, data: DataSet, subject: BenchSubject, description: str | None) -> Manifest:
    """The base manifest made one of a subject.

    `subject.images` of the base names the folder above all subjects', in object storage or on a volume. Held-out
    prompts are the protocol's. Raises DataSetError where the base takes pictures from a ConfigMap.

    Args:
        base: an InstructBoothJob.
        data: the data set.
        subject: one of its subjects.
        description: the detailed description; the class noun alone for None.
    """
    out = copy.deepcopy(base)
    out["metadata"]["name"] = subject_name(base["metadata"]["name"], subject)
    out["metadata"]["labels"] = {**out["metadata"].get("labels", {}), LABEL: "dreambench"}
    spec = out["spec"]
    spec["subject"]["images"] = _images(spec["subject"]["images"], subject)
    spec["subject"]["className"] = subject.class_name
    spec["subject"].pop("description", None)
    if description is not None:
        spec["subject"]["description"] = description
    spec["evaluation"]["prompts"] = {"inline": list(data.prompts(subject))}
    return out


def trained_prompts(manifest: Manifest) -> list[str]:
    """Held-out prompts that the job is trained on, as far as both are in the manifest: they are not held out."""
    trained = manifest["spec"]["reinforcement"]["prompts"].get("inline") or []
    return [prompt for prompt in manifest["spec"]["evaluation"]["prompts"]["inline"] if prompt in trained]


def check_descriptions(descriptions: object, subjects: list[BenchSubject]) -> Mapping[str, str]:
    """Descriptions by subject, as read from YAML. Raises DataSetError naming the subjects that lack one."""
    if not isinstance(descriptions, dict) or not all(isinstance(v, str) and v for v in descriptions.values()):
        raise DataSetError("descriptions must be a mapping: a line `subject: noun phrase with the class noun` for each")
    lacking = [subject.name for subject in subjects if subject.name not in descriptions]
    if lacking:
        raise DataSetError(
            f"no description of {', '.join(lacking)}: add a line for each, such as `{lacking[0]}: small red "
            f"{next(s.class_name for s in subjects if s.name == lacking[0])} with white dots`"
        )
    return {str(name): text for name, text in descriptions.items()}


def _images(images: Manifest, subject: BenchSubject) -> Manifest:
    if images.get("s3"):
        return {"s3": {**images["s3"], "prefix": f"{images['s3']['prefix']}/{subject.name}"}}
    if images.get("pvc"):
        path = images["pvc"].get("path")
        return {"pvc": {**images["pvc"], "path": f"{path}/{subject.name}" if path else subject.name}}
    raise DataSetError(
        "the base takes spec.subject.images from a ConfigMap, and the photos are larger than one: set "
        "s3: {prefix: dreambench} after `instructbooth artifacts put DATASET dreambench -f BASE`, or a pvc"
    )
