"""CLUSTER=own: everything built and run on this machine, which needs root and a Debian (or what is there already)."""

from __future__ import annotations

from collections.abc import Sequence

from raising import addons, cgroups, controlplane, images, leftovers, network, nodes, pki, seeding, system, toolchain
from raising.processes import bring_up, running_pid
from raising.settings import KUBECONFIG, NODES, PIDS, REGISTRY_SCRIPT
from raising.shell import ClusterError, say


def up(names: Sequence[str]) -> None:
    """Bring the machine from wherever it is to two Ready nodes that hold the named images."""
    system.require_root()
    optional = toolchain.optional(names)
    with toolchain.Builds((*toolchain.TOOLS, *optional)) as builds:
        system.install_packages()
        # Packages come over the network while the compiler works.
        images.build([name for name in names if name not in images.FROM_BINARIES])
        builds.wait("kubernetes", "etcd", "coredns", "kwok", "minio", *(tool.name for tool in optional))
        images.build(names)
        _start(names)
    say(f"the cluster is up; export KUBECONFIG={KUBECONFIG}")


def _start(names: Sequence[str]) -> None:
    cgroups.prepare()
    network.prepare()
    pki.make()
    bring_up(controlplane.etcd(), controlplane.registry(REGISTRY_SCRIPT, images.LAYOUT.directory))
    bring_up(controlplane.apiserver(), nodes.containerd(NODES[0]))
    addons.apply()
    for node in NODES[1:]:
        if seeding.is_wanted(node):
            images.load(names, [NODES[0]])
            seeding.seed(node)
    bring_up(*(nodes.containerd(node) for node in NODES))
    images.load(names, NODES)
    bring_up(
        controlplane.controller_manager(),
        controlplane.scheduler(),
        controlplane.proxy(),
        controlplane.coredns(),
        controlplane.kwok(),
        *(nodes.kubelet(node) for node in NODES),
    )


def load(names: Sequence[str]) -> None:
    """Build what changed of the named images and hand it to the nodes."""
    system.require_root()
    optional = toolchain.optional(names)
    with toolchain.Builds((*toolchain.TOOLS, *optional)) as builds:
        builds.wait("kubernetes", "minio", *(tool.name for tool in optional))
    images.build(names)
    if running_pid(PIDS / "kube-apiserver") is None:
        say("no cluster is up; the nodes fetch the images when one is")
        return
    images.load(names, NODES)


def status() -> None:
    """Print the state of each process and node. Raises ClusterError when one is not as it should be."""
    down = []
    for path in sorted(PIDS.iterdir()) if PIDS.is_dir() else []:
        if path.suffix == ".tmp":
            continue
        pid = running_pid(path)
        print(f"{path.name:26} {f'pid {pid}' if pid else 'DOWN'}")
        if pid is None:
            down.append(path.name)
    if not PIDS.is_dir():
        raise ClusterError("no cluster is up; `python3 tests/cluster/cluster.py up` raises one")
    print(nodes.kubectl("get", "nodes", "-o", "wide"), end="")
    if down:
        raise ClusterError(f"not running: {', '.join(down)}; `python3 tests/cluster/cluster.py up` starts them again")


def down() -> None:
    """Take the cluster down and prove that nothing is left."""
    system.require_root()
    leftovers.down()
