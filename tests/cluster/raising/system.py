"""What the machine itself must have: Debian packages, and root."""

from __future__ import annotations

import os
import shutil

from raising.settings import LOGS
from raising.shell import ClusterError, run, step

#: A command (or file) that shows that a package is there, and the package.
_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}


def require_root() -> None:
    """Raises ClusterError unless root calls: mounts, cgroups and bridges are root's."""
    if os.geteuid() != 0:
        raise ClusterError("CLUSTER=own needs root (mounts, cgroups, a bridge); use sudo, or CLUSTER=kind or current")


def install_packages() -> None:
    """Install the Debian packages that are missing; takes no time when none is."""
    missing = sorted({package for proof, package in _PACKAGES.items() if shutil.which(proof) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"install these first, this machine has no apt-get: {', '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Another installation may be at work (one that a killed call left, the machine's own): it is waited for.
    options = ["-q", "-o", "DPkg::Lock::Timeout=600"]
    install = ["install", "-y", "--no-install-recommends", *missing]
    with step(f"apt-get install {' '.join(missing)}"):
        run(["apt-get", *options, "update"], env=env, log=LOGS / "apt-update.log")
        try:  # a package may start a daemon, which must not hold our lock for ever
            run(["apt-get", *options, *install], env=env, log=LOGS / "apt-install.log", keeps_lock=False)
        except ClusterError:  # also when an installation was cut short: apt-get refuses until this was called
            run(["dpkg", "--configure", "-a"], env=env, log=LOGS / "dpkg-configure.log", keeps_lock=False)
            run(["apt-get", *options, *install], env=env, log=LOGS / "apt-install.log", keeps_lock=False)
