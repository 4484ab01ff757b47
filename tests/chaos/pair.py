"""Two operators for one job. The first leads and stays away once it has ended; the second stands by."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.chaos.faults import Script
from tests.chaos.field import Field
from tests.chaos.kube import Kube
from tests.chaos.lane import Lane
from tests.chaos.proxy import Seen
from tests.chaos.seat import Seat
from tests.chaos.truth import History

LEASE = "leader"
ACTS_WITHIN = 20.0  # seconds from the death of the leader: what docs/operations.md promises
STARTS_WITHIN = 60.0
STANDING_BY = (200, "ok, standing by\n")


class Pair(Lane):
    """Use `pair()`.

    Attributes:
        second: the seat of the standby; that of the leader is `seat`.
        took: seconds from the end (or the freezing) of the leader until the standby acted; None if it did not.
        after: what the leader asked for after it was woken.
    """

    def __init__(self, kube: Kube, namespace: str, history: History, seat: Seat, second: Seat) -> None:
        super().__init__(kube, namespace, history, seat)
        self.second = second
        self.took: float | None = None
        self.after: list[Seen] = []
        self._woken: int | None = None

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
        """Wait for something. Raises AssertionError."""
        try:
            async with asyncio.timeout(seconds):
                while not await holds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {seconds:.0f} s\n{self.story()}") from None

    async def led_by(self, seat: Seat) -> bool:
        """Whether that one holds the Lease."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        return any(lease["spec"].get("holderIdentity") == seat.name for lease in await self.kube.items(path))

    async def acted(self) -> bool:
        """Whether the second has done what a leader does: write, unless there is nothing left to do."""
        if any(call.resource != "leases" for call, _ in self.second.proxy.writes()):
            return True
        return self.history.finished and await self.led_by(self.second)

    async def measure(self, since: float) -> None:
        """Wait for the second to act; the loop's time `since` is when the first ceased to."""
        await self.until("the standby to act", self.acted, ACTS_WITHIN)
        self.took = asyncio.get_running_loop().time() - since

    async def succession(self) -> None:
        """When the first has died, the second must act; when it was stopped, likewise, and then it is woken."""
        dead, frozen = asyncio.ensure_future(self.operator.wait()), asyncio.ensure_future(self.seat.frozen.wait())
        await asyncio.wait({dead, frozen}, return_when=asyncio.FIRST_COMPLETED)
        if dead.done():
            frozen.cancel()
            await self.measure(self.operator.killed_at)
            return
        await self.measure(asyncio.get_running_loop().time())
        await self.until("what was under way to end", self._struck, ACTS_WITHIN)
        woken = len(self.proxy.seen)
        self.operator.send(signal.SIGCONT)
        try:
            await self.until("the woken one to stand by", self._stands_by, STARTS_WITHIN)
        finally:
            self.after = self.proxy.seen[woken:]
            dead.cancel()

    async def _struck(self) -> bool:
        return any(seen.fault for seen in self.proxy.seen)

    async def _stands_by(self) -> bool:
        return await self.seat.page("/readyz") == STANDING_BY

    def story(self) -> str:
        """What happened, for people."""
        return f"{self.seat.story()}\n{self.second.story()}"


@contextlib.asynccontextmanager
async def pair(field: Field, script: Script) -> AsyncIterator[Pair]:
    """A pair, the first leading under that script, the second standing by."""
    namespace, folder = field.place()
    (folder / "second").mkdir()
    flags = (f"--lease={LEASE}", f"--pod-namespace={namespace}")
    first = Seat(field.kube.url, folder, namespace, script, *flags)
    second = Seat(field.kube.url, folder / "second", namespace, Script(), *flags, name="operator-1")
    made = Pair(field.kube, namespace, field.truth.histories[namespace], first, second)
    await made.prepare()
    async with first.taken(again=False):
        await made.until("the first to lead", lambda: made.led_by(first), STARTS_WITHIN)
        async with second.taken(again=False):

            async def stands_by() -> bool:
                return await second.page("/readyz") == STANDING_BY

            await made.until("the second to stand by", stands_by, STARTS_WITHIN)
            watching = asyncio.create_task(made.succession())
            yield made
            if first.frozen.is_set() or first.operator.exits:
                await watching
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
