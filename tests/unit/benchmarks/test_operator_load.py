"""A watch that the API server ends goes on after its last line; a benchmark that is ended ends what it started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.operator.load import Watch
from benchmarks.operator.processes import end_with_everything


def event(version: int) -> bytes:
    return b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"%d"}}}' % version


class Plane:
    def request(self, method: str, path: str) -> dict[str, Any]:
        return {"metadata": {"resourceVersion": "5"}}


def watched(monkeypatch: pytest.MonkeyPatch, streams: list[list[bytes]]) -> tuple[list[str], list[bytes], Watch]:
    opened: list[str] = []
    seen: list[bytes] = []

    def open_(watch: Watch, version: str) -> Iterator[bytes]:
        opened.append(version)
        return iter(streams[len(opened) - 1])

    monkeypatch.setattr(Watch, "_open", open_)
    plane: Any = Plane()
    watch = Watch(plane, "/jobs", seen.append, "application/json")
    end = time.monotonic() + 10
    while watch.error is None and time.monotonic() < end:
        time.sleep(0.01)
    return opened, seen, watch


def test_it_goes_on_after_the_last_line(monkeypatch):
    opened, seen, watch = watched(monkeypatch, [[event(6), event(7)], [event(9)], []])
    assert opened == ["5", "7", "9"]
    assert seen == [event(6), event(7), event(9)]
    assert str(watch.error) == "the watch of /jobs ended"  # at once, with nothing in between: a server that is gone


def test_a_version_that_is_too_old_is_an_error(monkeypatch):
    gone = b'{"type":"ERROR","object":{"code":410}}'
    opened, seen, watch = watched(monkeypatch, [[event(6)], [gone]])
    assert opened == ["5", "6"]
    assert seen == [event(6)]
    assert "410" in str(watch.error)


def test_sigterm_ends_a_benchmark_as_an_error_would():
    before = signal.getsignal(signal.SIGTERM)
    try:
        end_with_everything()
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
