"""A process's log, and its last lines for its last word: what people would look for first when it failed."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from instructbooth.contract import LOG_LINES, Env

LINE_LIMIT = 150  # characters kept of a line: a termination message holds 4 KiB


def log_to_stdout(who: str) -> None:
    """Everything to stdout, one line each, with who says it."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stdout,
        format=f"%(asctime)s {who} %(levelname).1s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )


class LogTail(logging.Handler):
    """Remembers the newest lines; in a file as well where the launcher asks for it, for it may have to speak for us."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._path = Path(env[Env.LOG_TAIL]) if env.get(Env.LOG_TAIL) else None

    @property
    def lines(self) -> list[str]:
        """The newest lines, oldest first."""
        return list(self._lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a record."""
        self._lines.extend(line[:LINE_LIMIT] for line in self.format(record).splitlines())
        if self._path is not None:
            try:
                self._path.write_text("\n".join(self._lines))
            except OSError:
                self.handleError(record)


def read_tail(path: Path) -> list[str]:
    """The lines that a process left in its file; none if it left no file."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
