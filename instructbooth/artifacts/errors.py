"""What can go wrong with object storage, as one tree of exceptions.

Whether trying again can help lives in the type (`retryable`), so that nobody further up has to guess from a message.
"""

from __future__ import annotations

from typing import ClassVar


class ArtifactError(Exception):
    """Base of all storage errors.

    Attributes:
        reason: one CamelCase word for conditions and events.
        retryable: whether the same call can succeed later without anybody changing the job.
        message: for a person: what, where and the way out.
    """

    reason: ClassVar[str] = "StorageFailed"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EndpointUnreachable(ArtifactError):
    """Nobody answers at the endpoint, or the connection broke for longer than the client tries."""

    reason = "EndpointUnreachable"
    retryable = True


class StorageUnavailable(ArtifactError):
    """The storage answers but is not able to serve (5xx, slow down, starting)."""

    reason = "StorageUnavailable"
    retryable = True


class CertificateInvalid(ArtifactError):
    """TLS failed: an unknown authority, a wrong host name, or no TLS at the port."""

    reason = "CertificateInvalid"


class AccessDenied(ArtifactError):
    """The credentials are unknown, wrong, or not allowed to do this."""

    reason = "AccessDenied"


class BucketNotFound(ArtifactError):
    """The bucket does not exist."""

    reason = "BucketNotFound"


class StorageRefused(ArtifactError):
    """The storage refuses the request for another reason (wrong region, quota, a malformed name)."""

    reason = "StorageRefused"


class ObjectMissing(ArtifactError):
    """No object under this key."""

    reason = "ObjectMissing"


class ArtifactMissing(ArtifactError):
    """No manifest, hence no artifact: it was never made, or its commit never finished."""

    reason = "ArtifactMissing"


class Corrupt(ArtifactError):
    """An object is not what its manifest says."""

    reason = "ArtifactCorrupt"
