"""Schedules of faults drawn from a seed. One that fails is run again by `make chaos SEED_BASE=<seed> SEEDS=1`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.call import Call
from tests.chaos.effort import SEED_BASE, SEEDS
from tests.chaos.faults import Seeded
from tests.chaos.field import Calm, Field, Result
from tests.integration.operator.plane import ControlPlane


async def run_seeds(plane: ControlPlane, calm: Calm, folder: Path) -> list[Result]:
    """Run the job once for each seed."""
    async with Field(plane.url, folder) as field:
        seeds = range(SEED_BASE, SEED_BASE + SEEDS)
        return await field.all([(f"SEED_BASE={seed} SEEDS=1", Seeded(seed)) for seed in seeds], calm.portrait)


@pytest.mark.cluster
def test_random_faults_change_nothing_in_the_end(
    plane: ControlPlane, calm: Calm, tmp_path: Path, subtests: pytest.Subtests, tell: Callable[[str], None]
) -> None:
    results = asyncio.run(run_seeds(plane, calm, tmp_path))
    for result in results:
        with subtests.test(result.name):
            result.check()
    same = sum(not result.problems for result in results)
    faults = [seen.fault for result in results if result.lane for seen in result.lane.proxy.seen if seen.fault]
    crashes = sum(result.exits for result in results)
    events = sum(len(result.lane.proxy.struck) for result in results if result.lane)
    tell(f"seeds {SEED_BASE} to {SEED_BASE + SEEDS - 1}: {same} of {SEEDS} ended the same; "
         f"{len(faults)} requests and {events} watch events met a fault, {crashes} operators died")  # fmt: skip
    assert len(faults) > 5 * SEEDS, "the schedules are too tame to show anything"


def test_a_schedule_is_a_pure_function_of_its_seed() -> None:
    calls = [Call("apply", "jobs", f"mascot-{n}") for n in range(40)] + [Call("watch", "jobs"), Call("list", "jobs")]
    drawn = [[(Seeded(s).on_call(c, n), Seeded(s).on_event(c, n)) for c in calls for n in range(9)] for s in (1, 2)]
    again = [(Seeded(1).on_call(c, n), Seeded(1).on_event(c, n)) for c in reversed(calls) for n in reversed(range(9))]
    assert drawn[0] == list(reversed(again))
    assert drawn[0] != drawn[1]
    assert all(Seeded(1).on_call(c, 1000) is Seeded(1).on_event(c, 1000) is None for c in calls), (
        "it must come to an end"
    )
