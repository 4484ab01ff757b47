"""Many lanes side by side on one control plane, with one kubelet and one witness for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from instructbooth.contract import ExitCode, Label, Stage
from tests.chaos.call import Call
from tests.chaos.faults import Script
from tests.chaos.kube import Kube
from tests.chaos.kubelet import Kubelet
from tests.chaos.lane import Lane, Portrait, lane
from tests.chaos.truth import Truth, broken_rules
from tests.integration.operator.plane import JsonObject

LANES = 6  # at a time: two cores are busy then
SECONDS = 240  # until a job that should have ended counts as stuck: it takes eight on a machine with nothing else to do
SETTLE_SECONDS = 30  # until the last event must have been told
_NUMBERS = count(1)


@dataclass
class Result:
    """How one run ended.

    Attributes:
        name: of the run.
        problems: empty if all was well.
        story: requests, faults and the operator's log.
        exits: how many operators died.
    """

    name: str
    problems: list[str] = field(default_factory=list)
    story: str = ""
    exits: int = 0
    portrait: Portrait | None = None
    lane: Lane | None = None

    def check(self) -> None:
        """Raises AssertionError with the story."""
        assert not self.problems, "\n".join([self.name, *self.problems, self.story])


@dataclass(frozen=True)
class Calm:
    """What the undisturbed run tells: what the others must come to, and which writes there are."""

    portrait: Portrait
    writes: list[tuple[Call, int]]


class Field:
    """Runs the three-stage job, each time with another script. Use as an async context manager.

    Rank 1 of the first reinforce gang is evicted after it has saved: deleting a child and the second attempt belong to
    the story, so that these writes are tried too.
    """

    def __init__(self, url: str, folder: Path, lanes: int = LANES) -> None:
        self.kube = Kube(url)
        self.folder = folder
        self.lanes: list[Lane] = []
        self._slots = asyncio.Semaphore(lanes)

    async def __aenter__(self) -> Field:
        await self.kube.__aenter__()
        self.kubelet, self.truth = Kubelet(self.kube), Truth(self.kube)
        self._tasks = [asyncio.create_task(self.kubelet.run()), asyncio.create_task(self.truth.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.kube.__aexit__()

    def lane(self, script: Script) -> AbstractAsyncContextManager[Lane]:
        """A lane of a fresh namespace."""
        namespace, folder = self.place()
        return lane(self.kube, namespace, folder, self.truth.histories[namespace], script)

    def place(self) -> tuple[str, Path]:
        """Name of a fresh namespace, and a folder for it."""
        namespace = f"chaos-{next(_NUMBERS)}"
        folder = self.folder / namespace
        folder.mkdir()
        self.kubelet.endings[namespace, "mascot-reinforce-1", 1] = ExitCode.CHECKPOINTED
        return namespace, folder

    async def play(
        self,
        name: str,
        script: Script,
        expected: Portrait | None,
        hold: Stage | None = None,
        lane: Callable[[Script], AbstractAsyncContextManager[Lane]] | None = None,
    ) -> Result:
        """One run to its end, compared with the undisturbed one; `expected` is None for that one itself.

        `hold`: the stage in whose middle it stays until `release`. `lane`: where, if not in one of ours.
        """
        result = Result(name)
        async with self._slots, (lane or self.lane)(script) as here:
            result.lane = here
            self.lanes.append(here)
            if hold is not None:
                self.kubelet.holding.add((here.namespace, hold))
            try:
                await here.submit()
                await here.history.until("the job's end", lambda: here.history.finished, SECONDS)
                result.portrait = await self._settled(here, expected)
                if expected is not None:
                    result.problems += result.portrait.differences(here.excused(expected, result.portrait))
                result.problems += broken_rules(here.history)
                if left := await here.delete():
                    result.problems.append(f"left when the job was deleted: {left}")
            except AssertionError as error:
                result.problems += [str(error), *broken_rules(here.history)]
        result.exits, result.story = len(here.operator.exits) - 1, here.story()
        return result

    async def held(self, count: int) -> None:
        """Wait until so many jobs stand in the middle of the stage they are held in."""

        def standing(namespace: str, stage: Stage) -> bool:
            pods = self.truth.histories[namespace].pods
            return any(p.obj["metadata"]["labels"].get(Label.STAGE) == stage and _runs(p.obj) for p in pods)

        for _ in range(10 * SECONDS):
            if sum(standing(*place) for place in self.kubelet.holding) >= count:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the jobs did not come to where they are to be held")

    def release(self) -> None:
        """Let the held jobs go on."""
        self.kubelet.holding.clear()

    async def calm(self) -> Calm:
        """The undisturbed run."""
        result = await self.play("undisturbed", Script(), None)
        result.check()
        assert result.lane is not None
        assert result.portrait is not None
        return Calm(result.portrait, result.lane.proxy.writes())

    async def all(self, runs: Iterable[tuple[str, Script]], expected: Portrait) -> list[Result]:
        """Many runs side by side."""
        return list(await asyncio.gather(*(self.play(name, script, expected) for name, script in runs)))

    @staticmethod
    async def _settled(here: Lane, expected: Portrait | None) -> Portrait:
        """The portrait, once it is the expected one, or has had the time to become so."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (3.0 if expected is None else SETTLE_SECONDS)
        while True:
            portrait = await here.portrait()
            if portrait == expected or loop.time() > end:
                return portrait
            await asyncio.sleep(0.25)


def _runs(pod: JsonObject) -> bool:
    return bool(pod["status"].get("phase") == "Running")
