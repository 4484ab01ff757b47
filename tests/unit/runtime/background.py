"""Calls in threads that keep no test from ending: one that waits for ever is red, not endless."""

from __future__ import annotations

import threading
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
