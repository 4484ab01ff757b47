"""DreamBench small: a data set of two subjects -> manifests -> both jobs through all stages -> one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instructbooth_trainer.report.evaluation import Evaluation
from tests.unit.dreambench.layout import LIVE, OBJECT, make_data_set
from tests.unit.trainer.harness import spec
from tests.unit.trainer.tiny import make_tiny_world

SAMPLING = {"steps": 2, "guidanceScale": 1}
CLIP = {"s3": {"prefix": "models/clip"}}
METRICS = [
    {"name": "subject-identity", "model": {"s3": {"prefix": "models/vision"}}},
    {"name": "clip-i", "model": CLIP},
    {"name": "clip-score", "model": CLIP},
]


def instructbooth(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "instructbooth.cli.main", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, the tiny models, a base manifest and the manifests made of it."""
    root = tmp_path_factory.mktemp("dreambench")
    make_tiny_world(root / "models")
    make_data_set(root / "data")
    job = spec(
        personalization={"steps": 2, "priorPreservation": {"weight": 0, "numImages": 1}},
        reinforcement={
            "prompts": {"inline": ["the {subject}"]},
            "epochs": 1,
            "promptsPerEpoch": 1,
            "imagesPerPrompt": 2,
            "batchSize": 2,
            "updatesPerEpoch": 1,
            "sampling": {"steps": 3, "guidanceScale": 1},
        },
        evaluation={"metrics": METRICS, "imagesPerPrompt": 2, "sampling": SAMPLING},
    )
    job["subject"]["images"] = {"s3": {"prefix": "dreambench"}}
    base = {"apiVersion": "instructbooth.io/v1alpha1", "kind": "InstructBoothJob", "metadata": {"name": "bench"}}
    (root / "base.yaml").write_text(yaml.safe_dump({**base, "spec": job}))
    (root / "descriptions.yaml").write_text("star_toy: striped star mascot\ndog2: small striped dog\n")
    words = ["dreambench", "manifests", "--dataset", root / "data", "--base", root / "base.yaml"]
    done = instructbooth(*words, "--descriptions", root / "descriptions.yaml", "--out", root / "jobs")
    assert done.returncode == 0, done.stderr
    return root


def run(root: Path, subject: str, name: str) -> None:
    words = ["run", "-f", root / "jobs" / f"{name}.yaml", "--out", root / "out", "--cpu"]
    words += ["--images", root / "data/dataset" / subject, "--model", root / "models/pipeline"]
    words += ["--model", f"models/clip={root / 'models/clip'}", "--model", f"models/vision={root / 'models/vision'}"]
    done = instructbooth(*words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_from_the_data_set_to_the_table(root):
    words = [
        "dreambench",
        "collect",
        "--manifests",
        root / "jobs",
        "--store",
        root / "out/store",
        "--out",
        root / "table",
    ]
    run(root, "star_toy", "bench-star-toy")
    first = Evaluation.model_validate_json((root / "out/evaluate/evaluation.json").read_text())
    half = instructbooth(*words)
    assert half.returncode == 1
    assert "bench-dog2: no trace of it" in half.stdout
    assert "1 of 2 jobs are not in the table" in half.stderr

    run(root, "dog2", "bench-dog2")
    second = Evaluation.model_validate_json((root / "out/evaluate/evaluation.json").read_text())
    assert [prompt.judged for prompt in second.prompts] == [f"a small striped dog {end}" for end in LIVE]
    assert [prompt.judged for prompt in first.prompts] == [f"a striped star mascot {end}" for end in OBJECT]
    done = instructbooth(*words)
    assert done.returncode == 0, done.stderr
    table = json.loads((root / "table/dreambench.json").read_text())
    assert table["absent"] == {}
    for model in ("base", "personalized", "reinforced"):
        for metric in ("subject-identity", "clip-i", "clip-score"):
            means = [found.summary[model][metric].mean for found in (first, second)]
            over = table["summary"][model][metric]
            assert over["mean"] == pytest.approx(sum(means) / 2)
            assert (over["low"], over["high"]) == pytest.approx((min(means), max(means)))
            assert f"{over['mean']:.3f} [" in done.stdout
    assert "- `clip-i`: CLIP, 2 layers of width 32, patch 8; object storage, models/clip" in done.stdout
    assert (root / "table/dreambench.csv").read_text().count("\n") == 1 + 3 * 3 * 3
