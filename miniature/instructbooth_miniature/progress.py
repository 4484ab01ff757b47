"""Progress lines with an ETA, for people who wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

MIN_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts steps of one stage and prints at most one line every ten seconds to stderr."""

    def __init__(self, stage: str, total: int, done: int = 0) -> None:
        self.stage, self.total, self.done = stage, total, done
        self._first_done, self._started, self._printed = done, time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Seconds since this stage was started in this process."""
        return time.monotonic() - self._started

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        """One step is done; `metrics` are shown beside the count."""
        self.done += 1
        now = time.monotonic()
        if now - self._printed < MIN_SECONDS_BETWEEN_LINES and self.done < self.total:
            return
        self._printed = now
        rate = (self.done - self._first_done) / max(now - self._started, 1e-9)
        eta = (self.total - self.done) / max(rate, 1e-9)
        shown = " ".join(f"{name}={value:.4g}" for name, value in (metrics or {}).items())
        print(
            f"[{self.stage}] {self.done}/{self.total} {rate:.2f}/s ETA {eta / 60:.1f} min {shown}".rstrip(),
            file=sys.stderr,
            flush=True,
        )
