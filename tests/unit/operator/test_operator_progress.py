"""The puller: what rank 0 said, and for how long it has said nothing new."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from instructbooth.spec.status import Progress
from instructbooth_operator.cache import Key
from instructbooth_operator.progress import ProgressPuller

KEY, CHILD = Key("lab", "mascot"), "mascot-personalize-1"


class Clock:
    """The loop's time, moved by the test."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: found)
    return found


def puller(says: list[Progress | Exception]) -> ProgressPuller:
    made = ProgressPuller("", 5, changed=lambda key: None)

    async def ask(host: str) -> Progress:
        said = says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    made._ask = ask  # type: ignore[method-assign]
    made.watch(KEY, (CHILD, "host"))
    return made


def pull(made: ProgressPuller) -> None:
    asyncio.new_event_loop().run_until_complete(made._pull(KEY, made._targets[KEY]))


def test_silence_is_measured_on_the_operator_s_own_clock(clock: Clock) -> None:
    still = Progress(step=3, heartbeat="2036-01-01T00:00:00Z")  # ten years ahead of ours
    made = puller([still, still, aiohttp.ClientError("gone"), still.model_copy(update={"heartbeat": "later"})])
    clock.now += 7
    silence = made.silence(KEY)[CHILD]
    assert (silence.seconds, silence.heard, silence.answers) == (7, False, False)
    pull(made)  # it is heard for the first time: that is movement
    clock.now += 40
    pull(made)
    silence = made.silence(KEY)[CHILD]
    assert (silence.seconds, silence.heard, silence.answers) == (40, True, True)
    assert silence.heartbeat == "2036-01-01T00:00:00Z"
    clock.now += 10
    pull(made)
    silence = made.silence(KEY)[CHILD]
    assert (silence.seconds, silence.heard, silence.answers) == (50, True, False)
    pull(made)
    silence = made.silence(KEY)[CHILD]
    assert (silence.seconds, silence.answers) == (0, True)


def test_another_child_begins_anew(clock: Clock) -> None:
    made = puller([Progress(heartbeat="a")])
    pull(made)
    clock.now += 100
    made.watch(KEY, (CHILD, "host"))
    assert made.silence(KEY)[CHILD].seconds == 100
    made.watch(KEY, ("mascot-personalize-2", "host"))
    assert made.silence(KEY)["mascot-personalize-2"].seconds == 0
    assert not made.silence(KEY)["mascot-personalize-2"].heard
    made.watch(KEY, None)
    assert made.silence(KEY) == {}


@pytest.mark.parametrize(("heard", "slowest"), [(True, 15), (False, 60)])
def test_one_that_was_heard_is_asked_often_enough_to_be_judged(clock: Clock, heard: bool, slowest: float) -> None:
    first: list[Progress | Exception] = [Progress()] if heard else []
    made = puller([*first, *(TimeoutError() for _ in range(8))])
    waits = []
    for _ in range(len(first) + 8):
        pull(made)
        waits.append(made._targets[KEY].due - clock.now)
    assert max(waits) == waits[-1] == slowest
