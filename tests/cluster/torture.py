#!/usr/bin/env python3
"""Kills `up` and `down` at many points and proves that the next call makes good whatever they left.

    torture.py [SECONDS ...]    when to kill, after the start of each call; a default series without arguments

It raises a cluster of its own, in network and mount namespaces of its own, and leaves the other one alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = [sys.executable, str(Path(__file__).with_name("cluster.py"))]
UP = ["up", "--images", "pause"]
NODES_READY = "node-1   Ready", "node-2   Ready"


def call(*words: str) -> str:
    """Run cluster.py to its end and return its stdout; it must succeed."""
    return subprocess.run([*SCRIPT, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def kill_after(seconds: float, *words: str) -> bool:
    """Start a call and kill it after some time, without any chance to tidy up; False when it was done before."""
    with subprocess.Popen([*SCRIPT, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
    return False


def in_namespaces_of_its_own() -> None:
    """Start this script anew where the other cluster's addresses, mounts and packet filter do not exist."""
    name = "ib-torture"
    cache = os.environ.get("INSTRUCTBOOTH_CACHE") or str(Path.home() / ".cache" / "instructbooth")
    own = Path("/var/lib") / f"{name}-cache"
    own.mkdir(exist_ok=True)
    subprocess.run(["cp", "--archive", "--link", "--update", f"{cache}/builds", f"{cache}/bin", own], check=True)
    env = {**os.environ, "INSTRUCTBOOTH_CLUSTER": name, "INSTRUCTBOOTH_CACHE": str(own), "CLUSTER": "own"}
    again = " ".join(["ip link set lo up && exec", sys.executable, __file__, *sys.argv[1:]])
    try:
        subprocess.run(["unshare", "--net", "--mount", "sh", "-c", again], env=env, check=True)
    finally:
        shutil.rmtree(own)


def main() -> None:
    """For each moment: a killed `up`, a whole one, a killed `down`, a whole one, nothing left."""
    moments = [float(word) for word in sys.argv[1:]] or [0.3, 0.7, 1.2, 1.8, 2.5, 3.5, 5.0, 7.0]
    call("down")
    for moment in moments:
        start = time.monotonic()
        killed_up = kill_after(moment, *UP)
        call(*UP)
        status = call("status")
        assert all(line in status for line in NODES_READY), status
        killed_down = kill_after(moment, "down")
        call("down")
        call("status", "--leftovers")
        seconds = time.monotonic() - start
        print(f"{moment:5.1f} s: up killed {killed_up}, down killed {killed_down}, {seconds:.0f} s in all", flush=True)


if __name__ == "__main__":
    if os.environ.get("INSTRUCTBOOTH_CLUSTER"):
        main()
    else:
        in_namespaces_of_its_own()
