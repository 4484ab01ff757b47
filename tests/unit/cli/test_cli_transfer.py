"""Folders up and down: nothing twice, nothing torn, nothing of the user's lost."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from instructbooth.artifacts.commit import commit
from instructbooth.artifacts.errors import AccessDenied, Corrupt
from instructbooth.artifacts.local import LocalStore
from instructbooth.artifacts.s3 import S3Config, S3Store
from instructbooth.artifacts.store import ObjectStore
from instructbooth.cli.cluster import Cluster
from instructbooth.cli.main import cli
from instructbooth.cli.output import CliError
from instructbooth.cli.storage import opened
from instructbooth.cli.transfer import download, etag, folder_files, parse_address, upload
from instructbooth.contract import Env
from instructbooth.spec.job import Artifacts
from tests.unit.spec.examples import demo


class TaggedStore(LocalStore):
    """A folder that tells MD5s as S3 does."""

    def list(self, prefix):
        return [
            replace(o, version=hashlib.md5(self.get_bytes(o.key), usedforsecurity=False).hexdigest())
            for o in super().list(prefix)
        ]


@pytest.fixture
def store(tmp_path):
    return TaggedStore(tmp_path / "store", "bucket")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(b"w" * 100)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")
    return folder


def put(store, folder):
    sizes: dict[str, int] = {}
    return upload(store, folder, "models/a", sizes.__setitem__), sizes


def test_upload_sends_all_files_but_hidden_ones(store, model):
    done, sizes = put(store, model)
    assert done.sent == ["model_index.json", "unet/weights.safetensors"]
    assert sizes == {"model_index.json": 2, "unet/weights.safetensors": 100}
    assert store.get_bytes("models/a/unet/weights.safetensors") == b"w" * 100


def test_second_upload_sends_only_what_changed(store, model):
    put(store, model)
    (model / "unet" / "weights.safetensors").write_bytes(b"v" * 100)  # same size, other content
    done, _ = put(store, model)
    assert (done.sent, done.unchanged) == (["unet/weights.safetensors"], ["model_index.json"])
    assert store.get_bytes("models/a/unet/weights.safetensors") == b"v" * 100


def test_objects_that_the_folder_does_not_have_are_named(store, model):
    store.put_bytes("models/a/old.safetensors", b"")
    store.put_bytes("models/ab/other", b"")
    assert put(store, model)[0].strangers == ["models/a/old.safetensors"]


def test_links_to_files_are_followed(tmp_path, model):
    link = tmp_path / "snapshot"
    link.mkdir()
    (link / "a.json").symlink_to(model / "model_index.json")
    assert [p.name for p in folder_files(link)] == ["a.json"]


def test_empty_folder_is_an_error(tmp_path):
    with pytest.raises(CliError, match="holds no file"):
        folder_files(tmp_path)


@pytest.fixture
def artifact(store, tmp_path):
    folder = tmp_path / "made"
    (folder / "pictures").mkdir(parents=True)
    (folder / "evaluation.json").write_text("{}")
    (folder / "pictures" / "1.png").write_bytes(b"p")
    commit(store, folder, "runs/evaluate/1/output/")
    return "runs/evaluate/1/output/"


def test_download_leaves_other_files_alone(store, artifact, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    (target / "evaluation.json").write_text("old")
    download(store, artifact, target)
    found = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert found == ["evaluation.json", "mine.txt", "pictures/1.png"]
    assert (target / "evaluation.json").read_text() == "{}"


def test_damaged_artifact_leaves_no_file(store, artifact, tmp_path):
    store.put_bytes(f"{artifact}pictures/1.png", b"q")
    with pytest.raises(Corrupt):
        download(store, artifact, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize(
    ("address", "parsed"), [("s3://b/a/c/", ("b", "a/c/")), ("s3://b/a/c", ("b", "a/c/")), ("s3://b/x/", ("b", "x/"))]
)
def test_address(address, parsed):
    assert parse_address(address) == parsed


@pytest.mark.parametrize("address", ["", "s3://", "s3://b", "s3://b/", "https://b/a/", "file:///b/a/"])
def test_what_is_no_address(address):
    with pytest.raises(CliError, match="no address"):
        parse_address(address)


class FakeCluster:
    """A namespace with a Secret."""

    context, namespace = None, "ns"

    def secret(self, name, *keys):
        assert name == "instructbooth-minio"
        return [f"value-of-{key}" for key in keys]

    def has_service(self, name, namespace):
        return False


def fake(cluster: FakeCluster) -> Cluster:
    return cast(Cluster, cluster)


def config(store: ObjectStore) -> S3Config:
    assert isinstance(store, S3Store)
    return store._config


@pytest.fixture
def spec(monkeypatch):
    for name in (Env.ACCESS_KEY, Env.SECRET_KEY, Env.STORE):
        monkeypatch.delenv(name, raising=False)
    return Artifacts.model_validate(demo()["spec"]["artifacts"] | {"endpoint": "http://127.0.0.1:1"})


def test_credentials_come_from_the_secret_the_job_names(spec):
    with opened(spec, fake(FakeCluster())) as store:
        assert config(store).access_key == "value-of-accessKey"
        assert config(store).secret_key == "value-of-secretKey"
        assert "value-of" not in repr(config(store))


def test_credentials_of_the_environment_come_first(spec, monkeypatch):
    monkeypatch.setenv(Env.ACCESS_KEY, "a")
    monkeypatch.setenv(Env.SECRET_KEY, "s")
    with opened(spec, None) as store:
        assert (config(store).access_key, config(store).secret_key) == ("a", "s")


def test_half_of_the_credentials_is_an_error(spec, monkeypatch):
    monkeypatch.setenv(Env.ACCESS_KEY, "a")
    with pytest.raises(CliError, match=f"{Env.ACCESS_KEY} is set but {Env.SECRET_KEY} is not"), opened(spec, None):
        pass


def test_no_credentials_is_an_error_with_the_way_out(spec):
    with pytest.raises(CliError, match="name a --secret, a job with --like"), opened(spec, None):
        pass


def test_storage_errors_are_errors_of_the_command(spec):
    with pytest.raises(CliError, match="AccessDenied: no"), opened(spec, fake(FakeCluster())):
        raise AccessDenied("no")


def test_ca_bundle_comes_from_its_config_map(spec, monkeypatch, tmp_path):
    import certifi

    spec = Artifacts.model_validate(spec.to_wire() | {"caBundle": {"name": "ca", "key": "ca.pem"}})

    class WithCa(FakeCluster):
        def config_map_key(self, name, key):
            assert (name, key) == ("ca", "ca.pem")
            return open(certifi.where()).read()

    with opened(spec, fake(WithCa())) as store:
        assert Path(str(config(store).ca_file)).read_text().count("BEGIN CERTIFICATE") > 1
    assert not Path(str(config(store).ca_file)).exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["folder", "models/a"], "exactly one of"),
        (["folder", "models/a", "--like", "x", "--endpoint", "http://x"], "exactly one of"),
        (["folder", "models/a", "--endpoint", "http://x"], "needs --bucket"),
        (["folder", "models/a", "--endpoint", "x:9000", "--bucket", "abc"], "--endpoint: 'x:9000'"),
        (["folder", "../a", "--like", "x"], "relative path"),
        (["folder", "models/a", "--like", "x", "--region", "r"], "belong to --endpoint"),
    ],
)
def test_put_refuses_what_contradicts_itself(args, words, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("x")
    result = CliRunner().invoke(cli, ["artifacts", "put", str(tmp_path / args[0]), *args[1:]])
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(("size", "parts"), [(0, 0), (100, 0), (5 << 20, 1), ((5 << 20) + 1, 2), ((15 << 20) + 7, 2)])
def test_etag_of_parts(size, parts, tmp_path):
    """As S3 computes it: MD5 over the parts' MD5s; 15 MiB in two parts means parts of 10 MiB."""
    path = tmp_path / "file"
    data = bytes(range(251)) * (size // 251 + 1)
    path.write_bytes(data[:size])

    def md5(part: bytes) -> bytes:
        return hashlib.md5(part, usedforsecurity=False).digest()

    if not parts:
        assert etag(path, "d41d8cd98f00b204e9800998ecf8427e") == md5(data[:size]).hex()
        return
    step = (10 if size > 10 << 20 else 5) << 20
    digests = b"".join(md5(data[start : min(start + step, size)]) for start in range(0, size, step))
    assert etag(path, f"x-{parts}") == f"{md5(digests).hex()}-{parts}"
