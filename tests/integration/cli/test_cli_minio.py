"""`artifacts put|ls|get` against the real API server and the real MinIO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instructbooth.artifacts.access import open_store
from instructbooth.artifacts.commit import commit
from instructbooth.artifacts.store import ObjectStore
from instructbooth.contract import Env
from instructbooth.spec.job import Artifacts
from tests.integration.minio_server import PASSWORD, USER
from tests.unit.spec.examples import demo

pytestmark = pytest.mark.minio
KEYS = {Env.ACCESS_KEY: USER, Env.SECRET_KEY: PASSWORD}


@pytest.fixture
def manifest(bench: Any, minio: str) -> dict[str, Any]:
    """The demo's job on this MinIO, with a bucket of its own."""
    found = demo()
    found["spec"]["artifacts"] |= {"endpoint": minio, "bucket": f"{bench.namespace}-bucket"}
    return found


@pytest.fixture
def store(manifest: dict[str, Any]) -> ObjectStore:
    return open_store(Artifacts.model_validate(manifest["spec"]["artifacts"]), KEYS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "w.safetensors").write_bytes(bytes(range(256)) * 30_000)  # more than one part
    return folder


def test_put_with_the_jobs_own_secret_then_unchanged(bench, manifest, model, store):
    bench.secret("instructbooth-minio", accessKey=USER, secretKey=PASSWORD)
    path = bench.write(manifest)
    result = bench.run("artifacts", "put", str(model), "models/m", "-f", path)
    assert result.exit_code == 0, result.output
    address = f"s3://{manifest['spec']['artifacts']['bucket']}/models/m/"
    assert f"{address}: 2 files sent, 0 unchanged" in result.stdout
    assert store.get_bytes("models/m/unet/w.safetensors") == (model / "unet/w.safetensors").read_bytes()
    again = bench.run("artifacts", "put", str(model), "models/m", "-f", path)
    assert "model_index.json" not in again.stderr
    assert ": 0 files sent, 2 unchanged" in again.stdout


def test_put_to_an_endpoint(bench, manifest, model, store, minio):
    store.ensure_bucket(create=True)
    where = ["--endpoint", minio, "--bucket", store.bucket]
    result = bench.run("artifacts", "put", str(model), "m/", *where, **KEYS)
    assert result.exit_code == 0, result.output
    assert [o.key for o in store.list("")] == ["m/model_index.json", "m/unet/w.safetensors"]
    bench.secret("keys", accessKey=USER, secretKey=PASSWORD)
    assert ": 0 files sent" in bench.run("artifacts", "put", str(model), "m", *where, "--secret", "keys").stdout


@pytest.fixture
def finished(bench: Any, manifest: dict[str, Any], store: ObjectStore, tmp_path: Path) -> str:
    """A job that has two artifacts; the key prefix of the evaluation's."""
    bench.secret("instructbooth-minio", accessKey=USER, secretKey=PASSWORD)
    bench.run("submit", "-f", bench.write(manifest))
    store.ensure_bucket(create=True)
    stages = []
    for stage in ("reinforce", "evaluate"):
        folder = tmp_path / "made" / stage
        (folder / "pictures").mkdir(parents=True)
        (folder / f"{stage}.json").write_text("{}")
        (folder / "pictures" / "1.png").write_bytes(b"p" * 2000)
        prefix = f"runs/{stage}/1/output/"
        commit(store, folder, prefix)
        stages.append({"name": stage, "state": "Succeeded", "artifact": store.url(prefix)})
    bench.set_status({"phase": "Succeeded", "stages": stages})
    return "runs/evaluate/1/output/"


def test_ls_lists_what_the_manifests_say(bench, finished):
    rows = [line.split() for line in bench.run("artifacts", "ls", "demo").stdout.splitlines()]
    assert ["reinforce", "2", "B", "reinforce.json"] in rows
    assert ["evaluate", "2.0", "KiB", "pictures/1.png"] in rows
    assert len(rows) == 5


def test_get_one_stage_into_the_folder_and_all_into_folders(bench, finished, tmp_path):
    one, every = tmp_path / "one", tmp_path / "every"
    result = bench.run("artifacts", "get", "demo", "--stage", "evaluate", "--to", str(one))
    assert result.exit_code == 0, result.output
    assert "evaluate: 2 files" in result.stdout
    assert sorted(p.name for p in one.iterdir()) == ["evaluate.json", "pictures"]
    bench.run("artifacts", "get", "demo", "--to", str(every))
    assert sorted(p.name for p in every.iterdir()) == ["evaluate", "reinforce"]


def test_damage_is_seen_and_nothing_is_left(bench, finished, store, tmp_path):
    store.put_bytes(f"{finished}pictures/1.png", b"q" * 2000)
    result = bench.run("artifacts", "get", "demo", "--stage", "evaluate", "--to", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "ArtifactCorrupt" in result.stderr
    assert list((tmp_path / "out").rglob("*")) == []


def test_stage_without_artifact_is_named(bench, finished, tmp_path):
    result = bench.run("artifacts", "get", "demo", "--stage", "personalize", "--to", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert f"stage personalize of {bench.namespace}/demo has made no artifact yet" in result.stderr


def test_missing_secret_wrong_key_and_wrong_field(bench, manifest, model):
    path = bench.write(manifest)
    missing = bench.run("artifacts", "put", str(model), "m", "-f", path)
    assert f"Secret {bench.namespace}/instructbooth-minio does not exist" in missing.stderr
    assert f"or set {Env.ACCESS_KEY}" in missing.stderr
    wrong = bench.run("artifacts", "put", str(model), "m", "-f", path, **KEYS | {Env.SECRET_KEY: "wrong-secret"})
    assert "AccessDenied" in wrong.stderr
    bench.secret("instructbooth-minio", user="x")
    field = bench.run("artifacts", "put", str(model), "m", "-f", path)
    assert "has no key accessKey, secretKey; it has user" in field.stderr
    for result in (missing, wrong, field):
        assert result.exit_code == 1
        assert "Traceback" not in result.output


def test_missing_bucket_names_the_way_out(bench, manifest, model):
    manifest["spec"]["artifacts"]["createBucket"] = False
    result = bench.run("artifacts", "put", str(model), "m", "-f", bench.write(manifest), **KEYS)
    assert result.exit_code == 1
    assert "BucketNotFound" in result.stderr
    assert "createBucket: true" in result.stderr
