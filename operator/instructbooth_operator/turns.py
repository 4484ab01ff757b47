"""Asking Kueue why a gang waits costs a list each, and in a full cluster a thousand of them wait at a time.

They take turns, first come, first served: so many questions a second in all, however many wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """`rate` turns a second, and one second's worth at once after a pause."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0
        self._given: dict[K, float] = {}

    def wait(self, key: K) -> float:
        """Seconds until it is this key's turn. 0: it is, and the turn is taken. It keeps its place until then."""
        now = asyncio.get_running_loop().time()
        at = self._given.get(key)
        if at is None:
            at = self._next = max(self._next, now - 1.0) + 1.0 / self._rate
        if at <= now:
            self._given.pop(key, None)
            return 0.0
        self._given[key] = at
        return at - now

    def forget(self, key: K) -> None:
        """It will not come any more."""
        self._given.pop(key, None)
