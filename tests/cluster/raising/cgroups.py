"""The cluster's own cgroup: what lives in it is ours, whoever started it and however its parents died.

Works on a cgroup v1 machine (one tree for each controller) and on v2 (one tree for all).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from raising.settings import CGROUP, NODES
from raising.shell import ClusterError

ROOT = Path("/sys/fs/cgroup")
_HOST = "host"


def is_unified() -> bool:
    """True on a machine with cgroup v2 alone."""
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The root of each cgroup tree of this machine."""
    if is_unified():
        return [ROOT]
    trees = {path.resolve() for path in ROOT.iterdir() if (path / "cgroup.procs").exists()}
    return sorted(trees)


def prepare() -> None:
    """Make our cgroup with a leaf for the host's processes and one for each node, in every tree."""
    for tree in hierarchies():
        for leaf in (_HOST, *(node.name for node in NODES)):
            for path in (tree / CGROUP, tree / CGROUP / leaf):
                path.mkdir(exist_ok=True)
                for inherited in ("cpuset.cpus", "cpuset.mems"):  # v1: born empty, and useless until filled
                    if (path / inherited).exists() and not (path / inherited).read_text().strip():
                        (path / inherited).write_text((path.parent / inherited).read_text())
        if is_unified():
            wanted = " ".join(f"+{name}" for name in (tree / "cgroup.controllers").read_text().split())
            for path in (tree, tree / CGROUP):
                (path / "cgroup.subtree_control").write_text(wanted)


def join_host_leaf() -> None:
    """Move the calling process into the leaf of the host's processes. Its children are born there."""
    for tree in hierarchies():
        if is_unified() or tree.name == "pids":
            (tree / CGROUP / _HOST / "cgroup.procs").write_text(str(os.getpid()))


def leaves() -> list[Path]:
    """Every cgroup of ours, children before parents."""
    found: list[Path] = []
    for tree in hierarchies():
        found += [Path(directory) for directory, _, _ in os.walk(tree / CGROUP, topdown=False)]
    return found


def processes() -> set[int]:
    """Every process that lives in our cgroups."""
    pids: set[int] = set()
    for leaf in leaves():
        with contextlib.suppress(FileNotFoundError, OSError):  # a cgroup may go while we look
            pids.update(int(word) for word in (leaf / "cgroup.procs").read_text().split())
    return pids - {0, os.getpid()}


def kill_all(seconds: float = 20.0) -> None:
    """End every process in our cgroups and wait until they are gone."""
    end = time.monotonic() + seconds
    while pids := processes():
        if time.monotonic() > end:
            raise ClusterError(f"these processes do not end: {sorted(pids)}; is a disk or a mount hanging?")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def remove(seconds: float = 10.0) -> None:
    """Take our cgroups away; the kernel may need a moment after the last process of one has ended."""
    end = time.monotonic() + seconds
    while left := leaves():
        for leaf in left:
            with contextlib.suppress(OSError):
                leaf.rmdir()
        if time.monotonic() > end:
            raise ClusterError(f"cannot remove the cgroups {[str(path) for path in leaves()]}")
        time.sleep(0.05)
