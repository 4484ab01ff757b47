"""The puller: what rank 0 said, and for how long it has said nothing new."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from instructbooth.contract import GANG_HEADER
from instructbooth.spec.status import Progress
from instructbooth_operator import progress
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


async def seek(made: ProgressPuller) -> None:
    for namespace, sought in made._lost():
        await made._seek(namespace, sought)


def pull(made: ProgressPuller) -> None:
    async def seek_and_pull() -> None:
        await seek(made)
        await made._pull(KEY, made._targets[KEY])

    asyncio.new_event_loop().run_until_complete(seek_and_pull())


def test_silence_is_measured_on_the_operator_s_own_clock(clock: Clock) -> None:
    still = Progress(step=3, heartbeat="2036-01-01T00:00:00Z")  # ten years ahead of ours
    made = puller([still, still, aiohttp.ClientError("gone"), still.model_copy(update={"heartbeat": "later"})])
    clock.now += 1000
    assert made.silence(KEY) == {}, "nobody knows where it is"
    asyncio.new_event_loop().run_until_complete(seek(made))
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
    asyncio.new_event_loop().run_until_complete(seek(made))
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

    async def say(request: web.Request) -> web.Response:
        body = Progress(step=7, total=9, unit="epoch").to_wire()
        return web.json_response(body, headers={} if who is None else {GANG_HEADER: who})

    app = web.Application()
    app.router.add_get("/progress", say)
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
    async def run() -> tuple[Progress | None, str | None]:
        runner, port = await serve(who)
        url = f"http://{{host}}:{port}/progress"
        async with ProgressPuller(url, 5, at("127.0.0.1"), changed=lambda key: None) as made:
            made.watch(KEY, CHILD)
            await seek(made)
            await made._pull(KEY, made._targets[KEY])
        await runner.cleanup()
        return made.latest(KEY).get(CHILD), made._targets[KEY].address

    said, address = asyncio.run(run())
    assert (said.step if said else None) == step
    assert address == ("127.0.0.1" if step else None)


def test_one_that_does_not_answer_is_looked_for_and_asked_where_it_was_until_then(clock: Clock) -> None:
    """A network that fails for a moment must not make the operator depend on lists: silence ends gangs."""
    where: dict[str, str] = {CHILD: "10.0.0.1"}
    asked = []

    async def addresses(namespace: str, children: list[str]) -> dict[str, str]:
        asked.append((namespace, children))
        return where

    made = ProgressPuller("", 5, addresses, changed=lambda key: None)
    answers: dict[str, Progress | Exception] = {"10.0.0.1": Progress(heartbeat="a")}

    async def ask(address: str, gang: str) -> Progress:
        said = answers.get(address, TimeoutError())
        if isinstance(said, Exception):
            raise said
        return said

    made._ask = ask  # type: ignore[method-assign]
    made.watch(KEY, CHILD)
    pull(made)
    pull(made)
    assert asked == [("lab", [CHILD])], "one that answers is asked for once"
    answers["10.0.0.1"] = TimeoutError()
    where.clear()
    pull(made)
    pull(made)
    assert made._targets[KEY].address == "10.0.0.1"
    answers["10.0.0.1"] = Progress(heartbeat="b")
    clock.now += 10
    pull(made)
    assert made.silence(KEY)[CHILD].seconds == 0, "it was asked there though no list shows it"
    answers = {"10.0.0.2": Progress(heartbeat="c")}
    where[CHILD] = "10.0.0.2"  # the gang was suspended, and goes on with other pods
    clock.now += 100
    pull(made)
    assert (made._targets[KEY].heartbeat, made._targets[KEY].lost) == ("c", False)


def test_those_who_were_heard_and_have_waited_longest_are_looked_for_first() -> None:
    asked: list[tuple[str, int]] = []

    async def addresses(namespace: str, children: list[str]) -> dict[str, str]:
        asked.append((namespace, len(children)))
        if namespace == "b":
            raise ApiError(500, "InternalError", "etcd is away")
        return {child: "10.0.0.1" for child in children if child != "a-3"}

    async def run() -> ProgressPuller:
        made = ProgressPuller("", 5, addresses, changed=lambda key: None)
        for namespace, count in (("a", 60), ("b", 2), ("c", 1)):
            for number in range(count):
                made.watch(Key(namespace, f"{namespace}-{number}"), f"{namespace}-{number}")
        made._targets[Key("b", "b-1")].sought = -1.0
        made._targets[Key("c", "c-0")].heard = True
        await seek(made)
        assert made._lost() == [], "who was not found is left alone for a while"
        return made

    made = asyncio.run(run())
    assert asked == [("c", 1), ("b", 2), ("a", 50), ("a", 10)]
    assert {key.name for key, target in made._targets.items() if target.address is None} == {"a-3", "b-0", "b-1"}


def test_a_list_that_does_not_come_back_keeps_nobody_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TURN_SECONDS", 0.01)

    async def run() -> None:
        hangs, heard = asyncio.Event(), asyncio.Event()
        pulls = 0

        async def addresses(namespace: str, children: list[str]) -> dict[str, str]:
            if children == [CHILD]:
                return {CHILD: "10.0.0.1"}
            hangs.set()
            await asyncio.sleep(3600)
            return {}

        async def ask(address: str, gang: str) -> Progress:
            nonlocal pulls
            pulls += hangs.is_set()
            if pulls > 3:
                heard.set()
            return Progress()

        made = ProgressPuller("", 0.01, addresses, changed=lambda key: None)
        made._ask = ask  # type: ignore[method-assign]
        made.watch(KEY, CHILD)
        running = asyncio.create_task(made.run())
        await asyncio.sleep(0.05)
        made.watch(Key("lab", "other"), "other-personalize-1")
        await asyncio.wait_for(heard.wait(), 30)
        running.cancel()

    asyncio.run(run())


def test_those_who_were_heard_and_have_failed_least_are_asked_first_of_those_who_do_not_answer(clock: Clock) -> None:
    made = ProgressPuller("", 5, at("10.0.0.1"), changed=lambda key: None)
    for name, heard, failures, due in (
        ("answers", True, 0, 0),
        ("never heard", False, 0, 0),
        ("failed often", True, 9, 0),
        ("failed once", True, 1, 0),
        ("failed once, later", True, 1, 500),
        ("not due", True, 1, 5000),
        ("lost", True, 0, 0),
    ):
        made.watch(Key("lab", name), "mascot-personalize-1")
        target = made._targets[Key("lab", name)]
        target.heard, target.failures, target.due = heard, failures, due
        target.address = None if name == "lost" else "10.0.0.1"
    assert [key.name for key, _ in made._due(answer=True)] == ["answers"]
    names = [key.name for key, _ in made._due(answer=False)]
    assert names == ["failed once", "failed once, later", "failed often", "never heard"]


def test_many_who_do_not_answer_keep_nobody_waiting_who_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TURN_SECONDS", 0.01)

    async def run() -> None:
        hanging, heard = asyncio.Event(), asyncio.Event()
        pulls = 0

        async def ask(address: str, gang: str) -> Progress:
            nonlocal pulls
            if gang == f"lab/{CHILD}":
                pulls += hanging.is_set()
                if pulls > 3:
                    heard.set()
                return Progress()
            target = next(t for t in made._targets.values() if gang == f"lab/{t.child}")
            if target.failures:
                hanging.set()
                await asyncio.sleep(3600)
            raise aiohttp.ClientError("gone")

        made = ProgressPuller("", 0.01, at("10.0.0.1"), changed=lambda key: None)
        made._ask = ask  # type: ignore[method-assign]
        for number in range(100):
            made.watch(Key("lab", f"other-{number}"), f"other-{number}-personalize-1")
        made.watch(KEY, CHILD)
        running = asyncio.create_task(made.run())
        await asyncio.wait_for(heard.wait(), 30)
        running.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [
        '{"metrics": {"loss": 1' + "0" * 400 + "}}",
        '{"etaSeconds": 1' + "0" * 400 + "}",
        '{"step": 1' + "0" * 60 + "}",
        "[" * 60_000,
        "null",
        '{"step": -1}',
        "\x00",
        '{"unit": "' + "e" * 65 + '"}',
    ],
)
def test_no_answer_whatever_it_is_ends_the_pulling(body: str) -> None:
    """Images are people's own."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async def run() -> tuple[int, dict[str, float]]:
        app = web.Application()
        app.router.add_get("/progress", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://{{host}}:{runner.addresses[0][1]}/progress"
        async with ProgressPuller(url, 5, at("127.0.0.1"), changed=lambda key: None) as made:
            made.watch(KEY, CHILD)
            await seek(made)
            for _ in range(2):
                await made._pull(KEY, made._targets[KEY])
        await runner.cleanup()
        latest = made.latest(KEY).get(CHILD)
        return made._targets[KEY].failures, latest.metrics if latest else {}

    failures, metrics = asyncio.run(run())
    assert metrics == {}
    assert failures == (0 if "metrics" in body else 2)


def test_what_an_image_says_is_bounded_and_nobody_is_sent_elsewhere() -> None:
    """Else whoever owns an image could fill a status and Prometheus, or have the operator call what it may reach."""
    asked: list[str] = []
    metrics = {"m" * 65: 1.0, **{f"m{number}": float(number) for number in range(500)}}

    async def away(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPFound("/metrics")

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"metrics": metrics})

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/away", away)
        app.router.add_get("/metrics", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ProgressPuller(f"{host}/metrics", 5, at("127.0.0.1"), changed=lambda key: None) as made:
            said = await made._ask("127.0.0.1", f"lab/{CHILD}")
            assert said.metrics == {f"m{number}": float(number) for number in range(64)}
        async with ProgressPuller(f"{host}/away", 5, at("127.0.0.1"), changed=lambda key: None) as made:
            with pytest.raises(ValueError, match="answers with 302"):
                await made._ask("127.0.0.1", f"lab/{CHILD}")
        await runner.cleanup()

    asyncio.run(run())
    assert asked == ["/metrics", "/away"]


def test_a_pull_that_fails_late_says_nothing_of_the_address_found_meanwhile(clock: Clock) -> None:
    made = puller([])

    async def ask(address: str, gang: str) -> Progress:
        where[CHILD] = "10.0.0.2"
        target.lost = True
        await seek(made)
        raise progress._SomebodyElse("it was another's")

    where = {CHILD: "10.0.0.1"}

    async def addresses(namespace: str, children: list[str]) -> dict[str, str]:
        return where

    made._addresses = addresses
    target = made._targets[KEY]
    asyncio.new_event_loop().run_until_complete(seek(made))
    made._ask = ask  # type: ignore[method-assign]
    pull(made)
    assert (target.address, target.lost, target.failures) == ("10.0.0.2", False, 0)
    assert target.due <= clock.now


def test_an_address_of_the_sixth_version_is_written_as_in_a_url() -> None:
    made = ProgressPuller("http://{host}:9400/progress", 5, at("fd00::1"), changed=lambda key: None)
    urls = []

    class Session:
        def get(self, url: str, **_: object) -> None:
            urls.append(url)
            raise TimeoutError

    made._session = Session()

    async def run() -> None:
        made.watch(KEY, CHILD)
        await seek(made)
        await made._pull(KEY, made._targets[KEY])

    asyncio.run(run())
    assert urls == ["http://[fd00::1]:9400/progress"]
