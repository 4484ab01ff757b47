"""CLUSTER=kind: what Docker and kind are told to do. Stand-ins for both write down how they are called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from raising import elsewhere

SCRIPT = Path(elsewhere.__file__).resolve().parents[1] / "cluster.py"
# A command that writes its words down, a line a call; `docker build` also looks at what the Dockerfile would copy.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
[ "$(basename "$0") $1 $2" = "kind create cluster" ] && exit "$KIND_CODE"
[ "$(basename "$0") $1" = "docker build" ] || exit 0
for context; do :; done
dockerfile="$context/Dockerfile"
while [ $# -gt 0 ]; do [ "$1" = --file ] && dockerfile="$2"; shift; done
for file in $(sed -n 's/^COPY \\([^-].*\\) .*/\\1/p' "$dockerfile"); do
  [ -e "$context/$file" ] || { echo "$dockerfile copies $file, which is not in $context" >&2; exit 1; }
done
"""


@pytest.fixture
def kind(tmp_path):
    """Runs cluster.py with CLUSTER=kind and stand-ins for the commands; what came of it, and the calls."""
    for name in ("docker", "kind", "kubectl"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def run(*words, kind_code=0):
        calls = tmp_path / "calls"
        env = {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "CLUSTER": "kind",
            "INSTRUCTBOOTH_CACHE": str(tmp_path / "cache"),
            "CALLS": str(calls),
            "KIND_CODE": str(kind_code),
        }
        done = subprocess.run([sys.executable, SCRIPT, *words], env=env, capture_output=True, text=True, check=False)
        return done, calls.read_text().splitlines()

    return run


def test_every_image_is_built_where_its_files_are_and_loaded(kind):
    done, calls = kind("up")
    assert done.returncode == 0, done.stderr
    built = [call.split()[3] for call in calls if call.startswith("docker build --tag")]
    loaded = [call.split()[-1] for call in calls if call.startswith("kind load")]
    assert built == loaded == [f"instructbooth/{name}:dev" for name in ("operator", "trainer", "minio", "prometheus")]


def test_a_cluster_that_does_not_come_up_is_told_in_a_message(kind):
    done, calls = kind("up", kind_code=1)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "kind create cluster" in done.stderr
    assert not [call for call in calls if call.startswith("docker build")]


def test_down_deletes_our_cluster_and_no_other(kind):
    done, calls = kind("down")
    assert done.returncode == 0, done.stderr
    assert calls == ["kind delete cluster --name instructbooth"]


def test_an_image_that_not_every_cluster_needs_is_built_when_it_is_named(kind):
    done, calls = kind("images", "kueue")
    assert done.returncode == 0, done.stderr
    assert [call.split()[3] for call in calls if call.startswith("docker build --tag")] == ["instructbooth/kueue:dev"]
