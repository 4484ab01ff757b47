"""Builds the cluster's binaries from pinned Go modules, once, into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from raising.settings import BIN, CACHE, CLUSTER_DIR, LOGS
from raising.shell import ClusterError, run, step

_KUBERNETES = "v1.35.4"
_VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Tool:
    """A Go module under tools/ and the binaries that come out of it, as `built name -> our name`."""

    name: str
    binaries: dict[str, str]
    packages: tuple[str, ...] = ("tool",)
    ldflags: str = "-s -w"

    @property
    def source(self) -> Path:
        """The folder with go.mod and go.sum."""
        return CLUSTER_DIR / "tools" / self.name

    def key(self, go_version: str) -> str:
        """A name for what these sources, flags and compiler make."""
        digest = hashlib.sha256(f"{go_version}{self.packages}{self.ldflags}{self.binaries}".encode())
        for path in sorted(self.source.rglob("*")):
            if path.is_file():
                digest.update(path.relative_to(self.source).as_posix().encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:16]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


TOOLS = (
    Tool(
        "kubernetes",
        _same(
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
            "criclient",
            "pause",
        ),
        packages=("tool", "./criclient", "./pause"),
        ldflags=(
            f"-s -w -X {_VERSION_PACKAGE}.gitVersion={_KUBERNETES} -X {_VERSION_PACKAGE}.gitMajor=1"
            f" -X {_VERSION_PACKAGE}.gitMinor=35"
        ),
    ),
    Tool("etcd", {"server": "etcd"}),
    Tool("coredns", _same("coredns")),
    Tool("kwok", _same("kwok")),
    Tool("minio", _same("minio")),
    Tool("helm", _same("helm"), ldflags="-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0"),
    Tool("kubeconform", _same("kubeconform")),
)

#: What is in an optional image of the same name.
OPTIONAL = (Tool("kueue", _same("kueue")),)

#: What benchmarks compare us with; no cluster needs them.
PEERS = (
    Tool("jobset", _same("jobset")),
    Tool("kubeflow-trainer", _same("trainer-controller-manager")),
)


def optional(images: Sequence[str]) -> tuple[Tool, ...]:
    """The tools that those of the images need which not every cluster has."""
    return tuple(tool for tool in OPTIONAL if tool.name in images)


def binary(name: str) -> Path:
    """The path of a built binary; raises ClusterError when it has not been built."""
    path = BIN / name
    if not path.exists():
        raise ClusterError(f"{path} is missing; run `python3 tests/cluster/cluster.py build`")
    return path


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)


def build(tool: Tool, go_version: str) -> None:
    """Build one tool unless the cache holds it, and point bin/ at it. A kill at any point leaves no half binary."""
    builds = CACHE / "builds"
    target = builds / f"{tool.name}-{tool.key(go_version)}"
    if not target.exists():
        with step(f"build {tool.name}"):
            temporary = builds / f".{tool.name}.building"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
            command = ["go", "build", "-trimpath", "-ldflags", tool.ldflags, "-o", f"{temporary}/", *tool.packages]
            run(command, cwd=tool.source, env=env, log=LOGS / f"build-{tool.name}.log")
            temporary.replace(target)
        for old in builds.glob(f"{tool.name}-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
    for built, ours in tool.binaries.items():
        _link(target / built, BIN / ours)


class Builds:
    """The tools being built in the background, one after the other: the Go compiler uses all cores by itself."""

    def __init__(self, tools: Sequence[Tool] = TOOLS) -> None:
        if shutil.which("go") is None:
            raise ClusterError("no `go` on PATH; the cluster is built from source and needs Go 1.26 or newer")
        version = run(["go", "version"]).strip()
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._results = {tool.name: self._pool.submit(build, tool, version) for tool in tools}

    def __enter__(self) -> Builds:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a failure elsewhere there is no use in starting the next build.
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)

    def wait(self, *names: str) -> None:
        """Wait until these tools (or all) are built. Raises what a build raised."""
        for name in names or self._results:
            self._results[name].result()
