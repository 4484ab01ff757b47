"""Where things lie, which addresses they use, and what the environment may change."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CLUSTER_DIR = Path(__file__).resolve().parents[1]
PROJECT_DIR = CLUSTER_DIR.parents[1]

#: What is worth keeping between clusters: binaries, image layers, the nodes' image stores, logs.
CACHE = Path(os.environ.get("INSTRUCTBOOTH_CACHE") or Path.home() / ".cache" / "instructbooth").resolve()
#: A second cluster on the same machine needs a name of its own, and a network namespace: see torture.py.
NAME = os.environ.get("INSTRUCTBOOTH_CLUSTER") or "instructbooth"
#: What lives and dies with a cluster. Short, because unix socket paths may hold 107 bytes.
STATE = Path(f"/var/lib/{NAME}-cluster")

BIN = CACHE / "bin"
LOGS = CACHE / "logs"
PIDS = STATE / "pids"
PKI = STATE / "pki"
VOLUMES = STATE / "volumes"
KUBECONFIG = STATE / "kubeconfig"

#: The name of our cgroup in every hierarchy: each process and pod of the cluster lives in it.
CGROUP = NAME
BRIDGE = "ibooth0"
PREFIX_LENGTH = 16
GATEWAY = "10.244.0.1"
POD_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
API_PORT = 6443
API_URL = f"https://{GATEWAY}:{API_PORT}"
ETCD_URL = "http://127.0.0.1:23791"
ETCD_PEER_URL = "http://127.0.0.1:23792"
REGISTRY_PORT = 5005
REGISTRY_URL = f"http://{GATEWAY}:{REGISTRY_PORT}"
REGISTRY_SCRIPT = CLUSTER_DIR / "registry_server.py"
PERSISTENT_VOLUMES = 12

#: The images the cluster's pods may use, as `docker.io/instructbooth/<name>:dev`.
IMAGE_NAMES = ("pause", "operator", "trainer", "minio", "prometheus")
#: Those that only some tests need: made when they are named, and not before.
OPTIONAL_IMAGES = ("kueue",)


def image_tag(name: str) -> str:
    """The full reference by which a node knows one of our images."""
    return f"docker.io/instructbooth/{name}:dev"


@dataclass(frozen=True)
class Node:
    """A real node: a containerd and a kubelet of its own on this machine."""

    name: str
    address: str
    pod_range: tuple[str, str]

    @property
    def directory(self) -> Path:
        """What lives and dies with the node."""
        return STATE / self.name

    @property
    def image_store(self) -> Path:
        """containerd's root, kept when the cluster goes so that the next one starts warm."""
        return CACHE / "containerd" / self.name

    @property
    def socket(self) -> Path:
        """The node's container runtime."""
        return self.directory / "containerd.sock"


NODES = (
    Node("node-1", "10.244.0.11", ("10.244.1.1", "10.244.1.254")),
    Node("node-2", "10.244.0.12", ("10.244.2.1", "10.244.2.254")),
)
