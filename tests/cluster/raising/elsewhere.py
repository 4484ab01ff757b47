"""CLUSTER=kind and CLUSTER=current: clusters that someone else's software raises."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from raising.settings import CACHE, CLUSTER_DIR, PROJECT_DIR
from raising.shell import ClusterError, run, say, step

_KIND_NAME = "instructbooth"
_KIND_KUBECONFIG = CACHE / "kind.kubeconfig"
_KIND_CONFIG = """kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
  - role: worker
  - role: worker
"""


def kubeconfig(kind: str) -> Path:
    """The kubeconfig of the kind cluster, or the one that kubectl would use. Raises ClusterError when there is none."""
    if kind == "kind":
        return _KIND_KUBECONFIG
    named = [Path(word) for word in os.environ.get("KUBECONFIG", "").split(os.pathsep) if word]
    for path in [*named, Path.home() / ".kube" / "config"]:
        if path.exists():
            return path
    raise ClusterError("CLUSTER=current, but neither KUBECONFIG nor ~/.kube/config names a file")


def _kind_clusters() -> list[str]:
    return run(["kind", "get", "clusters"]).split()


def _load_images(names: Sequence[str]) -> None:
    for name in names:
        if name == "pause":  # kind's nodes have one
            continue
        tag = f"instructbooth/{name}:dev"
        with step(f"image {name}"):
            run(["docker", "build", "--tag", tag, *_what_to_build(name)])
            run(["kind", "load", "docker-image", "--name", _KIND_NAME, tag])


def _what_to_build(name: str) -> list[str | Path]:
    """The words of `docker build` that say which Dockerfile, and which folder it copies from."""
    if name in ("operator", "trainer"):
        return ["--target", name, PROJECT_DIR]
    folder = CLUSTER_DIR / "images" / name
    # Built from the modules that the cluster made from source pins.
    source = CLUSTER_DIR / "tools" / name
    return ["--file", folder / "Dockerfile", source if source.exists() else folder]


def act(kind: str, verb: str, names: Sequence[str]) -> None:
    """Do `verb` on a kind cluster; on the current cluster only `status` does anything, and it only looks."""
    if kind == "current":
        path = kubeconfig(kind)
        if verb == "status":
            print(run(["kubectl", f"--kubeconfig={path}", "get", "nodes"]), end="")
        else:
            say(f"CLUSTER=current: {verb} leaves the cluster of {path} as it is")
        return
    if missing := [tool for tool in ("docker", "kind", "kubectl") if shutil.which(tool) is None]:
        raise ClusterError(f"CLUSTER=kind needs {', '.join(missing)} on PATH")
    if verb == "down":
        run(["kind", "delete", "cluster", "--name", _KIND_NAME])
        _KIND_KUBECONFIG.unlink(missing_ok=True)
    elif verb == "status":
        print(run(["kubectl", f"--kubeconfig={_KIND_KUBECONFIG}", "get", "nodes"]), end="")
    else:
        if _KIND_NAME not in _kind_clusters():
            command = ["kind", "create", "cluster", "--name", _KIND_NAME, "--config", "-", "--wait", "120s"]
            with step("kind cluster"):
                run([*command, "--kubeconfig", _KIND_KUBECONFIG], stdin=_KIND_CONFIG)
        run(["kind", "export", "kubeconfig", "--name", _KIND_NAME, "--kubeconfig", _KIND_KUBECONFIG])
        _load_images(names)
