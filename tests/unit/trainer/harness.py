"""Runs the real recipes on the tiny models over a local store: in this process, or as a gang of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from instructbooth.cli.ports import free_port
from instructbooth.contract import Env, Outcome, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.adapter import WEIGHTS
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import load_recipe, make_context
from tests.unit.trainer.tiny import TinyWorld

BUCKET = "runs"


def spec(**stages: dict[str, Any]) -> dict[str, Any]:
    """A job's spec for the tiny models; keyword arguments are merged into the stages' parts."""
    sampling = {"steps": 4, "guidanceScale": 1}
    prompts = {"inline": ["a {subject} on red", "a {subject} on blue", "a small {subject}", "the {subject}"]}
    parts: dict[str, dict[str, Any]] = {
        "model": {"source": {"s3": {"prefix": "models/pipeline"}}},
        "personalization": {
            "steps": 20,
            "batchSize": 2,
            "learningRate": 1e-3,
            "lora": {"rank": 4, "alpha": 4},
            "priorPreservation": {"numImages": 6, "sampling": sampling},
            "captionTemplates": ["a photo of a {subject}", "a {subject}"],
            "checkpointIntervalSteps": 7,
        },
        "reinforcement": {
            "prompts": prompts,
            "rewards": [{"name": "clip-score", "model": {"s3": {"prefix": "models/clip"}}}],
            "epochs": 5,
            "promptsPerEpoch": 3,
            "imagesPerPrompt": 4,
            "sampling": sampling,
            "timestepsPerTrajectory": 2,
            "batchSize": 4,
            "updatesPerEpoch": 4,
            "learningRate": 1e-3,
            "clipRange": 2e-4,
            "checkpointIntervalEpochs": 2,
        },
        "evaluation": {"prompts": prompts, "metrics": [{"name": "clip-score"}], "sampling": sampling},
    }
    for name, changes in stages.items():
        parts[name] |= changes
    return {
        "subject": {
            "images": {"s3": {"prefix": "subject"}},
            "identifier": "sks",
            "className": "mascot",
            "description": "striped star mascot",
        },
        "artifacts": {
            "endpoint": "http://localhost:9000",
            "bucket": BUCKET,
            "credentialsSecretRef": {"name": "unused"},
        },
        **parts,
    }


@dataclass
class Lab:
    """A local store with the tiny models in it."""

    root: Path
    world: TinyWorld
    runs: int = field(default=0)

    def __post_init__(self) -> None:
        bucket = self.root / BUCKET
        (bucket / "models").mkdir(parents=True)
        for name in ("pipeline", "clip", "vision"):
            (bucket / "models" / name).symlink_to(getattr(self.world, name))
        (bucket / "subject").mkdir()
        for number, image in enumerate(self.world.subject_images()):
            image.save(bucket / "subject" / f"{number}.png")

    def job(self, uid: str, **stages: dict[str, Any]) -> ResolvedJob:
        """A resolved job whose artifacts lie under `uid`."""
        return ResolvedJob.model_validate({"namespace": "test", "name": "tiny", "uid": uid, "spec": spec(**stages)})

    def run(self, job: ResolvedJob, stage: Stage, attempt: int = 1, nodes: int | None = None) -> Outcome:
        """Run a stage in this process; `nodes` are the attempt's where the stage has minNodes."""
        self.runs += 1
        workdir = self.root / f"work-{self.runs}"
        workdir.mkdir()
        pod = PodEnvironment(
            job, stage, attempt, _inputs(stage), 0, None, local=True, workdir=workdir, attempt_nodes=nodes
        )
        with self.environment():
            context = make_context(pod, StopFlag())
        return load_recipe(stage)(context)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """With this store in the process's environment."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(Env.STORE, str(self.root))
            yield

    def output(self, job: ResolvedJob, stage: Stage, attempt: int = 1) -> Path:
        """Folder of a stage's published output."""
        return self.root / BUCKET / "test" / "tiny" / job.uid / stage.value / str(attempt) / "output"

    @contextmanager
    def gang(
        self, job: ResolvedJob, stage: Stage, world_size: int = 2, attempt: int = 1, die_at: int | None = None
    ) -> Iterator[None]:
        """Meanwhile run a stage as processes that find each other over gloo, as torchrun would start them.

        With `die_at` the last rank is killed before the optimizer step of this number, and no rank may succeed.
        """
        self.runs += 1
        config = self.root / f"job-{self.runs}.json"
        config.write_text(job.model_dump_json(by_alias=True, exclude_none=True))
        env = {
            Env.CONFIG: str(config),
            Env.STAGE: stage.value,
            Env.ATTEMPT: str(attempt),
            Env.INPUTS: json.dumps({k.value: v for k, v in _inputs(stage).items()}),
            Env.STORE: str(self.root),
            Env.COORDINATOR: "127.0.0.1",
            "DIE_AT_UPDATE": str(die_at),
        }
        commands = [["instructbooth_trainer.runtime.worker"] for _ in range(world_size)]
        if die_at is None:
            with processes(self.root, commands, env, f"{self.runs}-"):
                yield
            return
        commands[-1] = ["tests.unit.trainer.dying_worker"]
        with processes(self.root, commands, env, f"{self.runs}-", all_end_by_a_kill):
            yield


def all_well(codes: list[int], logs: list[Path]) -> None:
    """What is expected of most gangs."""
    assert codes == [0] * len(codes), logs[0].read_text()[-4000:]


def all_end_by_a_kill(codes: list[int], logs: list[Path]) -> None:
    """The last process is killed, and the others end with it."""
    assert codes[-1] == -signal.SIGKILL, logs[-1].read_text()[-4000:]
    assert all(codes), logs[0].read_text()[-4000:]


@contextmanager
def processes(
    folder: Path,
    commands: Sequence[Sequence[str]],
    env: Mapping[str, str],
    prefix: str = "",
    expect: Callable[[list[int], list[Path]], None] = all_well,
) -> Iterator[None]:
    """Meanwhile run modules, with arguments, as ranks 0, 1, ... on one thread each; their logs lie in the folder."""
    port = free_port()
    started, logs = [], []
    for rank, module in enumerate(commands):
        environment = {
            **os.environ,
            **env,
            Env.NODE_RANK: str(rank),
            Env.TERMINATION_LOG: str(folder / f"termination-{prefix}{rank}"),
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(len(commands)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        log = folder / f"log-{prefix}{rank}.txt"
        logs.append(log)
        command = [sys.executable, "-m", *module]
        started.append(
            subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT, text=True)
        )
    try:
        yield
        expect([process.wait(timeout=1200) for process in started], logs)
    finally:
        for process in started:
            process.kill()
            process.wait()


def _inputs(stage: Stage) -> dict[Stage, int]:
    return {} if stage is Stage.PERSONALIZE else {Stage.PERSONALIZE: 1}


def published(lab: Lab, job: ResolvedJob, stage: Stage, attempt: int = 1) -> bytes:
    """The adapter's file, byte for byte."""
    return (lab.output(job, stage, attempt) / WEIGHTS).read_bytes()


def share_stage1(lab: Lab, source: ResolvedJob, job: ResolvedJob) -> ResolvedJob:
    """Let `job` find the first stage of `source` as its own."""
    folder = lab.output(job, Stage.PERSONALIZE).parent.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(lab.output(source, Stage.PERSONALIZE).parent.parent)
    return job
