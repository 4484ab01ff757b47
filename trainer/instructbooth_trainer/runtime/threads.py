"""CPU threads. A pod sees all the node's cores, but its cgroup gives it only a share: more threads than that only wait.

The number is also part of a result: sums over another number of threads differ in their last bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def cpu_quota(root: Path = CGROUP_ROOT) -> float | None:
    """CPUs the cgroup may use (v2, then v1); None when unlimited or unknown."""
    v2 = _read(root / "cpu.max")
    if v2 is not None:
        quota, _, period = v2.partition(" ")
        return None if quota == "max" else int(quota) / int(period or 100_000)
    quota_v1, period_v1 = (_read(root / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota_v1 is None or period_v1 is None or int(quota_v1) <= 0:
        return None
    return int(quota_v1) / int(period_v1)


def choose_threads(num_processes: int, env: Mapping[str, str], root: Path = CGROUP_ROOT) -> int:
    """Threads for each of `num_processes` processes: OMP_NUM_THREADS if set, else an equal share of the quota."""
    asked = env.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cores = float(len(os.sched_getaffinity(0)))
    return max(1, math.floor(min(cores, cpu_quota(root) or cores) / num_processes))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
