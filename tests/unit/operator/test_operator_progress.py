"""The puller: what rank 0 said, and for how long it has said nothing new."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from instructbooth.contract import GANG_HEADER
from instructbooth.spec.status import Progress
from instructbooth_operator.cache import Key
from instructbooth_operator.errors import ApiError
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


def at(address: str) -> Callable[[str, list[str]], Awaitable[dict[str, str]]]:
    """All rank 0s have that address."""

    async def addresses(namespace: str, children: list[str]) -> dict[str, str]:
        return dict.fromkeys(children, address)

    return addresses


def puller(says: list[Progress | Exception]) -> ProgressPuller:
    made = ProgressPuller("", 5, at("10.0.0.1"), changed=lambda key: None)

    async def ask(address: str, gang: str) -> Progress:
        assert (address, gang) == ("10.0.0.1", f"lab/{made._targets[KEY].child}")
        said = says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    made._ask = ask  # type: ignore[method-assign]
    made.watch(KEY, CHILD)
    return made


def pull(made: ProgressPuller) -> None:
    async def seek_and_pull() -> None:
        await made._seek()
        await made._pull(KEY, made._targets[KEY])

    made._targets[KEY].due = 0
    asyncio.new_event_loop().run_until_complete(seek_and_pull())


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
    made.watch(KEY, CHILD)
    assert made.silence(KEY)[CHILD].seconds == 100
    made.watch(KEY, "mascot-personalize-2")
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


async def serve(who: str | None) -> tuple[web.AppRunner, int]:
    """A rank 0 that calls itself so; its port."""

    async def progress(request: web.Request) -> web.Response:
        body = Progress(step=7, total=9, unit="epoch").to_wire()
        return web.json_response(body, headers={} if who is None else {GANG_HEADER: who})

    app = web.Application()
    app.router.add_get("/progress", progress)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


@pytest.mark.parametrize(
    ("who", "step"),
    [
        (f"lab/{CHILD}", 7),
        (None, 7),  # begun by an earlier version
        ("other/mascot-personalize-1", None),
        ("lab/mascot-personalize-2", None),
    ],
)
def test_another_gang_that_has_the_address_now_is_not_taken_for_this_one(who: str | None, step: int | None) -> None:
    sought = []

    async def addresses(namespace: str, children: list[str]) -> dict[str, str]:
        sought.append((namespace, children))
        return dict.fromkeys(children, "127.0.0.1")

    async def run() -> Progress | None:
        runner, port = await serve(who)
        made = ProgressPuller(f"http://{{host}}:{port}/progress", 0.01, addresses, changed=lambda key: None)
        async with made:
            made.watch(KEY, CHILD)
            for _ in range(3):
                made._targets[KEY].due = 0
                await made._seek()
                if made._targets[KEY].address:
                    await made._pull(KEY, made._targets[KEY])
        await runner.cleanup()
        return made.latest(KEY).get(CHILD)

    said = asyncio.run(run())
    assert (said.step if said else None) == step
    # One that answers is asked for once; where another answers, it is looked for again.
    assert sought == [("lab", [CHILD])] * (1 if step else 3)


def test_those_who_have_waited_longest_are_looked_for_first_and_who_has_no_address_later() -> None:
    asked: list[tuple[str, list[str]]] = []

    async def addresses(namespace: str, children: list[str]) -> dict[str, str]:
        asked.append((namespace, children))
        if namespace == "b":
            raise ApiError(500, "InternalError", "etcd is away")
        return {child: "10.0.0.1" for child in children if child != "a-3"}

    async def run() -> ProgressPuller:
        made = ProgressPuller("", 5, addresses, changed=lambda key: None)
        for number in range(60):
            made.watch(Key("a", f"a-{number}"), f"a-{number}")
        for number in range(2):
            made.watch(Key("b", f"b-{number}"), f"b-{number}")
        made._targets[Key("b", "b-0")].due = -1.0
        for _ in range(4):
            await made._seek()
        return made

    made = asyncio.run(run())
    assert [(namespace, len(children)) for namespace, children in asked] == [("b", 2), ("a", 50), ("a", 10)]
    lacking = {key.name for key, target in made._targets.items() if target.address is None}
    assert lacking == {"a-3", "b-0", "b-1"}
    assert all(made._targets[Key(name[0], name)].due > 0 for name in lacking)


def test_an_address_of_the_sixth_version_is_written_as_in_a_url() -> None:
    made = ProgressPuller("http://{host}:9400/progress", 5, at("fd00::1"), changed=lambda key: None)
    urls = []

    class Session:
        def get(self, url: str) -> None:
            urls.append(url)
            raise TimeoutError

    made._session = Session()

    async def run() -> None:
        made.watch(KEY, CHILD)
        await made._seek()
        await made._pull(KEY, made._targets[KEY])

    asyncio.run(run())
    assert urls == ["http://[fd00::1]:9400/progress"]
