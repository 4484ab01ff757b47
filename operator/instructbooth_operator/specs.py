"""Specs of jobs as they were read last: to validate one takes longer than most passes, and specs hardly ever change."""

from __future__ import annotations

import marshal
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from instructbooth.reconcile.policies import skew
from instructbooth.spec.job import ResolvedJob
from instructbooth_operator.cache import Key, job_key

MOST = 2 << 20  # bytes by `_size`, some 500 specs; as they are kept here they take ten times as much


class Specs:
    """`read` of the jobs that were asked for last.

    Args:
        most: bytes that the kept specs may have together, by `_size`.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._read: OrderedDict[Key, tuple[tuple[str, Any], tuple[ResolvedJob, list[str]], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._read)

    def read(self, job: Mapping[str, Any], begun: bool = False) -> tuple[ResolvedJob, list[str]]:
        """What `skew.read` says of the job. Raises pydantic.ValidationError, each time anew."""
        key, what = job_key(job), (job["metadata"]["uid"], job["spec"])
        known = self._read.get(key)
        if known is not None and known[0] == what:
            self._read.move_to_end(key)
            return known[1]
        self.forget(key)
        found, size = skew.read(job, begun), _size(job["spec"])
        self._read[key] = what, found, size
        self._size += size
        while self._size > self._most:
            self.forget(next(iter(self._read)))
        return found

    def forget(self, key: Key) -> None:
        """The job is gone."""
        if known := self._read.pop(key, None):
            self._size -= known[2]


def _size(spec: Any) -> int:
    """About that of its JSON, which takes five times as long to make."""
    return len(marshal.dumps(spec))
