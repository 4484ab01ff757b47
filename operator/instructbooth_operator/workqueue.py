"""A queue of keys: each at most once in it, each with one worker at a time, delays included."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys to work on, in order of arrival.

    A key that is added while it is being worked on is worked on once more afterwards: what its worker has seen may be
    older than the reason for which it was added.
    """

    def __init__(self) -> None:
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return self._ready.qsize()

    def add(self, key: K, after: float = 0.0) -> None:
        """Add a key, now or after so many seconds; of several delays the earliest counts."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if after > 0:
            if timer is not None and timer.when() <= loop.time() + after:
                return
            if timer is not None:
                timer.cancel()
            self._timers[key] = loop.call_later(after, self._due, key)
        elif key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    async def get(self) -> K:
        """The next key, which is then this worker's until `done`."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._working.add(key)
        # Whatever it was to be looked at later for is looked at now.
        if timer := self._timers.pop(key, None):
            timer.cancel()
        return key

    def done(self, key: K) -> None:
        """Give a key back."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _due(self, key: K) -> None:
        del self._timers[key]
        self.add(key)
