"""Attempts, inputs and retries of a local run; what its progress looks like."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from instructbooth.artifacts.commit import commit
from instructbooth.cli import local
from instructbooth.cli.gang import GangEnd, GangSpec, environment
from instructbooth.cli.local import LocalRun
from instructbooth.cli.main import cli
from instructbooth.cli.output import CliError
from instructbooth.cli.progress import StageProgress, Step, parse_line
from instructbooth.contract import Env, ExitCode, Outcome, Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.runtime.progress import ProgressReporter, RunLabels
from tests.unit.spec.examples import demo


class Trainers:
    """Stands for the gangs: ends each as the script says, and commits what a trainer that succeeds commits."""

    def __init__(self, run: LocalRun, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.codes: list[int] = []
        self.specs: list[GangSpec] = []

    def __call__(self, spec: GangSpec, shown: StageProgress) -> GangEnd:
        self.specs.append(spec)
        spec.log(0).write_text("line\n")
        code = self.codes.pop(0) if self.codes else ExitCode.OK
        if code == ExitCode.OK:
            commit(self.run.bucket, self.folder, self.run.layout.output(spec.stage, spec.attempt))
        return GangEnd(0, code, Outcome("Because", "it was so"))

    @property
    def attempts(self) -> list[tuple[str, int]]:
        return [(spec.stage.value, spec.attempt) for spec in self.specs]


@contextmanager
def quiet(stage: Stage, attempt: int) -> Iterator[StageProgress]:
    yield StageProgress(None, None, stage, verbose=False)


@pytest.fixture
def trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainers:
    job: dict[str, Any] = {"namespace": "local", "name": "demo", "uid": "u", "spec": demo()["spec"]}
    run = LocalRun(ResolvedJob.model_validate(job), tmp_path / "store", tmp_path / "logs", quiet)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x.json").write_text("{}")
    stand_in = Trainers(run, tmp_path / "made")
    monkeypatch.setattr(local, "_run_gang", stand_in)
    return stand_in


def test_stages_run_in_order_each_with_the_attempts_before_it(trainers):
    trainers.codes = [0, 1, 0]
    assert trainers.run.run() == {Stage.PERSONALIZE: 1, Stage.REINFORCE: 2, Stage.EVALUATE: 1}
    assert trainers.attempts == [("personalize", 1), ("reinforce", 1), ("reinforce", 2), ("evaluate", 1)]
    assert trainers.specs[-1].inputs == {Stage.PERSONALIZE: 1, Stage.REINFORCE: 2}
    assert [spec.nodes for spec in trainers.specs] == [1, 2, 2, 1]


def test_second_run_does_only_what_is_not_done(trainers):
    trainers.codes = [0, ExitCode.USER_ERROR]
    with pytest.raises(CliError, match="reinforce, attempt 1, node 0, exit code 64: Because: it was so"):
        trainers.run.run()
    trainers.run.run()
    assert trainers.attempts == [("personalize", 1), ("reinforce", 1), ("reinforce", 2), ("evaluate", 1)]
    trainers.run.run()
    assert len(trainers.attempts) == 4


def test_the_users_mistake_is_not_tried_again(trainers):
    trainers.codes = [ExitCode.USER_ERROR]
    with pytest.raises(CliError):
        trainers.run.run()
    assert len(trainers.attempts) == 1


def test_failures_are_tried_again_up_to_the_limit(trainers):
    trainers.codes = [ExitCode.TRANSIENT] * 10
    with pytest.raises(CliError, match=r"attempt 4(?s:.*)\| line"):  # with the log's last lines
        trainers.run.run()
    assert trainers.attempts == [("personalize", n) for n in (1, 2, 3, 4)]  # backoffLimit is 3


def test_torn_output_is_no_output(trainers):
    run = trainers.run
    run.bucket.put_bytes(run.layout.output(Stage.PERSONALIZE, 1) + "x.json", b"{}")  # its manifest never came
    assert run.committed(Stage.PERSONALIZE) is None
    assert run.next_attempt(Stage.PERSONALIZE) == 2


def test_checkpoints_are_no_output(trainers):
    run = trainers.run
    run.bucket.put_bytes(run.layout.checkpoint(Stage.REINFORCE, 9, 3) + "manifest.json", b"{}")
    assert run.committed(Stage.REINFORCE) is None
    assert run.next_attempt(Stage.REINFORCE) == 10


def test_one_run_at_a_time(trainers, tmp_path):
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs" / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # even one that only shares keeps us out
        with pytest.raises(BlockingIOError):
            trainers.run.run()
    trainers.run.run()


def test_environment_is_the_operators(trainers, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trainers.run.run()
    env = environment(trainers.specs[1], 1, 4711)
    assert env[Env.STAGE] == "reinforce"
    assert env[Env.INPUTS] == '{"personalize": 1}'
    assert (env[Env.NODE_RANK], env["MASTER_PORT"], env[Env.COORDINATOR]) == ("1", "4711", "127.0.0.1")
    assert env[Env.STORE] == str(tmp_path / "store")
    assert int(env["OMP_NUM_THREADS"]) >= 1
    assert "KUBERNETES_SERVICE_HOST" not in env


def test_the_trainers_own_line_is_understood(caplog):
    now = iter(range(100, 10_000, 10))
    with caplog.at_level(logging.INFO):
        reporter = ProgressReporter(RunLabels("ns", "demo", Stage.REINFORCE), now=lambda: next(now))
        reporter.start(40, "epochs")
        reporter.update(3, reward=0.5)
    lines = [parse_line(f"08:00:00 [0] I {r.name}: {r.getMessage()}") for r in caplog.records]
    assert len(lines) == 1
    assert lines[0] is not None
    assert (lines[0].step, lines[0].total, lines[0].unit) == (3, 40, "epochs")
    assert "left" in lines[0].rest
    assert "reward 0.5" in lines[0].rest


@pytest.mark.parametrize("line", ["", "08:00:00 [0] I x: saved 3/40 epochs", "x: reinforce: 3/40 epochs and more"])
def test_other_lines_are_not_progress(line):
    assert parse_line(line) is None


def test_line_without_eta():
    assert parse_line("x: evaluate: 1/24 pictures") == Step(1, 24, "pictures", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "a", "--model", "b"], "one base model, not 2"),
        (["--model", "a=/nowhere"], "/nowhere is not a folder"),
        (["--volume", "claim"], "NAME=FOLDER is expected"),
        (["--images", "EMPTY"], "holds no picture"),
    ],
)
def test_options_that_cannot_be(options, words, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    options = [str(tmp_path / text) if text == "EMPTY" else text for text in options]
    result = CliRunner().invoke(cli, ["run", "-f", "examples/demo/job.yaml", "--out", str(tmp_path / "o"), *options])
    assert result.exit_code != 0
    assert words in result.stderr


def test_gpus_of_two_nodes_cannot_be_shared(tmp_path):
    example = "examples/stable-diffusion/sd15-2x8gpu.yaml"
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("train", "validation", "heldout"):
        (tmp_path / f"{name}.txt").write_text("a {subject}")
    args = ["run", "-f", example, "--out", str(tmp_path / "o"), "--images", str(tmp_path / "pics")]
    result = CliRunner().invoke(cli, [*args, "--prompts", str(tmp_path)])
    assert result.exit_code == 1
    assert "2 nodes of 8 GPUs would share" in result.stderr
    assert "--nodes 1" in result.stderr
