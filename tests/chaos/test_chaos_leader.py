"""Two operators: the leader dies, sleeps too long, leaves, or loses the API server. Nothing happens twice."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from aiohttp import ClientSession

from instructbooth.contract import Stage
from tests.chaos.call import Call
from tests.chaos.faults import Fault, Kind, Once, Script
from tests.chaos.field import SECONDS, Calm, Field, Result
from tests.chaos.pair import ACTS_WITHIN, STANDING_BY, STARTS_WITHIN, Pair, pair
from tests.integration.operator.plane import ControlPlane

pytestmark = pytest.mark.cluster

LEASE_SECONDS = 12
HANDED_OVER_WITHIN = 4.0  # not the five seconds for which kopf would wait, nor the twelve of the Lease
LANES = 12  # most of their time is spent waiting for a Lease to run out
IBJ = Call("get", "instructboothjobs", "mascot")
READS = 2  # of the job, in an undisturbed run: before a warning, before a deletion
FIRST_GANG = Call("create", "jobs", "mascot-reinforce-1")


async def play(plane: ControlPlane, calm: Calm, folder: Path, scripts: list[Once]) -> list[Result]:
    """Run the job once for each script, each with a pair."""
    async with Field(plane.url, folder, LANES) as field:
        runs = (
            field.play(f"{s.fault}: {s.call} #{s.number}", s, calm.portrait, lane=partial(pair, field)) for s in scripts
        )
        return list(await asyncio.gather(*runs))


def lane_of(result: Result) -> Pair:
    assert isinstance(result.lane, Pair)
    return result.lane


def test_the_leader_is_killed_between_any_two_writes(
    plane: ControlPlane, calm: Calm, tmp_path: Path, subtests: pytest.Subtests, tell: Callable[[str], None]
) -> None:
    scripts = [Once(call, number, Fault(Kind.CRASH_AFTER)) for call, number in calm.writes]
    results = asyncio.run(play(plane, calm, tmp_path, scripts))
    took = sorted(lane_of(result).took or ACTS_WITHIN for result in results)
    same = sum(not result.problems for result in results)
    tell(f"{len(results)} leaders killed, one after each write: {same} jobs ended the same")
    tell(f"the standby acted after {took[0]:.1f} to {took[-1]:.1f} s, median {took[len(took) // 2]:.1f} s")
    for result, script in zip(results, scripts, strict=True):
        with subtests.test(result.name):
            result.check()
            assert script.fired == 1
            assert lane_of(result).took is not None
    assert len(scripts) >= 15


def test_a_leader_that_was_stopped_for_longer_than_the_lease_writes_nothing_when_it_wakes(
    plane: ControlPlane, calm: Calm, tmp_path: Path, subtests: pytest.Subtests, tell: Callable[[str], None]
) -> None:
    """Stopped with the answer it needs for its next write in its hands; or with a write under way, which comes late.

    A name keeps a gang from being created twice, unless the gang has come and gone when the late request arrives: then
    it is made again, and ended as a stray. No client can take back what it has sent (decision 0025).
    """
    answered = [Once(call, number, Fault(Kind.FREEZE)) for call, number in calm.writes[:-1:2]]
    answered += [Once(IBJ, number, Fault(Kind.FREEZE)) for number in range(READS)]
    late = [Once(call, number, Fault(Kind.FREEZE, seconds=ACTS_WITHIN)) for call, number in calm.writes[1::2]]
    scripts = [*answered, *late]
    results = asyncio.run(play(plane, calm, tmp_path, scripts))
    for result, script in zip(results, scripts, strict=True):
        if script in late and script.call == FIRST_GANG:
            result.problems = [
                line for line in result.problems if not line.startswith(f"{FIRST_GANG.name} was created")
            ]
    same = sum(not result.problems for result in results)
    tell(f"{len(results)} leaders stopped and woken: {same} jobs ended the same")
    for result, script in zip(results, scripts, strict=True):
        with subtests.test(result.name):
            result.check()
            assert script.fired == 1
            woken = lane_of(result)
            assert [str(seen) for seen in woken.after if seen.call.writes] == []
            assert woken.after, "it has looked at the Lease at least"
            assert woken.operator.exits[:-1] == [], "it stands by, without a new process"


def test_a_leader_that_leaves_hands_over_at_once(
    plane: ControlPlane, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    async def run() -> None:
        async with Field(plane.url, tmp_path) as field, pair(field, Script()) as here:
            field.kubelet.holding.add((here.namespace, Stage.REINFORCE))
            await here.submit()
            await field.held(1)
            loop = asyncio.get_running_loop()
            url = f"http://127.0.0.1:{here.seat.port}/metrics"
            async with ClientSession() as prometheus:  # which keeps its connection: nobody waits for its end
                await (await prometheus.get(url)).read()
                told = loop.time()
                here.operator.send(signal.SIGTERM)
                await here.until("the standby to lead", lambda: here.led_by(here.second), HANDED_OVER_WITHIN)
                tell(f"told to leave, the leader was followed after {loop.time() - told:.1f} s")
                await asyncio.wait_for(here.operator.wait(), 30)
            assert here.operator.exits == [0]
            field.release()
            await here.history.until("the job's end", lambda: here.history.finished, SECONDS)
            here.second.operator.send(signal.SIGTERM)
            await asyncio.wait_for(here.second.operator.wait(), 30)
            assert here.second.operator.exits == [0]

    asyncio.run(run())


def test_a_standby_that_is_told_to_leave_ends_at_once(plane: ControlPlane, tmp_path: Path) -> None:
    async def run() -> None:
        async with Field(plane.url, tmp_path) as field, pair(field, Script()) as here:
            here.second.operator.send(signal.SIGTERM)
            await asyncio.wait_for(here.second.operator.wait(), 10)
            assert here.second.operator.exits == [0]
            assert await here.led_by(here.seat)

    asyncio.run(run())


class Cut(Script):
    """While it is on, no request gets through."""

    on = False

    def on_call(self, call: Call, number: int) -> Fault | None:
        return Fault(Kind.RESET) if self.on else None


def test_a_leader_that_is_cut_off_steps_down_and_comes_back_as_standby(plane: ControlPlane, tmp_path: Path) -> None:
    cut = Cut()

    async def run() -> None:
        async with Field(plane.url, tmp_path) as field, pair(field, cut) as here:
            field.kubelet.holding.add((here.namespace, Stage.REINFORCE))
            await here.submit()
            await field.held(1)
            cut.on = True
            await here.until("the standby to lead", lambda: here.led_by(here.second), ACTS_WITHIN)

            async def stepped_down() -> bool:
                return (await here.seat.page("/readyz"))[0] == 503

            await here.until("the old leader to say that it is not ready", stepped_down, STARTS_WITHIN)
            assert (await here.seat.page("/healthz"))[0] == 200, "killing it would not bring the API server back"
            cut.on = False

            async def stands_by() -> bool:
                return await here.seat.page("/readyz") == STANDING_BY

            await here.until("the old leader to stand by", stands_by, STARTS_WITHIN)
            field.release()
            await here.history.until("the job's end", lambda: here.history.finished, SECONDS)
            await here.second.operator.kill()
            await here.until("it to lead again", lambda: here.led_by(here.seat), ACTS_WITHIN)
            assert here.operator.exits == [], "it never ended"

    asyncio.run(run())


def test_the_api_server_is_away_for_longer_than_the_lease(plane: ControlPlane, calm: Calm, tmp_path: Path) -> None:
    """Both replicas wait for it, no process ends, one leads again."""

    def restart() -> None:
        plane.stop("kube-apiserver")
        time.sleep(LEASE_SECONDS + 5)
        plane.start_api_server()

    async def run() -> Result:
        async with Field(plane.url, tmp_path) as field:
            playing = field.play("away", Script(), calm.portrait, hold=Stage.REINFORCE, lane=partial(pair, field))
            task = asyncio.create_task(playing)
            await field.held(1)
            await asyncio.to_thread(restart)
            field.release()
            return await task

    result = asyncio.run(run())
    result.check()
    here = lane_of(result)
    assert (len(here.operator.exits), len(here.second.operator.exits)) == (1, 1), "both only when the test was over"
