"""Folders to object storage and back. Pure of clusters and consoles."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from instructbooth.artifacts.commit import Manifest, fetch
from instructbooth.artifacts.store import ObjectStore
from instructbooth.cli.output import CliError

_SCHEME = "s3://"
_PART_UNIT = 5 << 20  # bytes; the smallest part of a multipart upload
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Uploaded:
    """What an upload did.

    Attributes:
        sent: files that were sent.
        unchanged: files that were there already with the same content.
        strangers: keys below the prefix that the folder does not have.
    """

    sent: list[str]
    unchanged: list[str]
    strangers: list[str]


def folder_files(folder: Path) -> list[Path]:
    """The files to upload, sorted: hidden ones are left out, links to files are followed (the hub's cache has them).

    Raises CliError if there is none.
    """
    files = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if not any(part.startswith(".") for part in (Path(parent) / name).relative_to(folder).parts)
    ]
    files = sorted(path for path in files if path.is_file())
    if not files:
        raise CliError(f"{folder} holds no file to upload")
    return files


def upload(store: ObjectStore, folder: Path, prefix: str, advance: Callable[[str, int], None]) -> Uploaded:
    """Put every file of a folder below `prefix/`; what is there with the same content is not sent again.

    Args:
        store: where.
        folder: what.
        prefix: key prefix without a slash at its end.
        advance: called with each file's name and size once it is there.
    """
    known = {o.key: o for o in store.list(f"{prefix}/")}
    done = Uploaded([], [], [])
    for path in folder_files(folder):
        name = path.relative_to(folder).as_posix()
        key, size = f"{prefix}/{name}", path.stat().st_size
        there = known.pop(key, None)
        if there and there.size == size and there.version == etag(path, there.version):
            done.unchanged.append(name)
        else:
            store.put_file(key, path)
            done.sent.append(name)
        advance(name, size)
    done.strangers.extend(known)
    return done


def etag(path: Path, like: str) -> str:
    """The ETag that S3 gives a file which is sent in as many parts as the object with the ETag `like` was.

    One part: the MD5. N parts: the MD5 of their MD5s and `-N`. The size of a part is not told; the one that our client
    takes is tried, so that a file sent by another client may be sent again, but never is a changed one left out.
    """
    parts = int(like.rpartition("-")[2]) if "-" in like else 0
    if not parts:
        return _md5_parts(path, path.stat().st_size or 1)[0].hex()
    part_size = _PART_UNIT
    while math.ceil(path.stat().st_size / part_size) > parts:
        part_size += _PART_UNIT
    digests = _md5_parts(path, part_size)
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def _md5_parts(path: Path, part_size: int) -> list[bytes]:
    digests = []
    with path.open("rb") as file:
        for start in range(0, max(1, path.stat().st_size), part_size):
            digest, left = hashlib.md5(usedforsecurity=False), part_size
            file.seek(start)
            while left and (chunk := file.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
            digests.append(digest.digest())
    return digests


def parse_address(address: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix/` to (bucket, `some/prefix/`). Raises CliError."""
    bucket, _, key = address.removeprefix(_SCHEME).partition("/")
    if not address.startswith(_SCHEME) or not bucket or not key:
        raise CliError(f"{address!r} is no address of an artifact: s3://bucket/prefix/ is")
    return bucket, key if key.endswith("/") else key + "/"


def download(store: ObjectStore, prefix: str, folder: Path) -> Manifest:
    """Fetch an artifact into a folder, verified: no file appears before all of them proved to be whole.

    Files of the same names are replaced, others in the folder are left alone.
    """
    with _scratch(folder) as scratch:
        manifest = fetch(store, prefix, scratch / "artifact")
        for name in manifest.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / "artifact" / name, target)
    return manifest


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder inside of `folder`, hence on the same disk, that is gone afterwards."""
    scratch = folder / f".instructbooth-{os.getpid()}"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
