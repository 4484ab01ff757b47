"""Are the watches alive? Watchers have died silently while every probe was green.

Whenever the operator learns of a version of an object otherwise (its own write, a full list), the watch must show that
version or a newer one before long. If it does not, it is dead, and the liveness probe says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from instructbooth_operator.cache import version

JsonObject = dict[str, Any]


class Freshness:
    """Versions that the watches still owe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._owed: dict[str, tuple[int, float]] = {}
        self._seen: dict[str, int] = {}

    def expect(self, obj: JsonObject) -> None:
        """That version exists: the watch must show it, or a newer one."""
        uid, number = obj["metadata"]["uid"], version(obj)
        if self._seen.get(uid, 0) < number:
            _, since = self._owed.get(uid, (0, self._clock()))
            self._owed[uid] = (number, since)

    def seen(self, obj: JsonObject, gone: bool) -> None:
        """The watch showed that version, or the object's end."""
        uid, number = obj["metadata"]["uid"], version(obj)
        if gone:
            self._seen.pop(uid, None)
        else:
            self._seen[uid] = number
        if gone or self._owed.get(uid, (0, 0.0))[0] <= number:
            self._owed.pop(uid, None)

    def keep_only(self, uids: Iterable[str]) -> None:
        """Nothing is owed of objects that do not exist any more."""
        existing = set(uids)
        self._owed = {uid: owed for uid, owed in self._owed.items() if uid in existing}
        self._seen = {uid: number for uid, number in self._seen.items() if uid in existing}

    def lag(self) -> float:
        """For how many seconds the oldest version has been owed; 0 if none is."""
        return max((self._clock() - since for _, since in self._owed.values()), default=0.0)
