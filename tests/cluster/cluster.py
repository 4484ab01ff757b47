#!/usr/bin/env python3
"""Raises the cluster that the tests and the demo run on, and takes it down.

    cluster.py build [--peers]          build the binaries from pinned source (cached); the peers' too
    cluster.py up [--images NAME ...]   from a bare machine, or from anywhere on the way, to two Ready nodes
    cluster.py images [NAME ...]        build what changed of our images and hand it to the nodes; kueue if named
    cluster.py kubeconfig               print the path of the kubeconfig and nothing else
    cluster.py env                      print KUBECONFIG, and PATH with the cluster's binaries in front, as JSON
    cluster.py status [--leftovers]     what runs; with --leftovers, fail if anything of a cluster is on the machine
    cluster.py down                     take it down and prove that nothing is left

CLUSTER=own (the default without a Docker engine), kind, or current (your kube context; never touched).
INSTRUCTBOOTH_CACHE says where binaries and images are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from raising import elsewhere, leftovers, own, toolchain
from raising.settings import BIN, CACHE, IMAGE_NAMES, KUBECONFIG, OPTIONAL_IMAGES
from raising.shell import ClusterError, locked, say

KINDS = ("own", "kind", "current")


def kind_of_cluster() -> str:
    """Which cluster the environment asks for; without a wish, kind where a Docker engine answers, else our own."""
    wish = os.environ.get("CLUSTER", "")
    if wish:
        if wish not in KINDS:
            raise ClusterError(f"CLUSTER={wish!r} is none of {', '.join(KINDS)}")
        return wish
    if KUBECONFIG.exists() or shutil.which("docker") is None or shutil.which("kind") is None:
        return "own"
    engine = subprocess.run(["docker", "info"], capture_output=True, check=False)
    return "own" if engine.returncode else "kind"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("build").add_argument("--peers", action="store_true")
    verbs.add_parser("up").add_argument("--images", dest="names", nargs="*", metavar="NAME", default=())
    verbs.add_parser("images").add_argument("names", nargs="*", metavar="NAME")
    verbs.add_parser("kubeconfig")
    verbs.add_parser("env")
    verbs.add_parser("status").add_argument("--leftovers", action="store_true")
    verbs.add_parser("down")
    return parser


def _image_names(asked: Sequence[str]) -> list[str]:
    known = (*IMAGE_NAMES, *OPTIONAL_IMAGES)
    if unknown := [name for name in asked if name not in known]:
        raise ClusterError(f"no image {unknown[0]!r}; there are {', '.join(known)}")
    # The pause image is what pods are made of: it always comes along.
    return [name for name in known if name in (asked or IMAGE_NAMES) or name == "pause"]


def act(options: argparse.Namespace) -> None:
    """Do what the command line asks. Raises ClusterError."""
    kind = kind_of_cluster()
    names = _image_names(getattr(options, "names", ()))
    if options.verb == "build":
        tools = (*toolchain.TOOLS, *(toolchain.PEERS if options.peers else ()))
        with locked(CACHE / "cluster.lock"), toolchain.Builds(tools) as builds:
            builds.wait()
    elif options.verb in ("kubeconfig", "env"):
        path = KUBECONFIG if kind == "own" else elsewhere.kubeconfig(kind)
        environment = {"KUBECONFIG": str(path), "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
        print(json.dumps(environment) if options.verb == "env" else path)
    elif options.verb == "status" and options.leftovers:
        if left := leftovers.list_leftovers():
            raise ClusterError("of a cluster there is on this machine:\n" + "\n".join(f"  {line}" for line in left))
        say("nothing of a cluster is on this machine")
    elif kind != "own":
        with locked(CACHE / "cluster.lock"):
            elsewhere.act(kind, options.verb, names)
    elif options.verb == "status":
        own.status()
    else:
        with locked(CACHE / "cluster.lock"):
            if options.verb == "up":
                own.up(names)
            elif options.verb == "images":
                own.load(names)
            else:
                own.down()


def main() -> int:
    """Run one verb; 1 and a message on stderr when it cannot be done."""
    try:
        act(_parser().parse_args())
    except ClusterError as error:
        say(f"cluster: {error}")
        return 1
    except KeyboardInterrupt:
        say("cluster: stopped; the same call again goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
