"""Object storage in a folder: `<root>/<bucket>/<key>`. For `instructbooth run` without a cluster, and for tests."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from instructbooth.artifacts.errors import BucketNotFound, ObjectMissing
from instructbooth.artifacts.store import StoredObject

_PARTIAL = ".partial-"


class LocalStore:
    """A folder that behaves like a bucket: puts are atomic, keys have no folders."""

    def __init__(self, root: Path, bucket: str) -> None:
        self._root = root
        self._bucket = bucket

    @property
    def bucket(self) -> str:
        """Name of the bucket, a folder of the root."""
        return self._bucket

    def in_bucket(self, bucket: str) -> Self:
        """The neighbouring folder `bucket`."""
        return type(self)(self._root, bucket)

    def url(self, key: str) -> str:
        """`file:///folder/bucket/key`."""
        return f"file://{self._path(key)}" + ("/" if key.endswith("/") else "")

    def ensure_bucket(self, *, create: bool) -> None:
        """Check that the folder exists; makes it if `create`."""
        if create:
            self._path("").mkdir(parents=True, exist_ok=True)
        elif not self._path("").is_dir():
            raise BucketNotFound(f"the folder {self._path('')} does not exist; create it or set artifacts.createBucket")

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an object."""
        with _replacing(self._path(key)) as partial:
            partial.write_bytes(data)

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file."""
        with _replacing(self._path(key)) as partial:
            shutil.copyfile(path, partial)

    def get_bytes(self, key: str) -> bytes:
        """Read an object."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ObjectMissing(f"{self.url(key)} does not exist") from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy an object into a file."""
        with _replacing(path) as partial:
            try:
                shutil.copyfile(self._path(key), partial)
            except (FileNotFoundError, IsADirectoryError) as error:
                raise ObjectMissing(f"{self.url(key)} does not exist") from error

    def list(self, prefix: str) -> list[StoredObject]:
        """All objects whose key starts with `prefix`, sorted."""
        bucket = self._path("")
        start = self._path(prefix if prefix.endswith("/") else prefix.rpartition("/")[0])
        found = []
        for folder, _, names in os.walk(start):
            for name in names:
                path = Path(folder) / name
                key = path.relative_to(bucket).as_posix()
                if key.startswith(prefix) and _PARTIAL not in name:
                    stat = path.stat()
                    found.append(StoredObject(key, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}"))
        return sorted(found)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root.absolute() / self._bucket / key


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when it is whole, and is gone when it could not be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + _PARTIAL + uuid.uuid4().hex)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
