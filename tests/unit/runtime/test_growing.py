"""Downloads that go on are told from downloads that stand still."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from instructbooth_trainer.runtime.growing import beating_while_it_grows


def test_bytes_that_come_are_movement_and_nothing_else_is(tmp_path: Path) -> None:
    beats = threading.Semaphore(0)
    file = tmp_path / "deep" / "model.safetensors.partial"
    file.parent.mkdir()
    with beating_while_it_grows(tmp_path, beats.release, interval=0.05):
        assert not beats.acquire(timeout=0.5)
        file.write_bytes(b"x" * 10)
        assert beats.acquire(timeout=30)
        file.write_bytes(b"")  # begun anew: no progress
        file.touch()
        assert not beats.acquire(timeout=0.5)
        file.rename(tmp_path / "model.safetensors")
        assert not beats.acquire(timeout=0.5)
    (tmp_path / "more").write_bytes(b"x" * 100)
    time.sleep(0.2)
    assert not beats.acquire(timeout=0.1)  # the thread is gone
