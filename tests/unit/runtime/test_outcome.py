"""The termination message: always JSON, never longer than the kubelet keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructbooth.contract import TERMINATION_MESSAGE_LIMIT, Env, Outcome
from instructbooth_trainer.runtime.outcome import parse, render, write


def test_a_short_outcome_comes_back_whole() -> None:
    outcome = Outcome("Completed", "all well", "s3://b/k/", {"base/clip-score": 0.25})
    assert parse(render(outcome)) == outcome


@given(st.text(max_size=9000), st.integers(min_value=0, max_value=40))
def test_it_always_fits_and_always_parses(message: str, num_metrics: int) -> None:
    outcome = Outcome("InternalError", message, None, {f"metric-{i}": i / 3 for i in range(num_metrics)})
    data = render(outcome)
    assert len(data) <= TERMINATION_MESSAGE_LIMIT
    parsed = parse(data)
    assert parsed.reason == "InternalError"
    assert parsed.metrics == outcome.metrics


def test_a_cut_message_keeps_how_it_began_and_how_it_ended() -> None:
    parsed = parse(render(Outcome("InternalError", "first words " + "x" * 9000 + " last words")))
    assert parsed.message.startswith("first words")
    assert parsed.message.endswith("last words")
    assert "[...]" in parsed.message
    assert len(render(Outcome("InternalError", "y" * 9000))) > TERMINATION_MESSAGE_LIMIT - 4


def test_the_log_gets_the_room_that_is_left() -> None:
    lines = [f"{number:03d} {'x' * 300}" for number in range(20)]
    short = parse(render(Outcome("InternalError", "a defect", log=lines)))
    assert short.message == "a defect"
    assert len(short.log) == 13
    assert short.log == lines[-13:]
    assert parse(render(Outcome("InternalError", "y" * 9000, log=lines))).log == []
    assert parse(render(Outcome("InternalError", "a defect", log=["one", "two"]))).log == ["one", "two"]


def test_metrics_that_cannot_fit_go_before_the_reason_does() -> None:
    data = render(Outcome("Completed", "m", "s3://a", {f"a-long-metric-name-{i}": 0.1 for i in range(500)}))
    assert len(data) <= TERMINATION_MESSAGE_LIMIT
    assert parse(data) == Outcome("Completed", "m", "s3://a", {})


def test_write_goes_where_the_environment_says(tmp_path: Path) -> None:
    write(Outcome("Completed"), {Env.TERMINATION_LOG: str(tmp_path / "log")})
    assert json.loads((tmp_path / "log").read_text())["reason"] == "Completed"


def test_a_place_that_cannot_be_written_is_said_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(Outcome("Completed"), {Env.TERMINATION_LOG: str(tmp_path / "no" / "log")})
    assert "cannot write the outcome" in caplog.text
