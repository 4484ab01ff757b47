"""Ranks that hang: who ends, with what word, and whose stacks are in the logs. Real processes, real gloo."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructbooth.contract import STALLED, Env, ExitCode, Outcome
from instructbooth_trainer import launch
from instructbooth_trainer.runtime.watchdog import Watchdog

TWO = {"reinforcement": {"nodes": 2}}
SECONDS = "45"  # two busy cores need their time for the first step


def test_the_rank_that_hangs_is_named_and_every_rank_leaves_its_stack(make_gang: Callable[..., Any]) -> None:
    gang = make_gang(**TWO)
    pods = gang.start("hang:1:3", nodes=2, **{Env.STALL_TIMEOUT: SECONDS})
    assert [pod.wait() for pod in pods] == [ExitCode.TRANSIENT, ExitCode.STALLED]
    hung, victim = pods[1].log.read_text(), pods[0].log.read_text()
    assert "stacks of all threads" in hung
    assert "in sleep_like_a_lost_mount" in hung
    assert "in recipe" in hung
    assert "stacks of all threads" in victim  # before it lost its peer
    assert "in all_reduce" in victim
    assert pods[0].outcome().reason == "PeerLost"
    word = pods[1].outcome()
    assert word.reason == STALLED
    assert "rank 1 has not moved for" in word.message
    assert "after 2 of 6 steps" in word.message
    assert "sleep_like_a_lost_mount" in word.message
    assert "stub_recipe.py:" in word.message
    assert "Stalled: rank 1" in word.log[-1]

    # And the gang goes on from its last checkpoint.
    assert gang.run("count", nodes=2, attempt=2) == [0, 0]
    assert "going on from step 2 of attempt 1" in gang.pods[2].log.read_text()


def test_a_rank_that_holds_the_interpreter_leaves_its_stack_and_ends(make_gang: Callable[..., Any]) -> None:
    gang = make_gang()
    (pod,) = gang.start("hold:0:3", nodes=1, **{Env.STALL_TIMEOUT: SECONDS})
    assert pod.wait() == 1
    assert "in hold_the_interpreter" in pod.log.read_text()


def test_who_does_not_leave_when_asked_leaves_its_stack(
    make_gang: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the operator's own watchdog does to a gang: SIGTERM, and the kill a minute later."""
    gang = make_gang(**TWO)
    pods = gang.start("hang:1:1", nodes=2, STUB_STACKS_AFTER="1", **{Env.STALL_TIMEOUT: "0"})
    deadline = time.monotonic() + 300
    while "process 2 of 2" not in pods[1].log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    for pod in pods:
        pod.process.send_signal(signal.SIGTERM)
    for pod in pods:
        while "Current thread" not in pod.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
    assert "in sleep_like_a_lost_mount" in pods[1].log.read_text()
    assert "in all_reduce" in pods[0].log.read_text()
    assert [pod.process.poll() for pod in pods] == [None, None]  # they still hang: the kubelet's kill is next
    assert launch.STACKS_AFTER < 60


def ends(beat: Callable[[Watchdog, float], None], seconds: float = 1.5) -> list[Outcome]:
    """What a watchdog of half a second says while `beat(watchdog, time)` is called."""
    found: list[Outcome] = []
    watchdog = Watchdog(0.5, 3, found.append)
    watchdog.start()
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        beat(watchdog, now)
        time.sleep(0.02)
    watchdog.stop()
    return found


def test_who_moves_is_left_alone() -> None:
    assert ends(lambda watchdog, now: watchdog.beat()) == []


def test_who_stops_moving_ends_once() -> None:
    said = ends(lambda watchdog, now: watchdog.beat("5 of 9 epochs") if now < 0.3 else None)
    assert [outcome.reason for outcome in said] == [STALLED]
    assert "rank 3" in said[0].message
    assert "after 5 of 9 epochs" in said[0].message
    assert f"ends ({Path(__file__)}:" in said[0].message
