"""Workers of pytest-xdist side by side on one machine."""

from __future__ import annotations

import os

from instructbooth.cli import ports

# A port is free until somebody listens on it: no two workers may choose the same one.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    ports.PORTS = ports.PORTS[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
