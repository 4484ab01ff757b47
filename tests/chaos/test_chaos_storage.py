"""Storage that fails under an artifact: retried or told, and nothing that is not whole is ever accepted."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.credentials import StaticProvider

from instructbooth.artifacts import errors
from instructbooth.artifacts.commit import commit, fetch
from instructbooth.artifacts.s3 import Patience, S3Store
from tests.chaos.effort import OUTAGE_SECONDS
from tests.integration.minio_server import PASSWORD, USER, Server
from tests.integration.storage.conftest import SHORT, config

pytestmark = pytest.mark.minio

PREFIX = "runs/team/rex/u-1/reinforce/1/output/"
DISK_MB = 96
BIG_MB = 24
BALLAST_MB = 66  # leaves less than an artifact


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A MinIO of the test's own."""
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


def artifact(folder: Path, megabytes: int = 1) -> Path:
    folder.mkdir()
    (folder / "lora.safetensors").write_bytes(os.urandom(megabytes << 20))
    (folder / "config.json").write_text("{}")
    return folder


def new_store(server: Server, patience: Patience = SHORT) -> S3Store:
    store = S3Store(config(server.endpoint), patience)
    store.ensure_bucket(create=True)
    return store


def test_an_outage_shorter_than_the_patience_is_sat_out(server: Server, tmp_path: Path) -> None:
    store = new_store(server, Patience(total=OUTAGE_SECONDS + 40))
    one, two = artifact(tmp_path / "one"), artifact(tmp_path / "two")
    commit(store, one, PREFIX)
    server.kill()
    back = threading.Timer(OUTAGE_SECONDS, server.start)
    back.start()
    commit(store, two, PREFIX.replace("/1/", "/2/"))
    back.join()
    for number, folder in ((1, one), (2, two)):
        manifest = fetch(store, PREFIX.replace("/1/", f"/{number}/"), tmp_path / f"out-{number}")
        assert set(manifest.files) == {"lora.safetensors", "config.json"}
        out = tmp_path / f"out-{number}" / "lora.safetensors"
        assert out.read_bytes() == (folder / "lora.safetensors").read_bytes()


def test_an_outage_longer_than_the_patience_is_told_and_may_be_tried_again(server: Server, tmp_path: Path) -> None:
    store = new_store(server)
    folder = artifact(tmp_path / "in")
    server.kill()
    with pytest.raises(errors.EndpointUnreachable) as caught:
        commit(store, folder, PREFIX)
    assert caught.value.retryable
    server.start()
    with pytest.raises(errors.ArtifactMissing):
        fetch(store, PREFIX, tmp_path / "out")
    commit(store, folder, PREFIX)
    fetch(store, PREFIX, tmp_path / "out")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of DISK_MB megabytes; needs root and a loop device."""
    image, mounted = folder / "disk.img", folder / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_MB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system here: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_a_full_disk_of_the_storage_is_told_and_nothing_torn_is_accepted(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        server = Server(disk)
        server.start()
        try:
            store = new_store(server)
            first, second = artifact(tmp_path / "one"), artifact(tmp_path / "two", BIG_MB)
            commit(store, first, PREFIX)
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(BALLAST_MB << 20))
            other = PREFIX.replace("/1/", "/2/")
            with pytest.raises(errors.StorageUnavailable) as caught:
                commit(store, second, other)
            assert caught.value.retryable
            assert re.search("StorageFull|no space left", caught.value.message)  # by how full it is
            with pytest.raises(errors.ArtifactMissing):
                fetch(store, other, tmp_path / "torn")
            fetch(store, PREFIX, tmp_path / "out")  # what was whole before is whole now
            ballast.unlink()
            # Somebody made room: MinIO notices after a while, and a patient writer needs no second attempt.
            commit(S3Store(config(server.endpoint), Patience(total=90)), second, other)
            fetch(store, other, tmp_path / "whole")
        finally:
            server.kill()


def test_a_quota_that_is_used_up_is_told(server: Server, tmp_path: Path) -> None:
    store = new_store(server)
    admin = MinioAdmin(endpoint=f"127.0.0.1:{server.port}", credentials=StaticProvider(USER, PASSWORD), secure=False)
    admin.bucket_quota_set("runs", 1 << 20)
    with pytest.raises(errors.StorageRefused, match=r"(?i)quota"):
        commit(store, artifact(tmp_path / "in", 4), PREFIX)
    with pytest.raises(errors.ArtifactMissing):
        fetch(store, PREFIX, tmp_path / "out")


@pytest.mark.parametrize("damage", ["same size", "shorter", "gone"])
def test_an_object_that_was_changed_is_never_accepted(server: Server, tmp_path: Path, damage: str) -> None:
    store = new_store(server)
    commit(store, artifact(tmp_path / "in"), PREFIX)
    key = PREFIX + "lora.safetensors"
    data = bytearray(store.get_bytes(key))
    data[len(data) // 2] ^= 1
    match damage:
        case "same size":
            store.put_bytes(key, bytes(data))
        case "shorter":
            store.put_bytes(key, bytes(data[:-1]))
        case _:
            store.delete(key)
    with pytest.raises(errors.Corrupt) as caught:
        fetch(store, PREFIX, tmp_path / "out")
    assert caught.value.reason == "ArtifactCorrupt"
    assert not (tmp_path / "out").exists()


def test_bits_that_rot_on_the_storage_s_disk_are_never_accepted(server: Server, tmp_path: Path) -> None:
    store = new_store(server)
    commit(store, artifact(tmp_path / "in"), PREFIX)
    parts = list((tmp_path / "data" / "runs" / PREFIX / "lora.safetensors").rglob("part.*"))
    assert parts, "MinIO keeps a large object in a file of its own"
    server.kill()
    with parts[0].open("r+b") as file:
        file.seek(600_000)
        byte = file.read(1)
        file.seek(600_000)
        file.write(bytes([byte[0] ^ 1]))
    server.start()
    start = time.monotonic()
    with pytest.raises(errors.ArtifactError):
        fetch(store, PREFIX, tmp_path / "out")
    assert time.monotonic() - start < 60, "it must not try for ever"
    assert not (tmp_path / "out").exists()
