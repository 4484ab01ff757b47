"""Looks at gangs that do not start, beside the workers and as often as the API server has time for them.

In a full cluster thousands wait, and each list of their pods goes through all pods there are. So those who wait are
looked at some dozens at a time, and lists take no more than a share of the time. A job whose look is due is left alone
until then; nothing that happens to it is delayed by that.

Most of them have found no node. A look that shows the same again is followed by no plan, and a list of the few pods
that have a node and do not run yet tells whom to look at sooner, however many wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from instructbooth.reconcile.actions import Haste, Look
from instructbooth.reconcile.observed import Evidence
from instructbooth_operator.cache import Key
from instructbooth_operator.errors import ApiError

log = logging.getLogger(__name__)

BATCH = 50  # children whose pods one list shows
LOOKS_PER_SECOND = 10.0  # each may be followed by a pass, which is the operator's own CPU
SHARE_OF_TIME = 0.25  # that the API server may spend on them
LONGEST_SECONDS = 15.0  # between two lists, however long one took
AGAIN_SECONDS = 5.0  # after a list that failed
UNPLACED_SECONDS = 120.0  # between two looks at a gang that finds no node: `glance` is for that
GLANCE_SECONDS, GLANCES_SHARE = 15.0, 0.05  # between two rounds, and of the time


class Lookout:
    """Looks, first come, first served.

    Args:
        evidence: the pods of each of some children of a namespace. Raises ApiError.
        starting: the children of a namespace of which some pod has a node and does not run yet. Raises ApiError.
        begun: whether some pod of a job's child is ready, or was. Costs no request.
        done: called when `take` has something for a job.
    """

    def __init__(
        self,
        evidence: Callable[[str, list[str]], Awaitable[list[Evidence]]],
        *,
        starting: Callable[[str], Awaitable[set[str]]],
        begun: Callable[[Key, str], bool],
        done: Callable[[Key], None],
    ) -> None:
        self._evidence, self._starting, self._begun, self._done = evidence, starting, begun, done
        self._later: dict[Key, tuple[asyncio.TimerHandle, Look]] = {}
        self._asked: dict[str, dict[Key, Look]] = {}  # by namespace; the one that was served last is the last
        self._listed: dict[Key, Look] = {}  # by the list that is under way
        self._found: dict[Key, tuple[str, Evidence]] = {}
        self._wanted = asyncio.Event()
        self._hurry = False

    def ask(self, key: Key, look: Look, after: float = 0.0) -> None:
        """Have a child of the job looked at, after so many seconds. Whoever is due already keeps its place."""
        self._call_off(key)
        if after > 0:
            self._later[key] = asyncio.get_running_loop().call_later(after, self.ask, key, look), look
            return
        self._asked.setdefault(key.namespace, {})[key] = look
        self._wanted.set()

    def awaits(self, key: Key) -> bool:
        """Whether a look at the job is due and no list has been begun for it."""
        return key in self._asked.get(key.namespace, {})

    def take(self, key: Key) -> tuple[str, Evidence] | None:
        """What a look has shown since this was asked last: the child's name and its pods, as they were."""
        return self._found.pop(key, None)

    def forget(self, key: Key) -> None:
        """The job needs no look any more."""
        self._found.pop(key, None)
        self._listed.pop(key, None)
        self._call_off(key)
        asked = self._asked.get(key.namespace, {})
        asked.pop(key, None)
        if not asked:
            self._asked.pop(key.namespace, None)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(await self.look())

    async def look(self) -> float:
        """Look at some of those who wait; returns for how many seconds to leave the API server alone then."""
        if not self._asked:
            self._wanted.clear()
            return 0.0
        namespace, batch = self._next()
        self._listed = dict(batch)
        clock = asyncio.get_running_loop().time
        began = clock()
        pause = len(batch) / LOOKS_PER_SECOND
        try:
            found = await self._evidence(namespace, [look.child for look in batch.values()])
        except Exception as error:  # noqa: BLE001 - logged and tried again, whatever it is
            pause = max(pause, _trouble(namespace, error))
            if waiting := self._listed | self._asked.pop(namespace, {}):
                self._asked[namespace] = waiting
        else:
            for key, evidence in zip(batch, found, strict=True):
                if look := self._listed.get(key):
                    self._show(key, look, evidence)
        self._listed = {}
        return max(pause, _rest(clock() - began, SHARE_OF_TIME))

    async def glance_for_ever(self) -> None:
        """See to it for ever that gangs which have a node are looked at before those that have none."""
        while True:
            await asyncio.sleep(GLANCE_SECONDS)
            for namespace in {key.namespace for key in self._patient()}:
                await asyncio.sleep(await self.glance(namespace))

    async def glance(self, namespace: str) -> float:
        """Hurry looks at those that have a node by now; returns for how many seconds to leave the API server alone."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            starting = await self._starting(namespace)
        except Exception as error:  # noqa: BLE001 - logged; there is another round
            return _trouble(namespace, error)
        for key, look in self._patient().items():
            if key.namespace == namespace and (look.child in starting or self._begun(key, look.child)):
                self.ask(key, Look(look.child, Haste.SOON))
        return _rest(clock() - began, GLANCES_SHARE)

    def _call_off(self, key: Key) -> None:
        """The look that was asked for in advance."""
        if later := self._later.pop(key, None):
            later[0].cancel()

    def _patient(self) -> dict[Key, Look]:
        """Those who wait for their turn, and those of which a look has shown that they have no node."""
        asked = (pair for of in self._asked.values() for pair in of.items())
        due = {key: look for key, look in asked if look.haste is not Haste.SOON}
        return due | {key: look for key, (_, look) in self._later.items() if look.unplaced}

    def _show(self, key: Key, look: Look, evidence: Evidence) -> None:
        """Have a plan made of what was seen, unless it is what is known."""
        asked_anew = self.awaits(key) or key in self._later
        if look.unplaced and evidence.unplaced and not asked_anew:
            self.ask(key, look, UNPLACED_SECONDS)
            return
        self.forget(key)
        self._found[key] = look.child, replace(evidence, late=True)
        self._done(key)

    def _next(self) -> tuple[str, dict[Key, Look]]:
        """Whom the next list shows: some of one namespace; those in a hurry first, half of it at most.

        Every other list is of the namespace that has waited longest; the others, of those where somebody is in a hurry.
        """
        self._hurry = not self._hurry
        hurrying = (name for name, asked in self._asked.items() if self._hurry and _has_haste(asked))
        namespace = next(hurrying, next(iter(self._asked)))
        asked = self._asked.pop(namespace)
        hurried = [key for key, look in asked.items() if look.haste is Haste.SOON][: BATCH // 2]
        ahead = set(hurried)
        chosen = [*hurried, *(key for key in asked if key not in ahead)][:BATCH]
        batch = {key: asked.pop(key) for key in chosen}
        if asked:
            self._asked[namespace] = asked
        return namespace, batch


def _has_haste(asked: dict[Key, Look]) -> bool:
    return any(look.haste is Haste.SOON for look in asked.values())


def _rest(took: float, share: float) -> float:
    """For how many seconds to leave the API server alone, so that lists take no more than a share of the time."""
    return min(took / share - took, LONGEST_SECONDS)


def _trouble(namespace: str, error: Exception) -> float:
    """Log that a list failed; the seconds after which it may be made again."""
    expected = isinstance(error, ApiError)
    log.warning("%s: cannot look at gangs: %s", namespace, error, exc_info=None if expected else error)
    wish = error.retry_after if isinstance(error, ApiError) else None
    return max(AGAIN_SECONDS, wish or 0.0)
