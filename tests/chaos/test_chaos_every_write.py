"""The operator killed at each of its writes, once just before and once just after: in the end it is all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.faults import Fault, Kind, Once
from tests.chaos.field import Calm, Field, Result
from tests.integration.operator.plane import ControlPlane

pytestmark = pytest.mark.cluster


async def crash_everywhere(plane: ControlPlane, calm: Calm, folder: Path, scripts: list[Once]) -> list[Result]:
    """Run the job once for each crash."""
    async with Field(plane.url, folder) as field:
        return await field.all(((f"{s.fault}: {s.call} #{s.number}", s) for s in scripts), calm.portrait)


def test_a_crash_at_any_write_changes_nothing_in_the_end(
    plane: ControlPlane, calm: Calm, tmp_path: Path, subtests: pytest.Subtests, tell: Callable[[str], None]
) -> None:
    kinds = (Kind.CRASH_BEFORE, Kind.CRASH_AFTER)
    scripts = [Once(call, number, Fault(kind)) for call, number in calm.writes for kind in kinds]
    results = asyncio.run(crash_everywhere(plane, calm, tmp_path, scripts))
    same = sum(not result.problems for result in results)
    tell(f"{len(results)} crashes, before and after each of {len(results) // 2} writes: {same} ended the same")
    for result, script in zip(results, scripts, strict=True):
        with subtests.test(result.name):
            result.check()
            assert (script.fired, result.exits) == (1, 1)
    assert len(scripts) >= 2 * 15
