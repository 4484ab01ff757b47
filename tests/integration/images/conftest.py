"""The cluster's scripts are no installed package: they run on a bare machine, from their folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cluster"))
