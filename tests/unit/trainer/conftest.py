"""A tiny random Stable Diffusion in the ordinary folder format, a tiny CLIP and a subject to teach it."""

from __future__ import annotations

import pytest

from tests.unit.trainer.tiny import TinyWorld, make_tiny_world


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Folders of the tiny models, made once per session."""
    return make_tiny_world(tmp_path_factory.mktemp("tiny"))
