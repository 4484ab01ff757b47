"""Every example is a valid job, and every model family has one."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from instructbooth.spec.job import InstructBoothJobSpec, Model

ROOT = Path(__file__).resolve().parents[3]
JOBS = [
    path
    for path in sorted((ROOT / "examples").rglob("*.yaml"))
    if "kind: InstructBoothJob" in path.read_text() and path.parent.name != "demo"
]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_an_example_is_valid_and_says_which_file_it_is(path):
    text = path.read_text()
    InstructBoothJobSpec.model_validate(yaml.safe_load(text)["spec"])
    if path.parent.name != "jobs":  # those are made by a command, without comments
        assert f"-f {path.relative_to(ROOT)}" in text


def test_every_family_has_an_example():
    families = set(get_args(Model.model_fields["family"].annotation)) - {"auto"}
    benchmark = ROOT / "examples" / "dreambench"
    assert {path.parent.name for path in JOBS if benchmark not in path.parents} == families
