"""How much is tried: little in CI, much in the long run (`make chaos SEEDS=100`)."""

from __future__ import annotations

import os

SEEDS = int(os.environ.get("SEEDS") or 10)
SEED_BASE = int(os.environ.get("SEED_BASE") or 1)
LONG = SEEDS >= 100
OUTAGE_SECONDS = 60.0 if LONG else 5.0  # of the object storage
