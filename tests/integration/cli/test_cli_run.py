"""`run` on real (tiny, random) models: three stages, a gang of two, stopped in the middle and gone on with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.trainer.harness import spec
from tests.unit.trainer.tiny import make_tiny_world

SAMPLING = {"steps": 3, "guidanceScale": 1}
CLIP = [{"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest for a cluster, and the folders that stand for what it takes from there."""
    root = tmp_path_factory.mktemp("run")
    world = make_tiny_world(root / "models")
    (root / "pictures").mkdir()
    for number, image in enumerate(world.subject_images()):
        image.save(root / "pictures" / f"{number}.png")
    (root / "prompts").mkdir()
    (root / "prompts" / "held.txt").write_text("a {subject} on red\n")
    job = spec(
        personalization={"steps": 4, "checkpointIntervalSteps": 2, "priorPreservation": {"weight": 0, "numImages": 1}},
        reinforcement={"nodes": 2, "epochs": 12, "promptsPerEpoch": 2, "checkpointIntervalEpochs": 1},
        evaluation={
            "prompts": {"configMap": {"name": "held", "key": "held.txt"}},
            "metrics": CLIP,
            "imagesPerPrompt": 1,
            "sampling": SAMPLING,
        },
    )
    job["subject"]["images"] = {"configMap": {"name": "pictures"}}
    job["model"]["source"] = {"pvc": {"claimName": "models", "path": "pipeline"}}
    manifest = {"apiVersion": "instructbooth.io/v1alpha1", "kind": "InstructBoothJob", "metadata": {"name": "tiny"}}
    (root / "job.yaml").write_text(yaml.safe_dump({**manifest, "spec": job}))
    return root


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "instructbooth.cli.main", "run", "-f", str(folder / "job.yaml")]
    command += ["--out", str(folder / "out"), "--images", str(folder / "pictures"), "--verbose"]
    command += ["--prompts", str(folder / "prompts"), "--model", f"models/clip={folder / 'models/clip'}"]
    command += ["--volume", f"models={folder / 'models'}"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # A shell that starts the suite in the background lets it ignore SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def read_until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Lines up to the one that matches, or all to the end."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            break
    return lines


def test_stopped_in_the_middle_it_goes_on_from_there(folder):
    first = start(folder)
    before = read_until(first, r"reinforce: 1/12 epochs")
    assert first.poll() is None, "".join(before)
    first.send_signal(signal.SIGINT)
    after = "".join(read_until(first, "never"))
    assert first.wait(200) == 130, after
    assert "goes on from the last checkpoint" in after

    second = start(folder)
    lines = "".join(read_until(second, "never"))
    assert second.wait(60) == 0, lines
    assert "personalize, attempt" not in lines
    assert "reinforce, attempt 2" in lines
    assert re.search(r"reinforce: going on from step \d+ of attempt 1", lines)
    assert "reinforce: 12/12 epochs" in lines
    out = folder / "out"
    for stage in ("personalize", "reinforce"):
        assert (out / stage / "pytorch_lora_weights.safetensors").is_file()
    assert (out / "evaluate" / "report.html").is_file()
    assert re.search(r"^reinforced +-?\d\.\d{3}$", lines, re.MULTILINE)
    for process in (first, second):
        assert process.stdout is not None
        process.stdout.close()
