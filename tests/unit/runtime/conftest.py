"""A small job, and gangs of real processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from instructbooth.cli.ports import free_port
from instructbooth.contract import Env, Outcome, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.runtime.outcome import parse

ROOT = Path(__file__).parents[3]
STUB = ("tests.unit.runtime.stub_trainer", "launch")
PATIENCE = 900  # seconds after which a gang is taken for hanging


def job_spec(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "subject": {"images": {"configMap": {"name": "pictures"}}, "identifier": "sks", "className": "dog"},
        "model": {"source": {"s3": {"prefix": "models/tiny"}}},
        "personalization": {},
        "reinforcement": {"prompts": {"inline": ["a {subject}"]}, "rewards": [{"name": "clip-score"}]},
        "evaluation": {"prompts": {"inline": ["a red {subject}"]}, "metrics": [{"name": "clip-score"}]},
        "artifacts": {"endpoint": "http://s3.test", "bucket": "runs", "credentialsSecretRef": {"name": "s3"}},
    }
    return {key: {**spec[key], **changes.get(key, {})} for key in spec}


@pytest.fixture
def make_job() -> Callable[..., ResolvedJob]:
    def make(**changes: Any) -> ResolvedJob:
        return ResolvedJob.model_validate(
            {"namespace": "team", "name": "rex", "uid": "u-1", "spec": job_spec(**changes)}
        )

    return make


@dataclass
class Pod:
    """One running pod's first process."""

    process: subprocess.Popen[bytes]
    log: Path
    termination_log: Path

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs:\n{self.log.read_text()}") from None

    def children(self) -> list[int]:
        """The pids of its training processes."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self) -> None:
        """End it and its training processes, whatever they do."""
        if self.process.poll() is None:
            for pid in (*self.children(), self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def outcome(self) -> Outcome:
        return parse(self.termination_log.read_bytes())


@dataclass
class GangRunner:
    """Starts gangs of stub trainers over one local store."""

    folder: Path
    job: ResolvedJob
    pods: list[Pod] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(
        self, mode: str, *, nodes: int, attempt: int = 1, command: tuple[str, ...] = STUB, **env: str
    ) -> list[Pod]:
        """`mode` is what the stub does; see stub_trainer.py. `command`: the module to run and its arguments."""
        config = self.folder / "job.json"
        config.write_text(json.dumps(self.job.to_wire()))
        port = str(free_port())
        started = []
        for node in range(nodes):
            name = self.folder / f"{attempt}-{node}"
            environment = {
                **os.environ,
                Env.CONFIG: str(config),
                Env.STAGE: Stage.REINFORCE.value,
                Env.ATTEMPT: str(attempt),
                Env.COORDINATOR: "localhost",
                Env.NODE_RANK: str(node),
                Env.STORE: str(self.store),
                Env.TERMINATION_LOG: f"{name}.json",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
                "STUB_MODE": mode,
                **env,
            }
            with open(f"{name}.log", "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            started.append(Pod(process, Path(f"{name}.log"), Path(f"{name}.json")))
        self.pods += started
        return started

    def run(self, mode: str, *, nodes: int, attempt: int = 1, **env: str) -> list[int]:
        """Exit codes by node."""
        return [pod.wait() for pod in self.start(mode, nodes=nodes, attempt=attempt, command=STUB, **env)]


@pytest.fixture
def make_gang(tmp_path: Path, make_job: Callable[..., ResolvedJob]) -> Iterator[Callable[..., GangRunner]]:
    made: list[GangRunner] = []

    def make(name: str = "gang", **changes: Any) -> GangRunner:
        folder = tmp_path / name
        folder.mkdir()
        made.append(GangRunner(folder, make_job(**changes)))
        return made[-1]

    yield make
    for gang in made:
        for pod in gang.pods:
            pod.kill()
