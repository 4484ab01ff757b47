"""A rank on a cut-off node goes on after its gang was given up: nobody believes what it writes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from instructbooth.artifacts.commit import fetch
from instructbooth.artifacts.layout import RunLayout
from instructbooth.artifacts.local import LocalStore
from instructbooth.contract import Stage

STAGE = "store/runs/team/rex/u-1/reinforce"


def stopped_child(pod: Any) -> int:
    """The pid of the training process of a pod, once it has stopped itself."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and pod.process.poll() is None:
        for child in pod.children():
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return int(child)
        time.sleep(0.2)
    raise AssertionError(f"never stopped:\n{pod.log.read_text()}")


def test_a_zombie_changes_nothing_that_a_later_attempt_or_a_reader_accepts(
    make_gang: Callable[..., Any], tmp_path: Path
) -> None:
    calm = make_gang("calm")
    assert calm.run("count", nodes=1) == [0]

    gang = make_gang("gang")
    (first,) = gang.start("zombie:0:5", nodes=1)
    cut_off = stopped_child(first)  # it has saved step 4
    (second,) = gang.start("zombie:0:5", nodes=1, attempt=2)
    begun = stopped_child(second)
    assert "going on from step 4 of attempt 1" in second.log.read_text()

    os.kill(cut_off, signal.SIGCONT)  # the network is back: the zombie trains on and publishes, and all of it is whole
    assert first.wait() == 0
    assert (gang.folder / STAGE / "1/checkpoints/6/manifest.json").exists()
    assert (gang.folder / STAGE / "1/output/manifest.json").exists()
    poisoned = load_file(gang.folder / STAGE / "1/output/w.safetensors")["weight"]
    assert float(poisoned.min()) > 900

    os.kill(begun, signal.SIGKILL)  # and now the second gang is lost too
    second.wait()
    (third,) = gang.start("count", nodes=1, attempt=3)
    assert third.wait() == 0
    assert "going on from step 4 of attempt 1" in third.log.read_text()  # not from the zombie's step 6
    # A reader is told the attempt that succeeded.
    store, layout = LocalStore(gang.folder / "store", "runs"), RunLayout("team/rex/u-1/")
    fetch(store, layout.output(Stage.REINFORCE, 3), tmp_path / "read")
    expected = load_file(calm.folder / STAGE / "1/output/w.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in load_file(tmp_path / "read/w.safetensors").items())
