"""A killed evaluation goes on from what it has kept: no picture is drawn twice, all are equal."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from instructbooth.artifacts.layout import parse_part_manifest
from instructbooth.contract import ExitCode, Stage
from instructbooth.spec.job import ResolvedJob
from tests.integration.storage.test_stages_local import PATIENCE, Cluster
from tests.unit.trainer.harness import BUCKET, Lab
from tests.unit.trainer.tiny import make_tiny_world

PROMPTS, MODELS, IMAGES = 4, ("base", "personalized", "reinforced"), 3
STAGES: dict[str, dict[str, Any]] = {
    "personalization": {"steps": 2},
    "reinforcement": {"epochs": 1, "promptsPerEpoch": 1, "updatesPerEpoch": 1},
    "evaluation": {
        "imagesPerPrompt": IMAGES,
        "sampling": {"steps": 12, "guidanceScale": 2},
        "metrics": [
            {"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}},
            {"name": "subject-identity", "model": {"s3": {"prefix": "models/vision"}}},
        ],
    },
}


def parts(cluster: Cluster, job: ResolvedJob) -> dict[tuple[str, int], int]:
    """The parts that are kept: (model, prompt) -> attempt. Fails if one is there twice."""
    root = cluster.lab.root / BUCKET
    found = [parse_part_manifest(f"/{p.relative_to(root)}") for p in root.glob(f"test/tiny/{job.uid}/**/manifest.json")]
    refs = [ref for ref in found if ref is not None]
    out = {(model, prompt): attempt for attempt, model, prompt in refs}
    assert len(out) == len(refs), "a part was drawn twice"
    return out


def drawn(cluster: Cluster, job: ResolvedJob, attempt: int) -> list[tuple[str, int]]:
    """The parts that an attempt says it has drawn."""
    text = cluster.log(job, Stage.EVALUATE, attempt, 0).read_text()
    lines = re.findall(rf"(\w+) model, prompt (\d+) of {PROMPTS}: {IMAGES} pictures drawn", text)
    return [(model, int(number) - 1) for model, number in lines]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    world = make_tiny_world(tmp_path_factory.mktemp("tiny"))
    cluster = Cluster(Lab(tmp_path_factory.mktemp("lab"), world))
    try:
        yield cluster
    finally:
        for child in cluster.children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


@pytest.fixture(scope="module")
def calm(cluster: Cluster) -> ResolvedJob:
    """A job that nobody disturbed."""
    job = cluster.lab.job("calm", **STAGES)
    for stage in Stage:
        cluster.run(job, stage)
    return job


def prepared(cluster: Cluster, calm: ResolvedJob, uid: str) -> ResolvedJob:
    """A job with the adapters of the calm one."""
    job = cluster.lab.job(uid, **STAGES)
    for stage in (Stage.PERSONALIZE, Stage.REINFORCE):
        target = cluster.lab.output(job, stage)
        target.parent.mkdir(parents=True)
        target.symlink_to(cluster.lab.output(calm, stage))
    return job


def stop_after(cluster: Cluster, job: ResolvedJob, count: int, signum: signal.Signals) -> int:
    """Start the evaluation, end it once `count` parts are kept; returns the exit code."""
    (pod,) = cluster.start(job, Stage.EVALUATE, 1)
    deadline = time.monotonic() + PATIENCE
    while len(parts(cluster, job)) < count and time.monotonic() < deadline:
        assert pod.poll() is None, cluster.log(job, Stage.EVALUATE, 1, 0).read_text()[-4000:]
        time.sleep(0.002)
    os.killpg(pod.pid, signum)
    return pod.wait(PATIENCE)


def content(folder: Path) -> dict[str, object]:
    """What an evaluation made, without what names the job."""
    record = json.loads((folder / "evaluation.json").read_text())
    assert record.pop("uid")
    pngs = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    assert len(pngs) == len(MODELS) * PROMPTS * IMAGES + 1
    return {"record": record, **pngs}


@pytest.mark.parametrize(
    ("count", "signum", "code"), [(6, signal.SIGKILL, -signal.SIGKILL), (2, signal.SIGTERM, ExitCode.CHECKPOINTED)]
)
def test_nothing_is_drawn_twice_and_the_result_is_equal(cluster, calm, count, signum, code):
    job = prepared(cluster, calm, f"rough-{count}")
    assert stop_after(cluster, job, count, signum) == code
    kept = parts(cluster, job)
    assert count <= len(kept) < len(MODELS) * PROMPTS
    assert not cluster.lab.output(job, Stage.EVALUATE, 1).exists()
    cluster.run(job, Stage.EVALUATE, 2)
    every = {(model, prompt) for model in MODELS for prompt in range(PROMPTS)}
    again = drawn(cluster, job, 2)
    assert sorted(again) == sorted(every - set(kept))
    assert set(parts(cluster, job)) == every
    assert f"{len(kept)} parts of earlier attempts are there" in cluster.log(job, Stage.EVALUATE, 2, 0).read_text()
    assert content(cluster.lab.output(job, Stage.EVALUATE, 2)) == content(cluster.lab.output(calm, Stage.EVALUATE))


def test_a_damaged_part_is_drawn_again(cluster, calm):
    job = prepared(cluster, calm, "damaged")
    source = cluster.lab.root / BUCKET / "test/tiny/calm/evaluate/1/parts"
    target = cluster.lab.root / BUCKET / "test/tiny/damaged/evaluate/1/parts"
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (target / "personalized/002/pictures/personalized/002-1.png").write_bytes(b"no picture")
    cluster.run(job, Stage.EVALUATE, 2)
    assert drawn(cluster, job, 2) == [("personalized", 2)]
    assert content(cluster.lab.output(job, Stage.EVALUATE, 2)) == content(cluster.lab.output(calm, Stage.EVALUATE))
