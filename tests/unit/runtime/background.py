"""Calls in threads that keep no test from ending: one that waits for ever is red, not endless."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def spawn(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """The result to come of `call`, which runs beside the test."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_until(condition: Callable[[], object]) -> None:
    """Return once it is true. Raises AssertionError after half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
