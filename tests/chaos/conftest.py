from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.operator.plane import ControlPlane, running


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that nobody else uses: its parts are stopped and started again here."""
    with running(tmp_path_factory.mktemp("plane")) as plane:
        yield plane
