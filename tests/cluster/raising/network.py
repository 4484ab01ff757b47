"""The bridge that carries pods and services, and what kube-proxy leaves in the packet filter."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from raising.settings import BRIDGE, GATEWAY, NODES, PREFIX_LENGTH, STATE
from raising.shell import ClusterError, run, write_atomically

_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
#: What kubelet and kube-proxy set by themselves, for the whole machine.
_SET_BY_OTHERS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/conf/all/route_localnet",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
)
_FORMER_SYSCTLS = STATE / "former-sysctls.json"
_OWNED_CHAINS = ("KUBE-", "CNI-")
#: kube-proxy fills the filters of both families wherever the kernel has them.
_FILTERS = ("iptables", "ip6tables")


def bridge_exists() -> bool:
    """True while our bridge is there."""
    return subprocess.run(["ip", "link", "show", "dev", BRIDGE], capture_output=True, check=False).returncode == 0


def prepare() -> None:
    """Make the bridge with the gateway's and each node's address, and let the kernel forward packets.

    Raises ClusterError when another cluster uses this machine's packet filter.
    """
    if not _FORMER_SYSCTLS.exists():
        if chains := foreign_chains():
            raise ClusterError(
                f"another kube-proxy or CNI uses this machine's packet filter ({', '.join(chains[:3])} ...);"
                " end it first, or use CLUSTER=current with that cluster"
            )
        if shutil.which("modprobe"):  # built into many kernels, a module in others
            subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
        names = [name for name in (*_SYSCTLS, *_SET_BY_OTHERS) if _sysctl(name).exists()]
        write_atomically(_FORMER_SYSCTLS, json.dumps({name: _sysctl(name).read_text().strip() for name in names}))
    for name, value in _SYSCTLS.items():
        if _sysctl(name).exists():
            _sysctl(name).write_text(value)
    if not bridge_exists():
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    for address in (GATEWAY, *(node.address for node in NODES)):
        run(["ip", "address", "replace", f"{address}/{PREFIX_LENGTH}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name


def _tables(program: str) -> dict[str, list[str]]:
    if shutil.which(f"{program}-save") is None:
        return {}
    try:
        saved = run([f"{program}-save"])
    except ClusterError:
        if program == "iptables":
            raise
        return {}  # a kernel without IPv6: nothing of ours can be in it
    tables: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            current = tables.setdefault(line[1:], [])
        elif line.startswith((":", "-A")):
            current.append(line)
    return tables


def our_chains() -> list[str]:
    """The chains of a cluster that `prepare` made room for; another cluster's on this machine are none of ours."""
    return foreign_chains() if _FORMER_SYSCTLS.exists() else []


def foreign_chains() -> list[str]:
    """The chains that a kube-proxy, kubelet or CNI plug-in made, whoever's, as `program/table/chain`."""
    return [
        f"{program}/{table}/{line[1:].split()[0]}"
        for program in _FILTERS
        for table, lines in _tables(program).items()
        for line in lines
        if line.startswith(":") and line[1:].startswith(_OWNED_CHAINS)
    ]


def restore_input(tables: dict[str, list[str]]) -> str:
    """What `iptables-restore --noflush` must read to take away our chains and every rule that leads to them."""
    script: list[str] = []
    for table, lines in tables.items():
        chains = [line[1:].split()[0] for line in lines if line.startswith(":")]
        ours = [chain for chain in chains if chain.startswith(_OWNED_CHAINS)]
        if not ours:
            continue
        script.append(f"*{table}")
        script += [f":{chain} - [0:0]" for chain in ours]  # flushes the chain
        for line in lines:
            words = line.split()
            if words[0] == "-A" and words[1] not in ours and any(word in ours for word in words):
                script.append("-D" + line[2:])
        script += [f"-X {chain}" for chain in ours]
        script.append("COMMIT")
    return "\n".join(script) + "\n" if script else ""


def remove() -> None:
    """Take away the bridge and our packet filter chains, and give the kernel its former settings back.

    Raises ClusterError when chains are left: once our record of the machine is gone, nobody could tell whose they are.
    """
    if bridge_exists():
        run(["ip", "link", "delete", BRIDGE])
    if not _FORMER_SYSCTLS.exists():
        return
    for program in _FILTERS:
        if script := restore_input(_tables(program)):
            run([f"{program}-restore", "--noflush"], stdin=script)
    if chains := our_chains():
        raise ClusterError(f"these packet filter chains are left: {', '.join(chains)}")
    for name, value in json.loads(_FORMER_SYSCTLS.read_text()).items():
        if _sysctl(name).exists() and _sysctl(name).read_text().strip() != value:
            _sysctl(name).write_text(value)
