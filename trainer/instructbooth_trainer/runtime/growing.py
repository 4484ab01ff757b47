"""A download of many gigabytes is no hang: as long as its folder grows, the process moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

INTERVAL = 5.0


@contextmanager
def beating_while_it_grows(folder: Path, beat: Callable[[], None], interval: float = INTERVAL) -> Iterator[None]:
    """Call `beat` every `interval` seconds in which the files below `folder` have become more bytes."""
    ended = threading.Event()

    def watch() -> None:
        before = _bytes_below(folder)
        while not ended.wait(interval):
            now = _bytes_below(folder)
            if now > before:
                beat()
            before = now

    thread = threading.Thread(target=watch, name="growing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed or removed while we looked
            continue
    return total
