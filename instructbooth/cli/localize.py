"""A job's sources on this machine: ConfigMaps, volumes and S3 prefixes become folders of a local store. Pure.

The trainer is left as it is: it reads every source from object storage, which here is a folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructbooth.cli.output import CliError
from instructbooth.spec.job import InstructBoothJobSpec

Wire = dict[str, Any]
_INPUTS = "local-inputs"  # key prefix of what comes from the command line


@dataclass(frozen=True)
class LocalInputs:
    """What the command line says about sources.

    Attributes:
        images: folder of the subject's pictures.
        prompts: folder of prompt files, looked up by ConfigMap key or by the last part of the S3 key.
        base_model: folder of the base model, wherever the manifest takes it from.
        models: S3 prefix -> folder.
        volumes: name of a PersistentVolumeClaim -> folder.
    """

    images: Path | None = None
    prompts: Path | None = None
    base_model: Path | None = None
    models: Mapping[str, Path] = field(default_factory=dict)
    volumes: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine that is to be found at a key of the local store."""

    bucket: str
    key: str
    path: Path


@dataclass(frozen=True)
class Localized:
    """A spec whose sources all lie in the local store (or on the hub), and what has to be there."""

    spec: InstructBoothJobSpec
    mounts: tuple[Mount, ...]

    @property
    def uid(self) -> str:
        """Names this very run: another spec, picture, prompt or model is another run, the same one goes on."""
        digest = hashlib.sha256(json.dumps(self.spec.to_wire(), sort_keys=True).encode())
        for mount in self.mounts:
            digest.update(f"{mount.bucket}/{mount.key}:{_fingerprint(mount.path)}".encode())
        return digest.hexdigest()[:32]


def localize(
    spec: InstructBoothJobSpec, inputs: LocalInputs, store: Path, *, cpu: bool = False, max_nodes: int | None = None
) -> Localized:
    """Turn every source into one of the local store.

    Args:
        spec: as written for a cluster.
        inputs: where things are on this machine.
        store: root of the local store; what is there already needs no input.
        cpu: train without GPUs, whatever gpusPerNode says.
        max_nodes: at most so many pods per gang.

    Raises:
        CliError: a source has no counterpart on this machine; names the field and the option.
    """
    wire = spec.to_wire()
    wire["model"].pop("cacheClaimName", None)
    if cpu:
        wire["model"].pop("cudaGraphs", None)
    for stage in ("personalization", "reinforcement", "evaluation"):
        if cpu:
            wire[stage]["gpusPerNode"] = 0
        wire[stage]["nodes"] = min(wire[stage]["nodes"], max_nodes or wire[stage]["nodes"])
        wire[stage].pop("minNodes", None)  # no gang becomes smaller here
    finder = _Finder(inputs, store, spec.artifacts.bucket)
    for where, kind, parent, key in _sources(wire):
        parent[key] = finder.find(where, kind, parent[key])
    return Localized(InstructBoothJobSpec.model_validate(wire), tuple(finder.mounts))


def _sources(wire: Wire) -> Iterator[tuple[str, str, Wire, str]]:
    """(field, kind, object that holds it, key) of every source of a spec."""
    yield "spec.subject.images", "images", wire["subject"], "images"
    yield "spec.model.source", "base", wire["model"], "source"
    if "adapter" in wire["personalization"]:
        yield "spec.personalization.adapter", "model", wire["personalization"], "adapter"
    if "validation" in wire["personalization"]:
        yield "spec.personalization.validation.prompts", "prompts", wire["personalization"]["validation"], "prompts"
    for stage, plugins in (("reinforcement", "rewards"), ("evaluation", "metrics")):
        yield f"spec.{stage}.prompts", "prompts", wire[stage], "prompts"
        for index, plugin in enumerate(wire[stage][plugins]):
            if "model" in plugin:
                yield f"spec.{stage}.{plugins}[{index}].model", "model", plugin, "model"
    identity = wire["reinforcement"]["guards"].get("identity", {})
    if "model" in identity:
        yield "spec.reinforcement.guards.identity.model", "model", identity, "model"
    if "earlyStopping" in wire["reinforcement"]:
        yield "spec.reinforcement.earlyStopping.prompts", "prompts", wire["reinforcement"]["earlyStopping"], "prompts"


class _Finder:
    def __init__(self, inputs: LocalInputs, store: Path, bucket: str) -> None:
        self._inputs = inputs
        self._store = store
        self._bucket = bucket
        self.mounts: list[Mount] = []

    def find(self, where: str, kind: str, source: Wire) -> Wire:
        """The source as one of the local store."""
        if kind == "images" and self._inputs.images:
            return self._mount("subject", self._inputs.images)
        if kind == "base" and self._inputs.base_model:
            return self._mount("model", self._inputs.base_model)
        if kind == "prompts" and self._inputs.prompts and "inline" not in source:
            return self._prompts(where, source, self._inputs.prompts)
        if "pvc" in source:
            return self._volume(where, source["pvc"])
        if "s3" in source:
            return self._s3(where, kind, source)
        if "configMap" in source:
            option = "--images FOLDER" if kind == "images" else "--prompts FOLDER"
            raise CliError(
                f"{where} is the ConfigMap {source['configMap']['name']}, there is no cluster: give {option}"
            )
        return source  # inline prompts, and the hub, which is the same from everywhere

    def _prompts(self, where: str, source: Wire, folder: Path) -> Wire:
        ref = source.get("configMap")
        names = [f"{ref['name']}/{ref['key']}", ref["key"]] if ref else [source["s3"]["prefix"]]
        names.append(names[-1].rpartition("/")[2])
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None:
            raise CliError(f"{where}: {folder} has no file {names[-1]}")
        contexts = {"contexts": source["contexts"]} if "contexts" in source else {}
        return self._mount(f"prompts/{where}/{found.name}", found) | contexts

    def _volume(self, where: str, pvc: Wire) -> Wire:
        claim, inside = pvc["claimName"], pvc.get("path", "")
        if claim not in self._inputs.volumes:
            raise CliError(f"{where} is on the volume {claim}, there is no cluster: give --volume {claim}=FOLDER")
        path = self._inputs.volumes[claim] / inside
        if not path.exists():
            raise CliError(f"{where}: {path} does not exist")
        return self._mount(f"volumes/{claim}" + (f"/{inside}" if inside else ""), path)

    def _s3(self, where: str, kind: str, source: Wire) -> Wire:
        bucket, prefix = source["s3"].get("bucket") or self._bucket, source["s3"]["prefix"]
        parts = prefix.split("/")
        for length in range(len(parts), 0, -1):
            parent = "/".join(parts[:length])
            if parent in self._inputs.models:
                folder = self._inputs.models[parent]
                if not folder.joinpath(*parts[length:]).exists():
                    raise CliError(f"{where}: {folder.joinpath(*parts[length:])} does not exist")
                self._add(Mount(bucket, parent, folder))
                return source
        if (self._store / bucket / prefix).exists():
            return source
        option = {"images": "--images FOLDER", "prompts": "--prompts FOLDER"}.get(kind, f"--model {prefix}=FOLDER")
        raise CliError(f"{where} is s3://{bucket}/{prefix}, there is no S3 here: give {option}")

    def _mount(self, name: str, path: Path) -> Wire:
        key = f"{_INPUTS}/{name}"
        self._add(Mount(self._bucket, key, path))
        return {"s3": {"prefix": key}}

    def _add(self, mount: Mount) -> None:
        if mount not in self.mounts:
            self.mounts.append(mount)


def _fingerprint(path: Path) -> str:
    """Changes when a file below the path does: names, sizes and times, for reading models would take long."""
    files = sorted(p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())
    stats = [(p.relative_to(path).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def lay(store: Path, mounts: tuple[Mount, ...]) -> None:
    """Link the mounts into the local store. Raises CliError where something else lies already."""
    for mount in mounts:
        link = store / mount.bucket / mount.key
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise CliError(f"{link} exists and is no link of ours; remove it, or leave the option out that names it")
        link.symlink_to(mount.path.resolve())
