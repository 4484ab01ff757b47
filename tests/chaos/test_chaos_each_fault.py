"""Each kind of fault once, where it hurts: in the end it is all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.call import Call
from tests.chaos.faults import Fault, Kind, Once, Several
from tests.chaos.field import Calm, Field, Result
from tests.integration.operator.plane import ControlPlane

pytestmark = pytest.mark.cluster

STATUS = Call("patch", "instructboothjobs/status", "mascot")
FIRST_CHILD = Call("create", "jobs", "mascot-personalize-1")
SECOND_GANG = Call("create", "jobs", "mascot-reinforce-2")
OLD_GANG = Call("delete", "jobs", "mascot-reinforce-1")
JOBS_WATCH, IBJ_WATCH = Call("watch", "jobs"), Call("watch", "instructboothjobs")
JOBS_LIST, IBJ_LIST = Call("list", "jobs"), Call("list", "instructboothjobs")
TOLD = Call("create", "events", "StageStarted")
ALL = 10_000

CASES = {
    "409 to status writes": Once(STATUS, 1, Fault(Kind.REFUSE, 409), times=2),
    "409 to the creation of a child": Once(FIRST_CHILD, 0, Fault(Kind.REFUSE, 409)),
    "429 with Retry-After to a status write": Once(STATUS, 0, Fault(Kind.REFUSE, 429, 2.0), times=2),
    "500 to the deletion of a gang": Once(OLD_GANG, 0, Fault(Kind.REFUSE, 500), times=2),
    "500 though a child was created": Once(FIRST_CHILD, 0, Fault(Kind.LOSE, 500)),
    "500 though the status was written": Once(STATUS, 2, Fault(Kind.LOSE, 500)),
    "504 though the gang was deleted": Once(OLD_GANG, 0, Fault(Kind.LOSE, 504)),
    "reset before a child is created": Once(SECOND_GANG, 0, Fault(Kind.RESET)),
    "reset after a child is created": Once(SECOND_GANG, 0, Fault(Kind.RESET_AFTER)),
    "the dead operator's status comes late": Once(STATUS, 0, Fault(Kind.LATE, seconds=5.0)),
    "the dead operator's child comes late": Once(SECOND_GANG, 0, Fault(Kind.LATE, seconds=2.0)),
    "the dead operator's deletion comes late": Once(OLD_GANG, 0, Fault(Kind.LATE, seconds=2.0)),
    "500 to an event": Once(TOLD, 0, Fault(Kind.REFUSE, 500), times=2),
    "410 to the first watches": Several(
        (Once(JOBS_WATCH, 0, Fault(Kind.REFUSE, 410), 3), Once(IBJ_WATCH, 0, Fault(Kind.REFUSE, 410), 3))
    ),
    "410 in a watch's stream": Once(JOBS_WATCH, 2, Fault(Kind.EXPIRE, 410), times=3),
    "500 in a watch's stream": Once(JOBS_WATCH, 2, Fault(Kind.BREAK, 500)),
    "429 and 500 to lists and watches": Several(
        (
            Once(JOBS_LIST, 0, Fault(Kind.REFUSE, 429, 1.0), times=2),
            Once(IBJ_LIST, 0, Fault(Kind.REFUSE, 500), times=2),
            Once(JOBS_WATCH, 0, Fault(Kind.REFUSE, 429, 1.0), times=2),
            Once(IBJ_WATCH, 0, Fault(Kind.REFUSE, 500), times=2),
        )
    ),
    "the child watch loses every event": Once(JOBS_WATCH, 0, Fault(Kind.DROP), times=ALL),
    "the job watch loses every event": Once(IBJ_WATCH, 0, Fault(Kind.DROP), times=ALL),
    "watch events come late": Several(
        (
            Once(JOBS_WATCH, 0, Fault(Kind.HOLD, seconds=1.0), ALL),
            Once(IBJ_WATCH, 0, Fault(Kind.HOLD, seconds=1.5), ALL),
        )
    ),
    "a new operator is shown the lists of the first one": Several(
        (
            Once(SECOND_GANG, 0, Fault(Kind.CRASH_AFTER)),
            Once(JOBS_LIST, 0, Fault(Kind.STALE), times=8),
            Once(IBJ_LIST, 0, Fault(Kind.STALE), times=8),
        )
    ),
}


async def run_cases(plane: ControlPlane, calm: Calm, folder: Path) -> list[Result]:
    """Run the job once for each case."""
    async with Field(plane.url, folder) as field:
        return await field.all(CASES.items(), calm.portrait)


def test_each_fault_changes_nothing_in_the_end(
    plane: ControlPlane, calm: Calm, tmp_path: Path, subtests: pytest.Subtests, tell: Callable[[str], None]
) -> None:
    results = asyncio.run(run_cases(plane, calm, tmp_path))
    tell(f"{len(results)} faults by name: {sum(not result.problems for result in results)} ended the same")
    for result in results:
        with subtests.test(result.name):
            result.check()
            assert result.lane is not None
            assert result.lane.proxy.struck or any(seen.fault for seen in result.lane.proxy.seen)
