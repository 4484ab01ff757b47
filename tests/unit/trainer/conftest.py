"""A tiny random Stable Diffusion in the ordinary folder format, a tiny CLIP and a subject to teach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.tiny import TinyWorld, make_tiny_world
from tests.unit.trainer.tiny_families import BUILDERS


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Folders of the tiny models, made once per session."""
    return make_tiny_world(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def lab(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A store with the tiny models and the subject's pictures."""
    return Lab(tmp_path_factory.mktemp("lab"), tiny)


@pytest.fixture(scope="session")
def personalized(lab: Lab) -> ResolvedJob:
    """A job whose first stage is done."""
    job = lab.job("shared")
    lab.run(job, Stage.PERSONALIZE)
    return job


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of every family, by the family's name."""
    root = tmp_path_factory.mktemp("families")
    return {family: build(root / family) for family, build in BUILDERS.items()}
