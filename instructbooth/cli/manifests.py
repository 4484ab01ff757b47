"""Manifest files: read as the API server would read them, checked with the same models."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from instructbooth.cli.output import CliError
from instructbooth.contract import API_VERSION, GROUP, KIND
from instructbooth.crd import MAX_NAME_LENGTH
from instructbooth.problems import Problem, find_problems
from instructbooth.spec.base import ObjectName
from instructbooth.spec.job import InstructBoothJobSpec

Manifest = dict[str, Any]

_TOP_LEVEL = {"apiVersion", "kind", "metadata", "spec", "status"}
_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: `1e-3` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class ManifestFile:
    """What a file holds.

    Attributes:
        jobs: the InstructBoothJobs, in order.
        others: `Kind/name` of the other documents, which the CLI passes over.
    """

    path: Path
    jobs: list[Manifest] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def one_job(self) -> Manifest:
        """The file's only InstructBoothJob. Raises CliError if it holds none or several."""
        if len(self.jobs) != 1:
            found = f"{len(self.jobs)} {KIND}s" if self.jobs else f"no {KIND}"
            raise CliError(f"{self.path} holds {found}; this command needs exactly one")
        return self.jobs[0]


def read_manifests(path: Path) -> ManifestFile:
    """Read a YAML or JSON file of one or more documents. Raises CliError for what is no manifest."""
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_Loader))
    except yaml.YAMLError as error:
        raise CliError(f"{path} is not YAML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read {path}: {error}") from error
    found = ManifestFile(path)
    for number, document in enumerate(documents, start=1):
        if document is None:
            continue
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise CliError(f"{path}, document {number}: not a Kubernetes object: it has no kind")
        kind = document["kind"]
        if kind == KIND and str(document.get("apiVersion", "")).partition("/")[0] == GROUP:
            found.jobs.append(document)
        else:
            found.others.append(f"{kind}/{job_name(document) or '(no name)'}")
    return found


def job_name(manifest: Manifest) -> str | None:
    """metadata.name, if there is one."""
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def find_manifest_problems(manifest: Manifest) -> list[Problem]:
    """Everything that is wrong with an InstructBoothJob and can be known without a cluster."""
    found = []
    if manifest.get("apiVersion") != API_VERSION:
        found.append(Problem("apiVersion", f"{manifest.get('apiVersion')!r} must be {API_VERSION}"))
    found += [Problem(key, "unknown field") for key in manifest if key not in _TOP_LEVEL]
    found += _name_problems(job_name(manifest))
    spec = manifest.get("spec")
    if not isinstance(spec, dict):
        return [*found, Problem("spec", "required but absent; examples/ has manifests to start from")]
    try:
        # Strict: the API server does not take "3" for 3 either.
        InstructBoothJobSpec.model_validate(spec, strict=True)
    except ValidationError as error:
        found += find_problems(error, spec)
    return found


def _name_problems(name: str | None) -> list[Problem]:
    if name is None:
        return [Problem("metadata.name", "required but absent")]
    if len(name) > MAX_NAME_LENGTH:
        bound = f"must have at most {MAX_NAME_LENGTH} characters: it becomes a label of the job's pods"
        return [Problem("metadata.name", f"{name!r} has {len(name)} characters; it {bound}")]
    try:
        _NAME.validate_python(name)
    except ValidationError:
        bound = "must be lower-case letters, digits, '-' and '.', and begin and end with a letter or digit"
        return [Problem("metadata.name", f"{name!r} {bound}")]
    return []


def require_valid(manifest: Manifest, path: Path) -> InstructBoothJobSpec:
    """The spec of a valid InstructBoothJob. Raises CliError that lists every problem."""
    found = find_manifest_problems(manifest)
    if found:
        lines = "\n".join(f"  {problem}" for problem in found)
        raise CliError(f"{path}: {KIND} {job_name(manifest) or ''} is not valid:\n{lines}")
    return InstructBoothJobSpec.model_validate(manifest["spec"], strict=True)
