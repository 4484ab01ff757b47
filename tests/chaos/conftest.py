from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.field import Calm, Field
from tests.integration.operator.plane import ControlPlane, running


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that nobody else uses: its parts are stopped and started again here."""
    with running(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def calm(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """The undisturbed run."""

    async def run() -> Calm:
        async with Field(plane.url, tmp_path_factory.mktemp("calm")) as field:
            return await field.calm()

    return asyncio.run(run())


LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say how much was tried: a line at the end of the run."""
    return request.config.stash.setdefault(LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(f"chaos: {line}")
