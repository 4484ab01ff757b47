"""Taking the cluster down, and proving that nothing of it is left."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raising import cgroups, mounts, network
from raising.nodes import criclient
from raising.processes import running_pid, stop
from raising.settings import CACHE, NAME, NODES, PIDS, STATE, Node
from raising.shell import ClusterError, say, step

_CNI_RESULTS = Path("/var/lib/cni/results")
_CNI_PATTERN = f"{NAME}-*"
#: Where the cluster mounts, and where the building of images does.
_HOMES = (STATE, *(node.image_store for node in NODES), CACHE / "buildah", CACHE / "tmp")


def shims(nodes: Iterable[Node]) -> list[int]:
    """Container shims that serve these nodes' runtimes: they live outside of our cgroup."""
    sockets = {str(node.socket) for node in nodes}
    strays = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "containerd-shim" in words[0] and sockets & set(words):
                strays.append(int(path.parent.name))
    return strays


def _cni_results() -> list[Path]:
    return sorted(_CNI_RESULTS.glob(_CNI_PATTERN)) if _CNI_RESULTS.is_dir() else []


def _shim_sockets() -> list[Path]:
    found = []
    for node in NODES:
        for address in (node.directory / "containerd").glob("io.containerd.runtime.v2.task/*/*/address"):
            found.append(Path(address.read_text().removeprefix("unix://")))
    return found


def list_leftovers() -> list[str]:
    """Everything of a cluster that is on the machine now, one line each; empty after `down`."""
    found = [f"process {pid} in our cgroup" for pid in sorted(cgroups.processes())]
    if PIDS.is_dir():
        found += [f"process {running_pid(path)} ({path.name})" for path in PIDS.iterdir() if running_pid(path)]
    found += [f"container shim, process {pid}" for pid in shims(NODES)]
    found += [f"mount {point}" for point in mounts.below(_HOMES)]
    found += [f"cgroup {leaf}" for leaf in cgroups.leaves()]
    found += [f"packet filter chain {chain}" for chain in network.our_chains()]
    found += [f"CNI result {path}" for path in _cni_results()]
    if network.bridge_exists():
        found.append("network bridge")
    if STATE.exists():
        found.append(f"folder {STATE}")
    return found


def _stop_pods(node: Node) -> None:
    if running_pid(PIDS / f"containerd-{node.name}") is None:
        return
    try:
        criclient(node, "stop")
    except ClusterError as error:  # what does not stop when asked is ended with its cgroup
        say(f"  {node.name}: {error}")


def down() -> None:
    """Take the cluster down. Works on whatever a killed `up` or `down` left; the caches stay."""
    if not list_leftovers():
        say("no cluster is up")
        return
    with step("pods"):
        for node in NODES:
            stop(PIDS / f"kubelet-{node.name}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(_stop_pods, NODES))
    with step("processes"):
        sockets = _shim_sockets()
        for node in NODES:  # with a clean end, so that the image stores stay whole
            stop(PIDS / f"containerd-{node.name}")
        cgroups.kill_all()
        if PIDS.is_dir():
            for path in PIDS.iterdir():
                stop(path)
        for socket in sockets:
            socket.unlink(missing_ok=True)
    with step("mounts, network, cgroups"):
        mounts.remove(_HOMES)
        for path in _cni_results():
            path.unlink(missing_ok=True)
        network.remove()
        cgroups.remove()
        if STATE.exists():
            shutil.rmtree(STATE)
    if left := list_leftovers():
        raise ClusterError("these are left:\n" + "\n".join(f"  {line}" for line in left))
