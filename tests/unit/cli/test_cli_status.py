"""What `status` shows, and when watching ends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from instructbooth.cli import watch
from instructbooth.cli.cluster import ClusterUnreachable
from instructbooth.cli.output import CliError, human_size, human_time
from instructbooth.cli.render import one_line, render_job
from instructbooth.cli.watch import read_status

NOW = datetime(2026, 1, 1, 12, 10, tzinfo=UTC)


def condition(kind: str, holds: str, reason: str, message: str = "") -> dict[str, Any]:
    stamp = "2026-01-01T12:00:00Z"
    return {"type": kind, "status": holds, "reason": reason, "message": message, "lastTransitionTime": stamp}


STATUS: dict[str, Any] = {
    "phase": "Reinforcing",
    "stage": "reinforce",
    "progress": "25% 3m10s",
    "reward": "0.31",
    "startTime": "2026-01-01T12:00:00Z",
    "stages": [
        {
            "name": "personalize",
            "state": "Succeeded",
            "attempt": 1,
            "startTime": "2026-01-01T12:00:00Z",
            "completionTime": "2026-01-01T12:02:30Z",
            "artifact": "s3://b/personalize/1/output/",
            "metrics": {"loss": 0.1234},
        },
        {
            "name": "reinforce",
            "state": "Running",
            "attempt": 3,
            "startTime": "2026-01-01T12:02:30Z",
            "restarts": {"failures": 1, "disruptions": 2},
            "progress": {"step": 10, "total": 40, "unit": "epochs", "etaSeconds": 190, "metrics": {"reward": 0.31}},
            "failure": {
                "attempt": 2,
                "rank": 1,
                "exitCode": 137,
                "reason": "OOMKilled",
                "message": "raise resources.limits.memory",
            },
        },
        {"name": "evaluate"},
    ],
    "conditions": [
        condition("Accepted", "True", "Valid", "the spec is fine"),
        condition("Blocked", "True", "SecretMissing", "Secret [s3] is missing; create it"),
        condition("Failed", "False", "NotFailed", "no news"),
    ],
    "evaluation": {
        "base": {"oracle": 0.2},
        "personalized": {"oracle": 0.4},
        "reinforced": {"oracle": 0.75, "fidelity": 0.9},
    },
}


def shown(status: dict[str, Any]) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_job("ns/demo", read_status({"status": status}), NOW))
    return console.export_text()


def row(text: str, first: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(first))


def test_stages_have_progress_eta_restarts_and_time():
    text = shown(STATUS)
    assert row(text, "personalize") == ["personalize", "Succeeded", "1", "0", "2m30s", "loss=0.123"]
    line = "reinforce Running 3 10/40 epochs 3m10s 1 failed, 2 disrupted 7m30s reward=0.31"
    assert row(text, "reinforce  ") == line.split()
    assert row(text, "evaluate") == ["evaluate", "Waiting", "0"]
    assert "ns/demo  Reinforcing  for 10m00s  reward 0.31" in text


def test_failure_names_rank_code_and_remedy():
    text = shown(STATUS)
    assert "reinforce attempt 2 rank 1: OOMKilled, exit code 137" in text
    assert "raise resources.limits.memory" in text


def test_only_conditions_that_say_something_are_shown():
    text = shown(STATUS)
    assert "✗ Blocked: SecretMissing" in text
    assert "Secret [s3] is missing; create it" in text  # brackets are text, not markup
    assert "NotFailed" not in text
    assert "Valid" not in text
    refused = {**STATUS, "conditions": [condition("Accepted", "False", "SpecInvalid", "x")]}
    assert "✗ Accepted: SpecInvalid" in shown(refused)


def test_evaluation_has_a_row_per_model():
    text = shown(STATUS)
    assert row(text, "base") == ["base", "0.200"]
    assert row(text, "reinforced") == ["reinforced", "0.750", "0.900"]


def test_empty_status_is_pending():
    assert "Pending" in shown({})


def test_status_of_a_newer_operator_can_be_read():
    assert read_status({"status": {"phase": "Failed", "tomorrow": 1}}).phase == "Failed"


def test_one_line_for_logs():
    assert one_line(read_status({"status": STATUS})) == (
        "Reinforcing    reinforce    25% 3m10s     reward 0.31  ! SecretMissing: Secret [s3] is missing; create it"
    )


class FakeCluster:
    """Answers with one state after another."""

    namespace = "ns"

    def __init__(self, *states: Any) -> None:
        self.states = list(states)
        self.reads = 0

    def job(self, name: str) -> dict[str, Any]:
        self.reads += 1
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return {"metadata": {"name": name}, "status": state}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)


def test_watch_prints_a_line_per_change_and_the_result(capsys):
    running, done = {"phase": "Personalizing"}, {"phase": "Succeeded", "evaluation": {"base": {"oracle": 0.5}}}
    cluster = FakeCluster({}, running, running, done)
    watch.watch_job(cluster, "demo")  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["Pending", "Personalizing", "Succeeded"]
    assert row("\n".join(lines), "base") == ["base", "0.500"]
    assert cluster.reads == 4


def test_watch_of_a_failed_job_is_an_error():
    with pytest.raises(CliError, match="ns/demo failed"):
        watch.watch_job(FakeCluster({"phase": "Failed"}), "demo")  # type: ignore[arg-type]


def test_watch_survives_an_api_server_that_is_away_for_a_while(capsys):
    away = ClusterUnreachable("cannot reach it")
    watch.watch_job(FakeCluster(away, away, {"phase": "Succeeded"}), "demo")  # type: ignore[arg-type]
    assert "cannot reach it; trying again" in capsys.readouterr().err


def test_watch_gives_up_on_an_api_server_that_stays_away():
    cluster = FakeCluster(ClusterUnreachable("cannot reach it"))
    with pytest.raises(ClusterUnreachable):
        watch.watch_job(cluster, "demo")  # type: ignore[arg-type]
    assert cluster.reads == watch.MAX_FAILURES


def test_watch_says_when_no_operator_acts(capsys):
    states: list[dict[str, Any]] = [{}] * (watch.NOBODY_ACTS + 1)
    watch.watch_job(FakeCluster(*states, {"phase": "Succeeded"}), "demo")  # type: ignore[arg-type]
    assert "no operator has acted" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (190, "3m10s"), (7325, "2h02m")])
def test_time_for_people(seconds, text):
    assert human_time(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 40, "1.0 TiB")])
def test_size_for_people(size, text):
    assert human_size(size) == text
