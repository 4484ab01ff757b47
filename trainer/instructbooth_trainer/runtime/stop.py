"""SIGTERM: a flag that the next checkpoint() sees. A handler must not do more: it may run inside of anything."""

from __future__ import annotations

import logging
import signal
from types import FrameType

log = logging.getLogger(__name__)


class StopFlag:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        """Listen to SIGTERM. Only the main thread may."""
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, _signum: int, _frame: FrameType | None) -> None:
        self.asked = True
