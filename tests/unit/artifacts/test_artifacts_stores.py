"""The local store, how a store is chosen, and the S3 client's patience and translations (logic only; the real server
is in tests/integration/storage)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3
from minio.error import InvalidResponseError, S3Error, ServerError

from instructbooth.artifacts import errors
from instructbooth.artifacts.access import open_store
from instructbooth.artifacts.local import LocalStore
from instructbooth.artifacts.s3 import Patience, S3Config, S3Store
from instructbooth.artifacts.store import StoredObject
from instructbooth.spec.job import Artifacts, CredentialsSecretRef

ARTIFACTS = Artifacts(
    endpoint="https://s3.test:9000", bucket="models", credentials_secret_ref=CredentialsSecretRef(name="s3")
)
CREDENTIALS = {"INSTRUCTBOOTH_S3_ACCESS_KEY": "key", "INSTRUCTBOOTH_S3_SECRET_KEY": "very-secret"}


def test_local_store_lists_by_prefix_not_by_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, "b")
    for key in ("a/1", "a/10/x", "a/2", "b/1"):
        store.put_bytes(key, b"12")
    assert [o.key for o in store.list("a/1")] == ["a/1", "a/10/x"]
    assert [o.key for o in store.list("a/")] == ["a/1", "a/10/x", "a/2"]
    assert [o.key for o in store.list("")] == ["a/1", "a/10/x", "a/2", "b/1"]
    assert store.list("nothing/here/") == []
    assert store.list("a/1")[0].size == 2


def test_a_full_disk_leaves_no_half_written_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store", "b")
    store.put_bytes("model", b"whole")
    (tmp_path / "new").write_bytes(b"newer")

    def half(_: Path, target: Path) -> None:
        target.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", half)
    with pytest.raises(OSError, match="No space"):
        store.put_file("model", tmp_path / "new")
    with pytest.raises(OSError, match="No space"):
        store.get_file("model", tmp_path / "copy")
    assert store.get_bytes("model") == b"whole"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["model", "new"]


def test_local_store_knows_buckets(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, "b")
    with pytest.raises(errors.BucketNotFound, match="createBucket"):
        store.ensure_bucket(create=False)
    store.ensure_bucket(create=True)
    store.put_bytes("k", b"1")
    with pytest.raises(errors.ObjectMissing):
        store.in_bucket("other").get_bytes("k")
    assert store.in_bucket("other").in_bucket("b").get_bytes("k") == b"1"
    assert store.url("k") == f"file://{tmp_path}/b/k"


@pytest.mark.parametrize("form", ["file://{}", "{}"])
def test_the_environment_can_put_a_folder_in_the_place_of_s3(tmp_path: Path, form: str) -> None:
    store = open_store(ARTIFACTS, {"INSTRUCTBOOTH_STORE": form.format(tmp_path)})
    store.put_bytes("k", b"1")
    assert (tmp_path / "models" / "k").read_bytes() == b"1"


def test_missing_credentials_name_the_secret_and_its_keys() -> None:
    with pytest.raises(errors.AccessDenied, match=r"SECRET_KEY.*Secret s3.*accessKey and secretKey"):
        open_store(ARTIFACTS, {**CREDENTIALS, "INSTRUCTBOOTH_S3_SECRET_KEY": ""})


def test_the_secret_key_is_never_shown() -> None:
    assert "very-secret" not in repr(S3Config("https://s3.test", "b", "key", "very-secret"))


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    config = S3Config("https://s3.test", "bucket", "k", "s", ca_file=tmp_path / "ca.pem")
    with pytest.raises(errors.CertificateInvalid, match=r"ca\.pem"):
        S3Store(config)


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds


def s3_error(code: str, status: int) -> S3Error:
    return S3Error(urllib3.HTTPResponse(status=status), code, "said so", "/r", None, None)


class Client:
    """Stands for the minio client; each call runs `behave`."""

    def __init__(self, behave: Callable[[], object]) -> None:
        self.behave = behave
        self.calls = 0

    def remove_object(self, _bucket: str, _key: str) -> None:
        self.calls += 1
        self.behave()


def make(behave: Callable[[], object]) -> tuple[S3Store, Client, FakeClock]:
    clock = FakeClock()
    store = S3Store(S3Config("https://s3.test:9000", "models", "k", "s", region="r"), Patience(), clock)
    client = Client(behave)
    store._client = client
    return store, client, clock


def fail(error: Exception) -> Callable[[], object]:
    def behave() -> object:
        raise error

    return behave


@pytest.mark.parametrize(
    ("error", "expected", "remedy"),
    [
        (s3_error("NoSuchBucket", 404), errors.BucketNotFound, "createBucket"),
        (s3_error("NoSuchKey", 404), errors.ObjectMissing, "no such object"),
        (s3_error("SignatureDoesNotMatch", 403), errors.AccessDenied, "credentialsSecretRef"),
        (s3_error("InvalidAccessKeyId", 403), errors.AccessDenied, "credentialsSecretRef"),
        (s3_error("AuthorizationHeaderMalformed", 400), errors.StorageRefused, "region"),
        (s3_error("QuotaExceeded", 400), errors.StorageRefused, "QuotaExceeded"),
        (InvalidResponseError(403, "text/html", ""), errors.AccessDenied, "credentialsSecretRef"),
        (InvalidResponseError(404, "text/html", ""), errors.StorageRefused, "endpoint"),
        (urllib3.exceptions.SSLError("self-signed"), errors.CertificateInvalid, "caBundle"),
    ],
)
def test_what_cannot_get_better_fails_at_once(
    error: Exception, expected: type[errors.ArtifactError], remedy: str
) -> None:
    store, client, clock = make(fail(error))
    with pytest.raises(expected, match=remedy) as caught:
        store.delete("k")
    assert not caught.value.retryable
    assert (client.calls, clock.now) == (1, 0.0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (s3_error("SlowDown", 503), errors.StorageUnavailable),
        (s3_error("SomethingNew", 500), errors.StorageUnavailable),
        (ServerError("bad gateway", 502), errors.StorageUnavailable),
        (InvalidResponseError(502, "text/html", ""), errors.StorageUnavailable),
        (urllib3.exceptions.ProtocolError("cut"), errors.EndpointUnreachable),
        (
            urllib3.exceptions.ReadTimeoutError(urllib3.HTTPSConnectionPool("h"), "/", "late"),
            errors.EndpointUnreachable,
        ),
    ],
)
def test_what_may_pass_is_tried_again_for_a_bounded_time(
    error: Exception, expected: type[errors.ArtifactError]
) -> None:
    store, client, clock = make(fail(error))
    with pytest.raises(expected, match=r"s3\.test") as caught:
        store.delete("k")
    assert caught.value.retryable
    assert client.calls > 4
    assert clock.now <= Patience().total


def test_trouble_that_passes_is_not_seen() -> None:
    answers: list[Exception | None] = [s3_error("SlowDown", 503), urllib3.exceptions.ProtocolError("cut"), None]

    def behave() -> None:
        answer = answers.pop(0)
        if answer:
            raise answer

    store, client, _ = make(behave)
    store.delete("k")
    assert client.calls == 3


def test_local_trouble_is_not_blamed_on_the_storage() -> None:
    store, client, _ = make(fail(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        store.delete("k")
    assert client.calls == 1


def test_listing_order_is_by_key() -> None:
    assert sorted([StoredObject("b", 1), StoredObject("a", 2)])[0].key == "a"
