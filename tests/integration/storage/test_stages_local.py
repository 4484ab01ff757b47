"""All three stages as pods run them (`instructbooth-trainer`, environment only), on the tiny model, over a local store.

One reinforcement is left alone, the other is killed in the middle and goes on: their LoRAs are equal, bit for bit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from instructbooth.artifacts.commit import fetch
from instructbooth.artifacts.local import LocalStore
from instructbooth.cli.ports import free_port
from instructbooth.contract import Env, ExitCode, Outcome, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.report.evaluation import Evaluation, mean_of
from instructbooth_trainer.runtime.outcome import parse
from tests.unit.trainer.harness import BUCKET, Lab
from tests.unit.trainer.tiny import TinyWorld, make_tiny_world

PATIENCE = 900
LORA = "pytorch_lora_weights.safetensors"


@dataclass
class Cluster:
    """Starts stages as gangs of pods, each pod a process group that can be killed like a container."""

    lab: Lab
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, job: ResolvedJob, stage: Stage, attempt: int = 1, **env: str) -> list[subprocess.Popen[bytes]]:
        port = free_port()
        config = self.lab.root / f"{job.uid}.json"
        config.write_text(json.dumps(job.to_wire()))
        pods = []
        for node in range(job.spec.stage(stage).nodes):
            environment = {
                **os.environ,
                Env.CONFIG: str(config),
                Env.STAGE: stage.value,
                Env.ATTEMPT: str(attempt),
                Env.INPUTS: json.dumps({"personalize": 1, "reinforce": 1}),
                Env.COORDINATOR: "localhost",
                Env.NODE_RANK: str(node),
                Env.STORE: f"file://{self.lab.root}",
                Env.TERMINATION_LOG: str(self.termination_log(job, stage, attempt, node)),
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                **env,
            }
            with self.log(job, stage, attempt, node).open("wb") as log:
                command = [sys.executable, "-m", "instructbooth_trainer.main"]
                pods.append(
                    subprocess.Popen(
                        command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                    )
                )
        self.children += pods
        return pods

    def run(self, job: ResolvedJob, stage: Stage, attempt: int = 1) -> Outcome:
        codes = [pod.wait(PATIENCE) for pod in self.start(job, stage, attempt)]
        assert set(codes) == {0}, self.log(job, stage, attempt, 0).read_text()[-4000:]
        return self.outcome(job, stage, attempt, 0)

    def outcome(self, job: ResolvedJob, stage: Stage, attempt: int, node: int) -> Outcome:
        return parse(self.termination_log(job, stage, attempt, node).read_bytes())

    def termination_log(self, job: ResolvedJob, stage: Stage, attempt: int, node: int) -> Path:
        return self.lab.root / f"{job.uid}-{stage.value}-{attempt}-{node}.json"

    def log(self, job: ResolvedJob, stage: Stage, attempt: int, node: int) -> Path:
        return self.lab.root / f"{job.uid}-{stage.value}-{attempt}-{node}.log"


STAGES: dict[str, dict[str, Any]] = {
    "reinforcement": {"nodes": 2, "epochs": 6, "checkpointIntervalEpochs": 2},
    "evaluation": {
        "nodes": 2,
        "imagesPerPrompt": 2,
        "metrics": [
            {"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}},
            {"name": "subject-identity", "model": {"s3": {"prefix": "models/vision"}}},
        ],
    },
}


@dataclass
class Story:
    """What happened: the undisturbed job, and how its reinforcement was repeated with a kill."""

    cluster: Cluster
    world: TinyWorld
    calm: ResolvedJob
    rough: ResolvedJob
    outcomes: dict[Stage, Outcome]
    kill_codes: list[int]
    folder: Path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Any:
    world = make_tiny_world(tmp_path_factory.mktemp("tiny"))
    lab = Lab(tmp_path_factory.mktemp("lab"), world)
    cluster = Cluster(lab)
    calm, rough = lab.job("calm", **STAGES), lab.job("rough", **STAGES)
    try:
        outcomes = {stage: cluster.run(calm, stage) for stage in Stage}
        # The same personalization, so that the two reinforcements have one beginning.
        target = lab.output(rough, Stage.PERSONALIZE)
        target.parent.mkdir(parents=True)
        target.symlink_to(lab.output(calm, Stage.PERSONALIZE))
        pods = cluster.start(rough, Stage.REINFORCE, 1)
        checkpoints = lab.root / BUCKET / "test/tiny/rough/reinforce/1/checkpoints"
        deadline = time.monotonic() + PATIENCE
        while not list(checkpoints.glob("*/manifest.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)  # into the next epoch, whose work is lost
        os.killpg(pods[1].pid, signal.SIGKILL)
        codes = [pod.wait(PATIENCE) for pod in pods]
        cluster.run(rough, Stage.REINFORCE, 2)
        folder = tmp_path_factory.mktemp("fetched") / "evaluation"
        fetch(LocalStore(lab.root, BUCKET), "test/tiny/calm/evaluate/1/output/", folder)
        yield Story(cluster, world, calm, rough, outcomes, codes, folder)
    finally:
        for child in cluster.children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def test_every_stage_completes_and_says_where_its_artifact_is(story: Story) -> None:
    assert {o.reason for o in story.outcomes.values()} == {"Completed"}
    root = story.cluster.lab.root / BUCKET
    for stage, outcome in story.outcomes.items():
        assert outcome.artifact == f"file://{root}/test/tiny/calm/{stage.value}/1/output/"
    assert set(story.outcomes[Stage.EVALUATE].metrics) == {
        f"{model}/{metric}"
        for model in ("base", "personalized", "reinforced")
        for metric in ("clip-score", "subject-identity", "fidelity")
    }


def test_reinforce_ran_as_one_gang_of_two(story: Story) -> None:
    for node in (0, 1):
        log = story.cluster.log(story.calm, Stage.REINFORCE, 1, node).read_text()
        assert f"process {node + 1} of 2" in log


def test_a_reinforcement_killed_in_the_middle_ends_bit_for_bit_like_an_undisturbed_one(story: Story) -> None:
    assert story.kill_codes == [ExitCode.TRANSIENT, -signal.SIGKILL]
    assert story.cluster.outcome(story.rough, Stage.REINFORCE, 1, 0).reason == "PeerLost"
    lab = story.cluster.lab
    assert not lab.output(story.rough, Stage.REINFORCE, 1).exists()
    log = story.cluster.log(story.rough, Stage.REINFORCE, 2, 0).read_text()
    assert "of attempt 1" in log, log
    calm = (lab.output(story.calm, Stage.REINFORCE) / LORA).read_bytes()
    assert (lab.output(story.rough, Stage.REINFORCE, 2) / LORA).read_bytes() == calm
    assert (lab.output(story.calm, Stage.PERSONALIZE) / LORA).read_bytes() != calm


def test_the_summary_is_the_mean_of_the_pictures_and_seeds_are_equal(story: Story) -> None:
    evaluation = Evaluation.model_validate_json((story.folder / "evaluation.json").read_text())
    assert len(evaluation.pictures) == 3 * 4 * 2
    for model, row in evaluation.summary.items():
        for metric, mean in row.items():
            plain = mean_of([p.scores[metric] for p in evaluation.pictures if p.model == model])
            assert mean == plain.model_copy(update={"low": mean.low, "high": mean.high})
            assert mean.n == 8
            assert mean.low is not None
            assert mean.high is not None
            assert mean.low < mean.mean < mean.high
    assert evaluation.scorers["clip-score"].source == "object storage, models/clip"
    assert evaluation.scorers["clip-score"].backbone == "CLIP, 2 layers of width 32, patch 8"
    card = (story.folder / "README.md").read_text()
    assert str(evaluation.summary["reinforced"]["clip-score"]) in card
    assert "CLIP, 2 layers of width 32, patch 8; object storage, models/clip" in card
    seeds = {m: [p.seed for p in evaluation.pictures if p.model == m] for m in evaluation.summary}
    assert seeds["base"] == seeds["personalized"] == seeds["reinforced"]
    assert len(set(seeds["base"])) == 8
    prompts = {m: {p.prompt for p in evaluation.pictures if p.model == m} for m in evaluation.summary}
    assert all("sks" in p for p in prompts["personalized"] | prompts["reinforced"])
    assert not any("sks" in p for p in prompts["base"] | {p.judged for p in evaluation.prompts})


class Tags(HTMLParser):
    """Collects what a page refers to, and that its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "img", "line", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_the_page_stands_alone_and_the_sheet_shows_every_prompt(story: Story) -> None:
    page = (story.folder / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert [s[:22] for s in tags.sources] == ["data:image/png;base64,"]
    assert tags.seen.count("svg") == 3
    assert "$" not in page.split("</style>")[1]
    assert "a striped star mascot on red" in page
    with Image.open(story.folder / "contact-sheet.png") as sheet:
        assert sheet.height > 4 * 96
        assert sheet.width > 3 * 2 * 96


@pytest.mark.parametrize(("number", "stage"), [(0, None), (10, Stage.PERSONALIZE), (23, Stage.REINFORCE)])
def test_a_fresh_process_draws_a_picture_again_exactly(story: Story, number: int, stage: Stage | None) -> None:
    command = [sys.executable, "-m", "instructbooth_trainer.redraw", "--model", str(story.world.pipeline)]
    command += ["--evaluation", str(story.folder / "evaluation.json"), "--picture", str(number)]
    if stage is not None:
        command += ["--lora", str(story.cluster.lab.output(story.calm, stage))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 1024 pixels differ" in done.stdout


def test_another_adapter_draws_another_picture(story: Story) -> None:
    """The comparison above can fail."""
    command = [sys.executable, "-m", "instructbooth_trainer.redraw", "--model", str(story.world.pipeline)]
    command += ["--evaluation", str(story.folder / "evaluation.json"), "--picture", "23"]
    command += ["--lora", str(story.cluster.lab.output(story.calm, Stage.PERSONALIZE))]
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 1
