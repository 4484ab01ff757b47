"""Gives the second node what the first has pulled, without a second copy of six gigabytes.

The nodes stand on one disk. Unpacked layers are never written to, so that both image stores can share the files by
hard links; only the databases, which are written to, are copied.
"""

from __future__ import annotations

import shutil

from raising.nodes import containerd
from raising.processes import bring_up, running_pid, stop
from raising.settings import NODES, PIDS, Node
from raising.shell import run, step

_PARTS = (
    "io.containerd.content.v1.content",
    "io.containerd.metadata.v1.bolt",
    "io.containerd.snapshotter.v1.overlayfs",
)


def is_wanted(node: Node) -> bool:
    """True when a node has no image store yet and the first node runs no pods that a pause would disturb."""
    first = NODES[0]
    return node != first and not node.image_store.exists() and running_pid(PIDS / f"kubelet-{first.name}") is None


def seed(node: Node) -> None:
    """Make a node's image store from the first node's. The first node's runtime must be up; it is up again after."""
    first = NODES[0]
    with step(f"{node.name} shares the image layers of {first.name}"):
        stop(PIDS / f"containerd-{first.name}")  # its databases must rest while they are copied
        making = node.image_store.with_name(f"{node.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        for part in _PARTS:
            run(["cp", "--archive", "--link", first.image_store / part, making / part])
        for database in making.rglob("*.db"):
            if database.parent.parent == making:
                original = first.image_store / database.relative_to(making)
                database.unlink()
                shutil.copy2(original, database)
        making.replace(node.image_store)
    bring_up(containerd(first))
