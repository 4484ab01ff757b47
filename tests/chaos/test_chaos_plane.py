"""What the operator stands on is restarted, and its clock is set wrong, with a job in the middle of each stage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from instructbooth.contract import ExitCode, Stage
from tests.chaos.faults import Script
from tests.chaos.field import Calm, Field, Result
from tests.integration.operator.plane import ControlPlane

pytestmark = pytest.mark.cluster

AWAY_SECONDS = 3
HOUR = 3600.0


async def under(
    plane: ControlPlane, calm: Calm, folder: Path, trouble: Callable[[Field], Awaitable[None]]
) -> list[Result]:
    """Run one job for each stage, held in its middle while the trouble comes."""
    async with Field(plane.url, folder) as field:
        runs = [asyncio.create_task(field.play(stage, Script(), calm.portrait, hold=stage)) for stage in Stage]
        await field.held(len(Stage))
        await trouble(field)
        field.release()
        return list(await asyncio.gather(*runs))


@pytest.mark.parametrize("part", ["kube-apiserver", "etcd"])
def test_a_part_of_the_control_plane_is_killed_and_comes_back(
    plane: ControlPlane, calm: Calm, tmp_path: Path, subtests: pytest.Subtests, part: str
) -> None:
    def restart() -> None:
        plane.stop(part)
        time.sleep(AWAY_SECONDS)
        if part == "etcd":
            plane.start_etcd()
            plane.wait("the API server to find etcd again", plane.ready)
        else:
            plane.start_api_server()

    async def trouble(_: Field) -> None:
        await asyncio.to_thread(restart)

    for result in asyncio.run(under(plane, calm, tmp_path, trouble)):
        with subtests.test(result.name):
            result.check()
            assert result.exits == 0, "no operator need have died for it"


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_the_operator_s_clock_jumps_by_an_hour(
    plane: ControlPlane, calm: Calm, tmp_path: Path, subtests: pytest.Subtests, jump: float
) -> None:
    async def trouble(field: Field) -> None:
        for here in field.lanes:
            here.operator.set_clock(jump)

    for result in asyncio.run(under(plane, calm, tmp_path, trouble)):
        with subtests.test(result.name):
            result.check()


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_failed_gang_starts_again_though_the_clock_is_an_hour_wrong(
    plane: ControlPlane, tmp_path: Path, jump: float
) -> None:
    """Its back-off is measured from the API server's time, by a clock that does not agree with it."""

    async def run() -> None:
        async with Field(plane.url, tmp_path) as field, field.lane(Script()) as here:
            field.kubelet.endings[here.namespace, "mascot-reinforce-1", 1] = ExitCode.TRANSIENT
            here.operator.set_clock(jump)
            await here.submit()
            await here.history.until("the job's end", lambda: here.history.finished, 60)
            stage = here.history.status.stages[1]
            assert (stage.attempt, stage.restarts.failures, stage.restarts.disruptions) == (2, 1, 0)

    asyncio.run(run())
