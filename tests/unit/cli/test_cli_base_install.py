"""Without the extras the command starts, does what needs none of them, and says what to install for the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.unit.spec.examples import ROOT

# Stands for an environment with the base dependencies alone: the extras' packages cannot be imported.
BASE_INSTALL = """
import sys
from importlib.machinery import PathFinder
absent = {"kubernetes", "kopf", "torch", "diffusers", "transformers", "PIL", "numpy", "prometheus_client", "accelerate",
          "safetensors", "peft"}
class BaseOnly:
    find_distributions = PathFinder.find_distributions
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in absent else PathFinder.find_spec(name, path, target)
sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [BaseOnly]
from instructbooth.cli.main import cli
cli()
"""


def instructbooth(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BASE_INSTALL, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("args", [["--help"], ["crd"], ["validate", "-f", "examples/demo/job.yaml"]])
def test_what_needs_no_extra_works(args):
    done = instructbooth(*args)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "extra"),
    [
        (["status", "demo"], "instructbooth[operator]"),
        (["submit", "-f", "examples/demo/job.yaml"], "instructbooth[operator]"),
        (["run", "-f", "examples/demo/job.yaml", "--out", "out/nowhere"], "instructbooth[trainer]"),
    ],
)
def test_the_rest_says_what_to_install(args, extra):
    done = instructbooth(*args)
    assert done.returncode == 1
    assert f"pip install '{extra}'" in done.stderr
    assert "Traceback" not in done.stderr
