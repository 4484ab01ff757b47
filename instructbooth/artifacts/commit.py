"""Commits: files first, the manifest with every file's size and sha256 last. No manifest, no artifact.

A put of one object is atomic, a put of many is not. A reader that starts at the manifest therefore sees either
everything or nothing, whenever the writer died.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructbooth.artifacts.errors import ArtifactMissing, Corrupt, ObjectMissing
from instructbooth.artifacts.layout import MANIFEST
from instructbooth.artifacts.store import ObjectStore

_CHUNK = 1 << 20


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """`manifest.json`: what an artifact consists of. Keys are paths relative to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Annotated[int, Field(ge=1, le=1)] = 1
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Artifact:
    """A committed artifact: its prefix and what is in it."""

    prefix: str
    manifest: Manifest


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def describe(folder: Path) -> Manifest:
    """The manifest of a local folder, links and empty folders left out. Raises ValueError if there is no file."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p != folder / MANIFEST)
    if not paths:
        raise ValueError(f"{folder} holds no file: there is nothing to commit")
    return Manifest(
        files={p.relative_to(folder).as_posix(): FileEntry(size=p.stat().st_size, sha256=sha256_of(p)) for p in paths}
    )


def commit(store: ObjectStore, folder: Path, prefix: str) -> Artifact:
    """Upload a folder as the artifact `prefix`. A torn or older artifact there is replaced; it vanishes first."""
    manifest = describe(folder)
    store.delete(prefix + MANIFEST)
    for name in manifest.files:
        store.put_file(prefix + name, folder / name)
    store.put_bytes(prefix + MANIFEST, manifest.model_dump_json(indent=1).encode())
    return Artifact(prefix, manifest)


def read_manifest(store: ObjectStore, prefix: str) -> Manifest:
    """The manifest of an artifact. Raises ArtifactMissing, Corrupt."""
    try:
        text = store.get_bytes(prefix + MANIFEST)
    except ObjectMissing as error:
        raise ArtifactMissing(
            f"{store.url(prefix)} has no {MANIFEST}: the artifact was never completed or has been deleted"
        ) from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise Corrupt(f"{store.url(prefix + MANIFEST)} is not a manifest: {error}") from error
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise Corrupt(f"{store.url(prefix + MANIFEST)} names {name!r}, which is outside of the artifact")
    return manifest


def fetch(store: ObjectStore, prefix: str, folder: Path) -> Manifest:
    """Download the artifact `prefix` into `folder`, which appears only when every size and hash is right.

    An existing folder is replaced. Raises ArtifactMissing (no manifest), Corrupt (a file is absent or differs).
    """
    manifest = read_manifest(store, prefix)
    with replacing(folder) as partial:
        for name, entry in manifest.files.items():
            _fetch_file(store, prefix + name, partial / name, entry)
    return manifest


def read_file(store: ObjectStore, prefix: str, name: str) -> bytes:
    """One file of the artifact `prefix`, verified like those of `fetch`. For small ones: it is held in memory.

    Raises ArtifactMissing (no manifest), Corrupt (the manifest does not name it, it is absent or differs).
    """
    entry, key = read_manifest(store, prefix).files.get(name), prefix + name
    if entry is None:
        raise Corrupt(f"{store.url(key)} is not named by its manifest")
    with _named(store, key):
        data = store.get_bytes(key)
    _verify(store.url(key), len(data), lambda: hashlib.sha256(data).hexdigest(), entry)
    return data


def _fetch_file(store: ObjectStore, key: str, path: Path, entry: FileEntry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(store, key):
        store.get_file(key, path)
    _verify(store.url(key), path.stat().st_size, lambda: sha256_of(path), entry)


@contextmanager
def _named(store: ObjectStore, key: str) -> Iterator[None]:
    """What is read here is named by a manifest: it must be there."""
    try:
        yield
    except ObjectMissing as error:
        raise Corrupt(f"{store.url(key)} is named by its manifest but absent") from error


def _verify(url: str, size: int, sha256: Callable[[], str], entry: FileEntry) -> None:
    if size != entry.size:
        raise Corrupt(f"{url} has {size} bytes, its manifest says {entry.size}")
    if sha256() != entry.sha256:
        raise Corrupt(f"{url} does not have the sha256 of its manifest: the object was changed or damaged")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place if the block ends without an exception."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def delete_artifact(store: ObjectStore, prefix: str, files: Mapping[str, object] | None = None) -> None:
    """Delete an artifact, manifest first: a reader must never find a manifest whose files are going.

    Args:
        store: where.
        prefix: of the artifact.
        files: names below the prefix; listed when left out.
    """
    names = files if files is not None else {o.key.removeprefix(prefix): None for o in store.list(prefix)}
    store.delete(prefix + MANIFEST)
    for name in names:
        store.delete(prefix + name)
