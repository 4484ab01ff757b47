"""Specs of jobs as they were read last: to validate one takes longer than most passes, and specs hardly ever change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from instructbooth.reconcile.policies import skew
from instructbooth.spec.job import ResolvedJob

MOST = 512  # some 40 kB each


class Specs:
    """`read` of the jobs that were asked for last."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._read: OrderedDict[str, tuple[Any, tuple[ResolvedJob, list[str]]]] = OrderedDict()

    def read(self, job: Mapping[str, Any]) -> tuple[ResolvedJob, list[str]]:
        """What `skew.read` says of the job. Raises pydantic.ValidationError, each time anew."""
        uid, spec = job["metadata"]["uid"], job["spec"]
        known = self._read.pop(uid, None)
        if known is None or known[0] != spec:
            known = spec, skew.read(job)
        self._read[uid] = known
        if len(self._read) > self._most:
            self._read.popitem(last=False)
        return known[1]
