"""etcd, the API server, the controllers, the scheduler, kube-proxy, CoreDNS and KWOK as processes of the host."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from raising import pki
from raising.processes import Component
from raising.settings import (
    API_PORT,
    API_URL,
    ETCD_PEER_URL,
    ETCD_URL,
    GATEWAY,
    NODES,
    PKI,
    POD_CIDR,
    REGISTRY_PORT,
    SERVICE_CIDR,
    STATE,
)
from raising.shell import write_atomically
from raising.toolchain import binary

# The default of 20 requests a second makes the Job controller the bottleneck of every scale test.
_FAST_CLIENT = ("--kube-api-qps=500", "--kube-api-burst=1000")


def _answers(url: str) -> Callable[[], bool]:
    """A check that an HTTP(S) health endpoint answers 200."""

    def check() -> bool:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # controllers serve health with a certificate they make themselves
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return int(answer.status) == 200

    return check


def _listens(address: str, port: int) -> Callable[[], bool]:
    def check() -> bool:
        with socket.create_connection((address, port), timeout=2):
            return True

    return check


def etcd() -> Component:
    """The store. It never waits for the disk: a test cluster that loses power is raised anew."""
    return Component(
        "etcd",
        [
            binary("etcd"),
            f"--data-dir={STATE}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={ETCD_URL}",
            f"--advertise-client-urls={ETCD_URL}",
            f"--listen-peer-urls={ETCD_PEER_URL}",
            f"--initial-advertise-peer-urls={ETCD_PEER_URL}",
            f"--initial-cluster=default={ETCD_PEER_URL}",
            "--quota-backend-bytes=4294967296",
            "--auto-compaction-retention=5m",
            "--log-level=warn",
        ],
        _answers(f"{ETCD_URL}/health"),
    )


def apiserver() -> Component:
    """The API server, with the authorization and admission that a production cluster has."""
    return Component(
        "kube-apiserver",
        [
            binary("kube-apiserver"),
            f"--etcd-servers={ETCD_URL}",
            f"--advertise-address={GATEWAY}",
            f"--bind-address={GATEWAY}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--anonymous-auth=true",  # health checks of the host's tools; RBAC lets them see nothing else
            f"--client-ca-file={PKI}/ca.crt",
            f"--tls-cert-file={PKI}/apiserver.crt",
            f"--tls-private-key-file={PKI}/apiserver.key",
            f"--kubelet-client-certificate={PKI}/kubelet-client.crt",
            f"--kubelet-client-key={PKI}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={PKI}/service-account.key",
            f"--service-account-signing-key-file={PKI}/service-account.key",
            # Pods leave a lost node after half a minute, not five: tests of node loss wait for it.
            "--default-not-ready-toleration-seconds=30",
            "--default-unreachable-toleration-seconds=30",
            "--max-requests-inflight=800",
            "--max-mutating-requests-inflight=400",
        ],
        _answers(f"{API_URL}/readyz"),
    )


def controller_manager() -> Component:
    """All controllers of Kubernetes: Jobs, EndpointSlices, garbage collection and the rest."""
    return Component(
        "kube-controller-manager",
        [
            binary("kube-controller-manager"),
            f"--kubeconfig={pki.kubeconfig('controller-manager')}",
            f"--authentication-kubeconfig={pki.kubeconfig('controller-manager')}",
            f"--authorization-kubeconfig={pki.kubeconfig('controller-manager')}",
            "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={PKI}/service-account.key",
            f"--root-ca-file={PKI}/ca.crt",
            f"--cluster-signing-cert-file={PKI}/ca.crt",
            f"--cluster-signing-key-file={PKI}/ca.key",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            *_FAST_CLIENT,
        ],
        _answers("https://127.0.0.1:10257/healthz"),
    )


def scheduler() -> Component:
    """The scheduler."""
    return Component(
        "kube-scheduler",
        [
            binary("kube-scheduler"),
            f"--kubeconfig={pki.kubeconfig('scheduler')}",
            f"--authentication-kubeconfig={pki.kubeconfig('scheduler')}",
            f"--authorization-kubeconfig={pki.kubeconfig('scheduler')}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            *_FAST_CLIENT,
        ],
        _answers("https://127.0.0.1:10259/healthz"),
    )


def proxy() -> Component:
    """kube-proxy for the whole machine: both nodes and the host itself reach services through it."""
    configuration = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": NODES[0].name,
        "clusterCIDR": POD_CIDR,
        "clientConnection": {"kubeconfig": str(pki.kubeconfig("proxy"))},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0},
        # Pods of one bridge would answer each other directly, past the service's address translation.
        "iptables": {"masqueradeAll": True, "minSyncPeriod": "0.2s"},
    }
    path = STATE / "kube-proxy.json"
    write_atomically(path, json.dumps(configuration))
    command: list[str | Path] = [binary("kube-proxy"), f"--config={path}"]
    return Component("kube-proxy", command, _answers("http://127.0.0.1:10256/healthz"), config=path)


def coredns() -> Component:
    """The cluster's DNS on the gateway's address, behind the Service kube-dns."""
    path = STATE / "Corefile"
    write_atomically(
        path,
        f""".:53 {{
    bind {GATEWAY}
    errors
    ready 127.0.0.1:8191
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {pki.kubeconfig("coredns")}
        ttl 5
    }}
    cache 5
    loadbalance
}}
""",
    )
    command: list[str | Path] = [binary("coredns"), "-conf", path]
    return Component("coredns", command, _answers("http://127.0.0.1:8191/ready"), config=path)


def kwok() -> Component:
    """Plays the kubelet of nodes annotated kwok.x-k8s.io/node=fake: their pods run on paper."""
    return Component(
        "kwok",
        [
            binary("kwok"),
            f"--kubeconfig={pki.kubeconfig('kwok')}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
            "--server-address=127.0.0.1:10247",
        ],
        _answers("http://127.0.0.1:10247/healthz"),
    )


def registry(script: Path, layout: Path) -> Component:
    """The read-only image registry from which the nodes pull."""
    command: list[str | Path] = [sys.executable, "-u", script, str(layout), GATEWAY, str(REGISTRY_PORT)]
    return Component("registry", command, _listens(GATEWAY, REGISTRY_PORT))
