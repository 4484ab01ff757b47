"""The trainer as a pod runs it, with storage that is wrong: an exit code, a reason, a remedy, and no hanging."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instructbooth.artifacts.s3 import S3Store
from instructbooth.cli.ports import free_port
from instructbooth.contract import Env, ExitCode, Outcome
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.runtime.outcome import parse
from tests.integration.minio_server import PASSWORD, USER, Server
from tests.integration.storage.conftest import SHORT, config
from tests.unit.trainer.harness import spec

LIMIT = 150  # seconds until a pod is taken for hanging


def run_pod(folder: Path, endpoint: str, *, password: str = PASSWORD, bucket: str = "runs") -> tuple[int, Outcome]:
    wire = spec()
    wire["artifacts"] |= {"endpoint": endpoint, "bucket": bucket}
    job = ResolvedJob.model_validate({"namespace": "test", "name": "tiny", "uid": "u", "spec": wire})
    (folder / "job.json").write_text(json.dumps(job.to_wire()))
    env = {
        **os.environ,
        Env.CONFIG: str(folder / "job.json"),
        Env.STAGE: "personalize",
        Env.ATTEMPT: "1",
        Env.ACCESS_KEY: USER,
        Env.SECRET_KEY: password,
        Env.TERMINATION_LOG: str(folder / "outcome.json"),
    }
    command = [sys.executable, "-m", "instructbooth_trainer.main"]
    done = subprocess.run(command, env=env, timeout=LIMIT, capture_output=True)
    return done.returncode, parse((folder / "outcome.json").read_bytes())


@pytest.mark.minio
def test_wrong_key(server: Server, tmp_path: Path) -> None:
    code, outcome = run_pod(tmp_path, server.endpoint, password="wrong-password")
    assert (code, outcome.reason) == (ExitCode.USER_ERROR, "AccessDenied")
    assert "credentialsSecretRef" in outcome.message


@pytest.mark.minio
def test_no_such_bucket(server: Server, tmp_path: Path) -> None:
    code, outcome = run_pod(tmp_path, server.endpoint, bucket="not-there")
    assert (code, outcome.reason) == (ExitCode.USER_ERROR, "BucketNotFound")
    assert "createBucket: true" in outcome.message


@pytest.mark.minio
def test_no_such_model(server: Server, tmp_path: Path) -> None:
    S3Store(config(server.endpoint), SHORT).ensure_bucket(create=True)
    code, outcome = run_pod(tmp_path, server.endpoint)
    assert (code, outcome.reason) == (ExitCode.USER_ERROR, "ModelNotFound")
    assert "spec.model.source, which personalize loads: there is no object below s3://runs/models/pipeline/" in (
        outcome.message
    )


def test_unreachable_endpoint(tmp_path: Path) -> None:
    code, outcome = run_pod(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert (code, outcome.reason) == (ExitCode.TRANSIENT, "EndpointUnreachable")
    assert "spec.artifacts.endpoint" in outcome.message
