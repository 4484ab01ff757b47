"""Gangs of real processes: exit codes travel, the dead take no hostage, a resumed run ends bit for bit alike."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructbooth.contract import ExitCode
from instructbooth_trainer import launch
from instructbooth_trainer.launch import first_failure

TWO = {"reinforcement": {"nodes": 2}}
OUTPUT = "store/runs/team/rex/u-1/reinforce/{}/output/w.safetensors"


@pytest.mark.parametrize(
    ("ended", "speaker"),
    [
        ({0: 0, 1: 0}, (0, 0)),
        ({1: 64, 0: 75}, (1, 64)),
        ({0: 75, 1: 64}, (1, 64)),
        ({0: 75, 1: 137}, (1, 137)),
        ({0: 0, 1: 75}, (1, 75)),
        ({1: 76, 0: 76}, (1, 76)),
    ],
)
def test_the_culprit_speaks_for_the_pod_not_its_victim(ended: dict[int, int], speaker: tuple[int, int]) -> None:
    assert first_failure(ended) == speaker


def test_killed_and_resumed_ends_bit_for_bit_as_if_undisturbed(make_gang: Callable[..., Any]) -> None:
    calm = make_gang("calm", **TWO)
    assert calm.run("count", nodes=2) == [0, 0]
    assert calm.pods[0].outcome().reason == "Completed"
    assert calm.pods[0].outcome().artifact == f"file://{calm.folder}/store/runs/team/rex/u-1/reinforce/1/output/"

    rough = make_gang("rough", **TWO)
    codes = rough.run("kill:1:5", nodes=2)
    assert codes == [ExitCode.TRANSIENT, 128 + signal.SIGKILL]
    assert rough.pods[0].outcome().reason == "PeerLost"
    assert rough.pods[1].outcome().reason == "Killed"
    assert "SIGKILL" in rough.pods[1].outcome().message
    assert "starting at the beginning" in rough.pods[1].outcome().log[-1]  # its own last line, found by the launcher
    assert not (rough.folder / OUTPUT.format(1)).exists()

    assert rough.run("count", nodes=2, attempt=2) == [0, 0]
    assert "going on from step 4 of attempt 1" in rough.pods[2].log.read_text()
    assert (rough.folder / OUTPUT.format(2)).read_bytes() == (calm.folder / OUTPUT.format(1)).read_bytes()


def test_sigterm_on_one_pod_saves_and_stops_the_gang(make_gang: Callable[..., Any]) -> None:
    gang = make_gang(**TWO)
    pods = gang.start("wait", nodes=2)
    checkpoints = gang.folder / "store/runs/team/rex/u-1/reinforce/1/checkpoints"
    deadline = time.monotonic() + 600
    while not list(checkpoints.glob("*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    pods[1].process.send_signal(signal.SIGTERM)
    assert [pod.wait() for pod in pods] == [ExitCode.CHECKPOINTED, ExitCode.CHECKPOINTED]
    assert pods[0].outcome().reason == "Checkpointed"
    step = int(pods[0].outcome().message.split("step ")[1].split()[0])
    assert (checkpoints / str(step) / "manifest.json").exists()


def terminate_while(pod: Any, doing: str = "importing") -> None:
    """Send SIGTERM once the pod's log says that it does that, which in these tests takes very long."""
    deadline = time.monotonic() + 60
    while doing not in pod.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert doing in pod.log.read_text()
    pod.process.send_signal(signal.SIGTERM)


def test_sigterm_before_a_process_listens_is_no_failure(make_gang: Callable[..., Any]) -> None:
    gang = make_gang()
    (pod,) = gang.start("import", nodes=1)
    terminate_while(pod)
    assert pod.wait() == ExitCode.CHECKPOINTED
    assert pod.outcome().reason == "Checkpointed"


def test_sigterm_while_the_trainer_still_imports_ends_it_at_once(make_gang: Callable[..., Any], tmp_path: Path) -> None:
    """As a pod's first process it would not even be ended by it: it must have a handler from the start."""
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(3600)\n")
    gang = make_gang()
    (pod,) = gang.start("count", nodes=1, command=("instructbooth_trainer.main",), PYTHONPATH=str(tmp_path))
    terminate_while(pod)
    assert pod.wait() == ExitCode.CHECKPOINTED
    assert pod.outcome().message == "asked to stop before training began"


def test_a_pod_that_waits_for_another_goes_at_once_when_asked(make_gang: Callable[..., Any]) -> None:
    gang = make_gang(**TWO)
    (pod,) = gang.start("count", nodes=1, command=("instructbooth_trainer.main",), JOB_COMPLETION_INDEX="1")
    terminate_while(pod, "waiting for pod 0")
    assert pod.wait() == ExitCode.CHECKPOINTED
    assert pod.outcome().message == "asked to stop before training began"


def test_a_bucket_that_is_missing_is_told_before_training_begins(make_gang: Callable[..., Any]) -> None:
    gang = make_gang(**TWO)
    (pod,) = gang.start(
        "count",
        nodes=1,
        command=("instructbooth_trainer.main",),
        INSTRUCTBOOTH_COORDINATOR="",
        INSTRUCTBOOTH_POD_IP="127.0.0.1",
    )
    assert pod.wait() == ExitCode.USER_ERROR
    assert pod.outcome().reason == "BucketNotFound"


def test_the_users_mistake_is_the_exit_code_and_the_word_of_its_pod(make_gang: Callable[..., Any]) -> None:
    gang = make_gang(**TWO)
    assert gang.run("user-error:0", nodes=2) == [ExitCode.USER_ERROR, ExitCode.TRANSIENT]
    assert gang.pods[0].outcome().reason == "PromptsWithoutSubject"


def test_a_mistake_found_together_is_told_by_every_pod(make_gang: Callable[..., Any]) -> None:
    gang = make_gang(**TWO)
    assert gang.run("together", nodes=2) == [ExitCode.USER_ERROR, ExitCode.USER_ERROR]
    assert gang.pods[1].outcome().reason == "ModelInvalid"


def test_ranks_that_ask_different_questions_end_rather_than_mix_up_the_answers(make_gang: Callable[..., Any]) -> None:
    gang = make_gang(**TWO)
    assert gang.run("diverge", nodes=2) == [1, 1]
    assert gang.pods[0].outcome().reason == "GangDiverged"
    assert "['barrier', 'any']" in gang.pods[0].outcome().message


def test_a_defect_is_a_failure_with_its_traceback(make_gang: Callable[..., Any]) -> None:
    gang = make_gang()
    assert gang.run("defect:0", nodes=1) == [1]
    outcome = gang.pods[0].outcome()
    assert outcome.reason == "InternalError"
    assert "ZeroDivisionError: a defect" in outcome.message
    assert "stub_recipe.py" in outcome.message


def test_a_process_that_dies_before_it_can_speak_is_reported(make_gang: Callable[..., Any]) -> None:
    gang = make_gang()
    assert gang.run("die-early:0", nodes=1) == [128 + signal.SIGKILL]
    assert gang.pods[0].outcome().reason == "Killed"


def test_a_wrong_world_size_is_an_error(make_gang: Callable[..., Any]) -> None:
    """The process believes to be alone (no RANK), the spec asks for two: never two silent trainings."""
    gang = make_gang(**TWO)
    assert gang.run("alone", nodes=1) == [ExitCode.USER_ERROR]
    assert gang.pods[0].outcome().reason == "WorldSizeMismatch"


def test_survivors_are_killed_after_a_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    monkeypatch.setattr(launch, "PEER_GRACE", 0.5)
    children = [
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]),
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(64)"]),
    ]
    assert launch._wait(children) == (1, 64)
    assert children[0].returncode == -signal.SIGKILL
