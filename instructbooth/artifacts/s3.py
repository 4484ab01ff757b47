"""Any S3 storage, through the `minio` client, with bounded patience.

The client's own defaults wait five minutes a request and retry five times. Here a call gives up after about a minute:
the gang is better restarted (and the reason shown) than silent.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from instructbooth.artifacts import errors
from instructbooth.artifacts.store import StoredObject

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK = 1 << 20
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "AllAccessDisabled"}
_BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "XMinioServerNotInitialized"}


class Clock(Protocol):
    """Time, passed in so that tests need not wait."""

    def monotonic(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


@dataclass(frozen=True)
class Patience:
    """How long a call may take on trouble.

    Attributes:
        total: seconds after which no further try is started.
        connect: seconds a connection may take.
        read: seconds between two bytes of an answer.
        first_delay: seconds before the second try; doubles up to `max_delay`.
        max_delay: seconds.
    """

    total: float = 45.0
    connect: float = 5.0
    read: float = 30.0
    first_delay: float = 0.5
    max_delay: float = 8.0


@dataclass(frozen=True)
class S3Config:
    """How to reach a bucket; fields as in spec.artifacts.

    Attributes:
        endpoint: `https://host[:port]`.
        bucket: name.
        access_key: key id.
        secret_key: secret; never shown by repr.
        region: asked from the endpoint when None.
        path_style: `endpoint/bucket/key` rather than `bucket.endpoint/key`.
        ca_file: PEM file with the authorities to trust; the usual ones when None.
        credentials: where the keys come from, in words for messages.
    """

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str | None = None
    path_style: bool = True
    ca_file: Path | None = None
    credentials: str = "the Secret that spec.artifacts.credentialsSecretRef names"

    def __repr__(self) -> str:
        return f"S3Config({self.endpoint}/{self.bucket})"


class S3Store:
    """A bucket of an S3 storage. Not to be shared between processes."""

    def __init__(self, config: S3Config, patience: Patience = Patience(), clock: Clock = time) -> None:
        self._config = config
        self._patience = patience
        self._clock = clock
        url = urlsplit(config.endpoint)
        if config.ca_file is not None and not config.ca_file.is_file():
            raise errors.CertificateInvalid(
                f"spec.artifacts.caBundle: there is no file {config.ca_file}; check the ConfigMap's name and key"
            )
        self._client = Minio(
            url.netloc,
            access_key=config.access_key,
            secret_key=config.secret_key,
            secure=url.scheme == "https",
            region=config.region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=patience.connect, read=patience.read),
                retries=False,  # retried here, where the whole call is bounded
                maxsize=10,
                cert_reqs="CERT_REQUIRED",
                ca_certs=str(config.ca_file) if config.ca_file else os.environ.get("SSL_CERT_FILE") or certifi.where(),
            ),
        )
        if config.path_style:
            self._client.disable_virtual_style_endpoint()
        else:
            self._client.enable_virtual_style_endpoint()

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._config.bucket

    def in_bucket(self, bucket: str) -> Self:
        """The same endpoint and credentials, another bucket."""
        fields = {**vars(self._config), "bucket": bucket}
        return type(self)(S3Config(**fields), self._patience, self._clock)

    def url(self, key: str) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{key}"

    def ensure_bucket(self, *, create: bool) -> None:
        """Check that the bucket exists; makes it if `create`."""
        if self._call("look for the bucket", "", lambda: bool(self._client.bucket_exists(self.bucket))):
            return
        if not create:
            raise self._no_bucket()
        try:
            self._call("create the bucket", "", lambda: self._client.make_bucket(self.bucket, self._config.region))
        except errors.StorageRefused as error:
            cause = error.__cause__
            if not (isinstance(cause, S3Error) and cause.code == "BucketAlreadyOwnedByYou"):
                raise  # otherwise another rank was quicker

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an object."""
        self._call("write", key, lambda: self._client.put_object(self.bucket, key, io.BytesIO(data), len(data)))

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file."""
        self._call("write", key, lambda: self._client.fput_object(self.bucket, key, str(path)))

    def get_bytes(self, key: str) -> bytes:
        """Read an object."""
        buffer = io.BytesIO()

        def read() -> None:
            buffer.seek(0)
            buffer.truncate()
            self._stream(key, buffer.write)

        self._call("read", key, read)
        return buffer.getvalue()

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")

        def read() -> None:
            with partial.open("wb") as file:
                self._stream(key, file.write)

        try:
            self._call("read", key, read)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[StoredObject]:
        """All objects whose key starts with `prefix`, sorted."""

        def read() -> list[StoredObject]:
            found = self._client.list_objects(self.bucket, prefix=prefix, recursive=True)
            return sorted(StoredObject(o.object_name, o.size or 0, o.etag or "") for o in found if not o.is_dir)

        return self._call("list", prefix, read)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._call("delete", key, lambda: self._client.remove_object(self.bucket, key))

    def _stream(self, key: str, write: Callable[[bytes], object]) -> None:
        response = self._client.get_object(self.bucket, key)
        try:
            for chunk in response.stream(_CHUNK):
                write(chunk)
        finally:
            response.close()
            response.release_conn()

    def _call(self, verb: str, key: str, call: Callable[[], T]) -> T:
        """Run a request, again after trouble that may pass, until the patience is spent."""
        start = self._clock.monotonic()
        delay = self._patience.first_delay
        while True:
            try:
                return call()
            except (S3Error, ServerError, InvalidResponseError, urllib3.exceptions.HTTPError, OSError) as error:
                translated = self._translate(error, verb, key)
                spent = self._clock.monotonic() - start
                if not translated.retryable or spent + delay > self._patience.total:
                    raise translated from error
                log.warning("%s; trying again in %.1f s", translated.message, delay)
                self._clock.sleep(delay)
                delay = min(2 * delay, self._patience.max_delay)

    def _translate(self, error: Exception, verb: str, key: str) -> errors.ArtifactError:
        """The exception for people. Local trouble (a full disk) passes through as it is."""
        what = f"cannot {verb} {self.url(key)} at {self._config.endpoint}"
        if isinstance(error, S3Error):
            return self._translate_s3(error, what)
        if isinstance(error, ServerError | InvalidResponseError):
            status = int(error.status_code if isinstance(error, ServerError) else error._code)
            if status == 403:
                return self._denied(what, "403 Forbidden")
            if 400 <= status < 500:
                return errors.StorageRefused(f"{what}: {error}; is spec.artifacts.endpoint an S3 endpoint?")
            return errors.StorageUnavailable(f"{what}: {error}")
        if isinstance(error, urllib3.exceptions.SSLError):
            return errors.CertificateInvalid(
                f"{what}: {error}; give the authority's PEM certificates in spec.artifacts.caBundle, "
                "and check that the endpoint's scheme (http or https) is the right one"
            )
        if isinstance(error, urllib3.exceptions.HTTPError):
            return errors.EndpointUnreachable(
                f"{what}: {type(error).__name__}: {error}; check spec.artifacts.endpoint, its DNS name and port, "
                "and that network policies let the pods reach it"
            )
        raise error

    def _translate_s3(self, error: S3Error, what: str) -> errors.ArtifactError:
        said = f"{what}: {error.code}: {error.message}"
        if error.code == "NoSuchBucket":
            return self._no_bucket()
        if error.code == "NoSuchKey":
            return errors.ObjectMissing(f"{what}: no such object")
        if error.code in _DENIED:
            return self._denied(what, f"{error.code}: {error.message}")
        if error.code in _BUSY or (error.response is not None and error.response.status >= 500):
            return errors.StorageUnavailable(said)
        if error.code in {"AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidRegion"}:
            return errors.StorageRefused(f"{said}; set spec.artifacts.region to the bucket's region")
        return errors.StorageRefused(said)

    def _denied(self, what: str, said: str) -> errors.AccessDenied:
        return errors.AccessDenied(
            f"{what}: {said}; check {self._config.credentials} and that their user may read, write, list and delete "
            f"in the bucket {self.bucket}"
        )

    def _no_bucket(self) -> errors.BucketNotFound:
        return errors.BucketNotFound(
            f"the bucket {self.bucket} does not exist at {self._config.endpoint}; create it, correct "
            "spec.artifacts.bucket, or set spec.artifacts.createBucket: true"
        )
