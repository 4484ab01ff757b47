"""Specs of jobs as they were read last: to validate one takes longer than most passes, and specs hardly ever change."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from instructbooth.reconcile.policies import skew
from instructbooth.spec.job import ResolvedJob

MOST = 2 << 20  # bytes of their JSON, some 500 specs; as they are kept here they take ten times as much


class Specs:
    """`read` of the jobs that were asked for last.

    Args:
        most: bytes of JSON that the kept specs may have together.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._size = 0
        self._read: OrderedDict[str, tuple[Any, tuple[ResolvedJob, list[str]], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._read)

    def read(self, job: Mapping[str, Any]) -> tuple[ResolvedJob, list[str]]:
        """What `skew.read` says of the job. Raises pydantic.ValidationError, each time anew."""
        uid, spec = job["metadata"]["uid"], job["spec"]
        known = self._read.get(uid)
        if known is not None and known[0] == spec:
            self._read.move_to_end(uid)
            return known[1]
        self.forget(uid)
        found, size = skew.read(job), len(json.dumps(spec))
        self._read[uid] = spec, found, size
        self._size += size
        while self._size > self._most:
            self.forget(next(iter(self._read)))
        return found

    def forget(self, uid: str) -> None:
        """The job is gone."""
        if known := self._read.pop(uid, None):
            self._size -= known[2]
