"""The one interface to object storage. S3 has no rename and no folders, so neither has this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self


@dataclass(frozen=True, order=True)
class StoredObject:
    """One object of a listing.

    Attributes:
        key: the full key, without the bucket.
        size: bytes.
        version: changes when the content does (S3's ETag; time and size for a folder); for caches only.
    """

    key: str
    size: int
    version: str = ""


class ObjectStore(Protocol):
    """A bucket. Every method raises a subclass of `errors.ArtifactError` and nothing else for storage trouble.

    A put is atomic (readers see the old object, none, or the whole new one) and durable once it returns.
    """

    @property
    def bucket(self) -> str:
        """Name of the bucket."""

    def in_bucket(self, bucket: str) -> Self:
        """The same storage with the same credentials, another bucket."""

    def url(self, key: str) -> str:
        """Address of a key for people and for status: `s3://bucket/key` or `file:///...`."""

    def ensure_bucket(self, *, create: bool) -> None:
        """Check that the bucket exists, and make it if `create`. Raises BucketNotFound, AccessDenied, ..."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an object."""

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file."""

    def get_bytes(self, key: str) -> bytes:
        """Read a (small) object. Raises ObjectMissing."""

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file, which appears only when it is whole. Raises ObjectMissing."""

    def list(self, prefix: str) -> list[StoredObject]:
        """All objects whose key starts with `prefix`, sorted by key. None is not an error."""

    def delete(self, key: str) -> None:
        """Remove an object; none there is not an error."""
