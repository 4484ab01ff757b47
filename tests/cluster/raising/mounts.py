"""Mount points of this machine, and taking ours away."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def below(homes: Sequence[Path]) -> list[str]:
    """The mount points at or below these folders, the deepest and latest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if any(point == str(home) or point.startswith(f"{home}/") for home in homes):
            found.append(point)
    return found[::-1]


def remove(homes: Sequence[Path]) -> None:
    """Unmount what is mounted at or below these folders; what a process still uses goes when the process does."""
    for point in below(homes):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
