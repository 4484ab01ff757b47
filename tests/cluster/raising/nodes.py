"""A node: its own containerd and its own kubelet, beside the other one on the same machine."""

from __future__ import annotations

import json

from raising import pki
from raising.processes import Component
from raising.settings import (
    BRIDGE,
    CGROUP,
    GATEWAY,
    NAME,
    PKI,
    POD_CIDR,
    REGISTRY_URL,
    STATE,
    Node,
    image_tag,
)
from raising.shell import ClusterError, run, write_atomically
from raising.toolchain import binary

_REGISTRY_HOSTS = STATE / "registry-hosts"


def _containerd_config(node: Node) -> str:
    return f'''version = 2
root = "{node.image_store}"
state = "{node.directory}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{node.socket}"
[ttrpc]
  address = "{node.socket}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{node.directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image_tag("pause")}"
  # Without CAP_SYS_RESOURCE (root of a container or sandbox) a lower oom_score_adj cannot be set, and no pod starts.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    # The registry has every layer; a second copy of each in the content store would cost gigabytes.
    discard_unpacked_layers = true
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{node.directory}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{node.directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{_REGISTRY_HOSTS}"
'''


def _cni_config(node: Node) -> str:
    first, last = node.pod_range
    span = {"subnet": POD_CIDR, "rangeStart": first, "rangeEnd": last, "gateway": GATEWAY}
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "hairpinMode": True,
        "ipMasq": False,
        "isGateway": False,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{node.directory}/ipam",
            "ranges": [[span]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "0.4.0", "name": NAME, "plugins": plugins})


def _kubelet_config(node: Node) -> str:
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": node.address,
        "authentication": {"x509": {"clientCAFile": f"{PKI}/ca.crt"}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"},
        # Not the Service: two look-ups at once from one socket may lose a packet in address translation, and a pod
        # then waits five seconds.
        "clusterDNS": [GATEWAY],
        "clusterDomain": "cluster.local",
        "resolvConf": str(_resolv_conf()),
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}/{node.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        # The disk belongs to a person's machine and may be nearly full. The kubelet must neither evict pods for it
        # nor delete the images that were loaded.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "podLogsDir": f"{node.directory}/pod-logs",
        "volumePluginDir": f"{node.directory}/volume-plugins",
    }
    return json.dumps(configuration)


def _resolv_conf() -> str:
    # Pods need the cluster's names alone; the host's search domains would only slow each look-up.
    path = STATE / "resolv.conf"
    if not path.exists():
        write_atomically(path, f"nameserver {GATEWAY}\n")
    return str(path)


def write_registry_hosts() -> None:
    """Send every pull to our registry: what it lacks is missing, at once, and nothing is asked for on the internet."""
    content = f'server = "{REGISTRY_URL}"\n[host."{REGISTRY_URL}"]\n  capabilities = ["pull", "resolve"]\n'
    for host in ("docker.io", "_default"):
        write_atomically(_REGISTRY_HOSTS / host / "hosts.toml", content)


def containerd(node: Node) -> Component:
    """The node's container runtime; its image store outlives the cluster."""
    write_registry_hosts()
    write_atomically(node.directory / "cni" / "10-instructbooth.conflist", _cni_config(node))
    config = node.directory / "containerd.toml"
    write_atomically(config, _containerd_config(node))
    node.image_store.mkdir(parents=True, exist_ok=True)
    return Component(
        f"containerd-{node.name}",
        ["containerd", "--config", config, "--log-level", "warn"],
        lambda: _runtime_answers(node),
        env={"TMPDIR": str(node.directory)},
        config=config,
    )


def _runtime_answers(node: Node) -> bool:
    try:
        criclient(node, "images")
    except ClusterError:
        return False
    return True


def criclient(node: Node, *words: str) -> str:
    """Ask the node's runtime; see tools/kubernetes/criclient for the verbs."""
    return run([binary("criclient"), node.socket, *words])


def kubelet(node: Node) -> Component:
    """The node's kubelet. Killing it (its pid stands in the pid file) is a node loss."""
    config = node.directory / "kubelet.json"
    write_atomically(config, _kubelet_config(node))
    return Component(
        f"kubelet-{node.name}",
        [
            binary("kubelet"),
            f"--config={config}",
            f"--kubeconfig={pki.kubeconfig(node.name)}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--root-dir={node.directory}/kubelet",
            f"--cert-dir={node.directory}/kubelet-pki",
            f"--node-labels=instructbooth.io/test-node={node.name}",
        ],
        lambda: _is_ready(node),
        seconds=120,
        config=config,
    )


def _is_ready(node: Node) -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    try:
        answer = kubectl("get", "node", node.name, "--ignore-not-found", "-o", path)
    except ClusterError:
        return False
    return answer == "True"


def kubectl(*words: str, stdin: str | None = None) -> str:
    """Run kubectl as the cluster's administrator."""
    return run([binary("kubectl"), f"--kubeconfig={pki.kubeconfig('admin')}", *words], stdin=stdin)
