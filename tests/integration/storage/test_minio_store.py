"""The S3 client against a real MinIO server: what works, and how every kind of trouble is told."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.credentials import StaticProvider

from instructbooth.artifacts import errors
from instructbooth.artifacts.checkpoints import CheckpointRef, list_checkpoints, prune_checkpoints
from instructbooth.artifacts.commit import commit, fetch
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.s3 import Patience, S3Store
from instructbooth.cli.ports import free_port
from instructbooth.contract import Stage
from tests.integration.minio_server import PASSWORD, USER, Server
from tests.integration.storage.conftest import SHORT, Wire, config

pytestmark = pytest.mark.minio

PREFIX = "runs/team/rex/u-1/personalize/1/output/"


def make_folder(folder: Path, megabytes: int = 0) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    (folder / "deep" / "with space+plus.txt").write_text("ü")
    if megabytes:
        (folder / "big.safetensors").write_bytes(os.urandom(megabytes << 20))
    return folder


def same(one: Path, two: Path) -> bool:
    names = [{p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (one, two)]
    return names[0] == names[1] and all((one / n).read_bytes() == (two / n).read_bytes() for n in names[0])


def test_objects(store: S3Store, tmp_path: Path) -> None:
    for key in ("a/1", "a/10/x", "a/2", "b/1"):
        store.put_bytes(key, key.encode())
    assert [o.key for o in store.list("a/1")] == ["a/1", "a/10/x"]
    assert [(o.key, o.size) for o in store.list("a/")] == [("a/1", 3), ("a/10/x", 6), ("a/2", 3)]
    assert store.list("none/") == []
    assert store.get_bytes("a/10/x") == b"a/10/x"
    store.put_bytes("a/1", b"new")
    store.get_file("a/1", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"new"
    store.delete("a/1")
    store.delete("a/1")
    with pytest.raises(errors.ObjectMissing, match="no such object"):
        store.get_bytes("a/1")
    with pytest.raises(errors.ObjectMissing):
        store.get_file("a/1", tmp_path / "two")
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_an_artifact_of_many_parts_comes_back(store: S3Store, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", megabytes=12)
    commit(store, folder, PREFIX)
    fetch(store, PREFIX, tmp_path / "out")
    assert same(folder, tmp_path / "out")


def test_a_changed_object_is_noticed(store: S3Store, tmp_path: Path) -> None:
    commit(store, make_folder(tmp_path / "in"), PREFIX)
    store.put_bytes(PREFIX + "a.json", b"[]")
    with pytest.raises(errors.Corrupt, match="sha256"):
        fetch(store, PREFIX, tmp_path / "out")
    store.delete(PREFIX + "manifest.json")
    with pytest.raises(errors.ArtifactMissing):
        fetch(store, PREFIX, tmp_path / "out")


def test_checkpoints(store: S3Store, tmp_path: Path) -> None:
    layout, folder = RunLayout("r/"), make_folder(tmp_path / "in")
    for step in (9, 10, 100):
        commit(store, folder, layout.checkpoint(Stage.REINFORCE, 1, step))
    assert list_checkpoints(store, layout, Stage.REINFORCE, 1)[0] == CheckpointRef(100, 1)
    assert prune_checkpoints(store, layout, Stage.REINFORCE, 1, keep=1) == [10, 9]
    assert {o.key.split("/")[4] for o in store.list("r/")} == {"100"}


def test_a_missing_bucket_is_told_and_made_on_request(server: Server) -> None:
    store = S3Store(config(server.endpoint, "not-there"), SHORT)
    for call in (lambda: store.ensure_bucket(create=False), lambda: store.put_bytes("k", b""), lambda: store.list("")):
        with pytest.raises(errors.BucketNotFound, match=r"not-there.*createBucket: true"):
            call()
    store.ensure_bucket(create=True)
    store.ensure_bucket(create=True)
    store.put_bytes("k", b"1")
    assert store.in_bucket("not-there").get_bytes("k") == b"1"


@pytest.mark.parametrize("change", [{"secret_key": "wrong-password"}, {"access_key": "nobody"}])
def test_wrong_credentials_are_told_at_once(server: Server, change: dict[str, str]) -> None:
    store = S3Store(config(server.endpoint, **change), Patience(total=3600))
    for call in (lambda: store.ensure_bucket(create=True), lambda: store.put_bytes("k", b""), lambda: store.list("")):
        with pytest.raises(errors.AccessDenied, match="credentialsSecretRef") as caught:
            call()
        assert not caught.value.retryable


def test_a_user_who_may_only_read(server: Server, store: S3Store) -> None:
    store.put_bytes("k", b"1")
    admin = MinioAdmin(endpoint=f"127.0.0.1:{server.port}", credentials=StaticProvider(USER, PASSWORD), secure=False)
    admin.user_add("reader", "reader-password")
    admin.attach_policy(["readonly"], user="reader")
    reader = S3Store(
        config(server.endpoint, store.bucket, access_key="reader", secret_key="reader-password"), Patience(total=3600)
    )
    assert reader.get_bytes("k") == b"1"
    with pytest.raises(errors.AccessDenied, match="may read, write, list and delete"):
        reader.put_bytes("k", b"2")
    with pytest.raises(errors.AccessDenied):
        S3Store(
            config(server.endpoint, "reader-wants", access_key="reader", secret_key="reader-password")
        ).ensure_bucket(create=True)


def test_nobody_listens() -> None:
    store = S3Store(config(f"http://127.0.0.1:{free_port()}"), SHORT)
    with pytest.raises(errors.EndpointUnreachable, match=r"spec\.artifacts\.endpoint") as caught:
        store.ensure_bucket(create=False)
    assert caught.value.retryable


def test_a_name_that_does_not_resolve() -> None:
    store = S3Store(config("http://storage.invalid:9000"), SHORT)
    with pytest.raises(errors.EndpointUnreachable, match=r"storage\.invalid"):
        store.ensure_bucket(create=False)


def test_somebody_listens_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = S3Store(config(f"http://127.0.0.1:{silent.getsockname()[1]}"), SHORT)
        with pytest.raises(errors.EndpointUnreachable):
            store.ensure_bucket(create=False)


def test_a_private_authority(make_server: Callable[..., Server], tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(certs / "private.key"), "-out", str(certs / "public.crt")),
        ],
        check=True,
        capture_output=True,
    )
    server = make_server(certs)
    trusting = S3Store(config(server.endpoint, ca_file=certs / "public.crt"), SHORT)
    trusting.ensure_bucket(create=True)
    trusting.put_bytes("k", b"1")
    assert trusting.get_bytes("k") == b"1"
    with pytest.raises(errors.CertificateInvalid, match="caBundle"):
        S3Store(config(server.endpoint), Patience(total=3600)).get_bytes("k")
    with pytest.raises(errors.ArtifactError):
        S3Store(config(server.endpoint.replace("https", "http")), SHORT).get_bytes("k")


def test_the_server_is_restarted_in_the_middle_of_an_upload(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    S3Store(config(server.endpoint), SHORT).ensure_bucket(create=True)
    restarted = threading.Event()

    def restart() -> None:
        server.kill()
        time.sleep(1.0)
        server.start()
        restarted.set()

    wire = Wire(server.port, limit=9 << 20, cut=lambda: threading.Thread(target=restart).start())
    folder = make_folder(tmp_path / "in", megabytes=24)
    commit(S3Store(config(f"http://127.0.0.1:{wire.port}"), Patience(first_delay=0.2)), folder, PREFIX)
    wire.close()
    assert restarted.wait(60)
    assert wire.sent > 24 << 20  # something was sent twice: the cut was in the middle
    fetch(S3Store(config(server.endpoint), SHORT), PREFIX, tmp_path / "out")
    assert same(folder, tmp_path / "out")


def test_the_server_dies_in_the_middle_of_a_commit(make_server: Callable[..., Server], tmp_path: Path) -> None:
    server = make_server()
    direct = S3Store(config(server.endpoint), SHORT)
    direct.ensure_bucket(create=True)
    folder = make_folder(tmp_path / "in", megabytes=24)
    wire = Wire(server.port, limit=9 << 20, cut=server.kill)
    with pytest.raises(errors.EndpointUnreachable) as caught:
        commit(S3Store(config(f"http://127.0.0.1:{wire.port}"), SHORT), folder, PREFIX)
    wire.close()
    assert caught.value.retryable
    server.start()
    with pytest.raises(errors.ArtifactMissing):
        fetch(direct, PREFIX, tmp_path / "out")
    commit(direct, folder, PREFIX)
    fetch(direct, PREFIX, tmp_path / "out")
    assert same(folder, tmp_path / "out")
