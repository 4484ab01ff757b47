"""What tests take from the machine that they run on: the binaries that `make cluster` builds, and free ports."""

from __future__ import annotations

import os
import random
import shutil
import socket
from pathlib import Path

BIN = Path(os.environ.get("INSTRUCTBOOTH_CACHE") or Path.home() / ".cache" / "instructbooth") / "bin"


def binary(name: str) -> str:
    """Path of a binary: what <NAME>_BINARY says, what `make cluster` built, or what is on PATH.

    Raises FileNotFoundError with the way out.
    """
    variable = f"{name.upper().replace('-', '_')}_BINARY"
    for candidate in (os.environ.get(variable), str(BIN / name), shutil.which(name)):
        if candidate and Path(candidate).is_file():
            return candidate
    raise FileNotFoundError(f"{name} is neither in {BIN} nor on PATH; `make cluster` builds it, or set {variable}")


# Below the ports that Linux gives to outgoing connections (32768-60999) and that Kubernetes gives to Services
# (30000-32767): between a port's choice and its use, any client on the machine may be handed one of those.
PORTS = range(10_000, 30_000)
_chosen: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, whatever the address, and that this process was not given before.

    Raises OSError where a hundred ports drawn at random are all taken.
    """
    for port in random.SystemRandom().sample(PORTS, 100):  # not the seeded generator: two test workers would draw alike
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in _chosen:
            _chosen.add(port)
            return port
    raise OSError(f"a hundred ports between {PORTS.start} and {PORTS.stop - 1}, drawn at random, are all taken")
