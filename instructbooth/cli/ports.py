"""Free ports of this machine."""

from __future__ import annotations

import random
import socket

# Below the ports that Linux gives to outgoing connections (32768-60999) and that Kubernetes gives to Services
# (30000-32767): between a port's choice and its use, any client on the machine may be handed one of those.
PORTS = range(10_000, 30_000)
_chosen: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, whatever the address, and that this process was not given before.

    Raises OSError where a hundred ports drawn at random are all taken.
    """
    for port in random.SystemRandom().sample(PORTS, 100):  # never the seeded generator: two processes would draw alike
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in _chosen:
            _chosen.add(port)
            return port
    raise OSError(f"a hundred ports between {PORTS.start} and {PORTS.stop - 1}, drawn at random, are all taken")
