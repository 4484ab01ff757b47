"""An evaluation's parts in one process; the real kill is in tests/integration/storage/test_evaluation_resumes.py."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from instructbooth.artifacts.commit import commit, fetch
from instructbooth.artifacts.errors import StorageUnavailable
from instructbooth.artifacts.local import LocalStore
from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.recipes import evaluate, evaluation_parts
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import make_context
from tests.unit.trainer.harness import BUCKET, Lab, share_stage1

METRICS = [{"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}}]
EVALUATION = {
    "prompts": {"inline": ["a {subject} on red", "a small {subject}"]},
    "imagesPerPrompt": 2,
    "sampling": {"steps": 2, "guidanceScale": 1},
    "metrics": METRICS,
}


@pytest.fixture
def job(lab: Lab, personalized: ResolvedJob, request: pytest.FixtureRequest) -> ResolvedJob:
    """A job whose two adapters are the same one."""
    made = share_stage1(lab, personalized, lab.job(f"parts-{abs(hash(request.node.name))}", evaluation=EVALUATION))
    reinforced = lab.output(made, Stage.REINFORCE)
    reinforced.parent.mkdir(parents=True)
    reinforced.symlink_to(lab.output(made, Stage.PERSONALIZE))
    return made


def attempt(lab: Lab, job: ResolvedJob, number: int) -> Path:
    """Run an attempt of the evaluation; returns its output."""
    workdir = lab.root / f"{job.uid}-{number}"
    workdir.mkdir()
    inputs = {Stage.PERSONALIZE: 1, Stage.REINFORCE: 1}
    pod = PodEnvironment(job, Stage.EVALUATE, number, inputs, 0, None, local=True, workdir=workdir)
    with lab.environment():
        context = make_context(pod, StopFlag())
    evaluate.run(context)
    return lab.output(job, Stage.EVALUATE, number)


def parts(lab: Lab, job: ResolvedJob, number: int) -> set[str]:
    root = lab.root / BUCKET / "test" / "tiny" / job.uid / "evaluate" / str(number) / "parts"
    return {path.parent.relative_to(root).as_posix() for path in root.rglob("manifest.json")}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_is_not_drawn_again_and_the_output_is_the_same(lab, job, monkeypatch, caplog):
    calm = content(attempt(lab, job, 3))
    assert len(parts(lab, job, 3)) == 6
    keep = evaluation_parts.Parts.keep
    calls: list[tuple[str, int]] = []

    def dying(self, key, pictures, pngs):
        if len(calls) == 3:
            raise StorageUnavailable("the plug is pulled")
        calls.append(key)
        keep(self, key, pictures, pngs)

    monkeypatch.setattr(evaluation_parts.Parts, "keep", dying)
    with pytest.raises(StorageUnavailable):
        attempt(lab, job, 1)  # it must not look at what attempt 3 made
    assert parts(lab, job, 1) == {"base/000", "base/001", "personalized/000"}
    assert not lab.output(job, Stage.EVALUATE, 1).exists()
    monkeypatch.undo()
    with caplog.at_level(logging.INFO):
        again = content(attempt(lab, job, 2))
    assert parts(lab, job, 2) == {"personalized/001", "reinforced/000", "reinforced/001"}
    assert again == calm
    assert "3 parts of earlier attempts are there" in caplog.text
    record = json.loads(again["evaluation.json"])
    assert record["scorers"] == {
        "clip-score": {"backbone": "CLIP, 2 layers of width 32, patch 8", "source": "object storage, models/clip"}
    }
    mean = record["summary"]["base"]["clip-score"]
    assert mean["low"] <= mean["mean"] <= mean["high"]
    assert b"CLIP, 2 layers of width 32, patch 8; object storage, models/clip" in again["README.md"]
    assert b"CLIP, 2 layers of width 32, patch 8; object storage, models/clip" in again["report.html"]


def test_a_damaged_part_and_one_drawn_otherwise_are_drawn_anew(lab, job, caplog):
    calm = content(attempt(lab, job, 1))
    folder = lab.root / BUCKET / "test" / "tiny" / job.uid / "evaluate" / "1" / "parts"
    (folder / "base/001/pictures/base/001-1.png").write_bytes(b"no picture")
    other = json.loads((folder / "reinforced/000/part.json").read_text())
    other["drawing"]["threads"] += 1
    fresh = lab.root / f"{job.uid}-other"
    fetch(_store(lab), f"test/tiny/{job.uid}/evaluate/1/parts/reinforced/000/", fresh)
    (fresh / "part.json").write_text(json.dumps(other))
    commit(_store(lab), fresh, f"test/tiny/{job.uid}/evaluate/1/parts/reinforced/000/")
    with caplog.at_level(logging.WARNING):
        assert content(attempt(lab, job, 2)) == calm
    assert parts(lab, job, 2) == {"base/001", "reinforced/000"}
    assert "sha256" in caplog.text or "bytes" in caplog.text
    assert "on another machine, or otherwise than now" in caplog.text


def _store(lab: Lab) -> LocalStore:
    return LocalStore(lab.root, BUCKET)
