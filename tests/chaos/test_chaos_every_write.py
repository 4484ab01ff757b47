"""The operator killed at each of its writes, once just before and once just after: in the end it is all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.faults import Fault, Kind, Once
from tests.chaos.field import Field, Result
from tests.integration.operator.plane import ControlPlane

pytestmark = pytest.mark.cluster


async def crash_everywhere(plane: ControlPlane, folder: Path) -> tuple[list[Result], list[Once]]:
    """Run the job once undisturbed, then once for each crash."""
    async with Field(plane.url, folder) as field:
        calm = await field.calm()
        assert calm.lane is not None
        assert calm.portrait is not None
        scripts = [
            Once(call, number, Fault(kind))
            for call, number in calm.lane.proxy.writes()
            for kind in (Kind.CRASH_BEFORE, Kind.CRASH_AFTER)
        ]
        runs = [(f"{script.fault}: {script.call} #{script.number}", script) for script in scripts]
        return await field.all(runs, calm.portrait), scripts


def test_a_crash_at_any_write_changes_nothing_in_the_end(
    plane: ControlPlane, tmp_path: Path, subtests: pytest.Subtests, tell: Callable[[str], None]
) -> None:
    results, scripts = asyncio.run(crash_everywhere(plane, tmp_path))
    same = sum(not result.problems for result in results)
    tell(f"{len(results)} crashes, before and after each of {len(results) // 2} writes: {same} ended the same")
    for result, script in zip(results, scripts, strict=True):
        with subtests.test(result.name):
            result.check()
            assert (script.fired, result.exits) == (1, 1)
    assert len(scripts) >= 2 * 15
