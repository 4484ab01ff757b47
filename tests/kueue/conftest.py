"""Kueue beside the product, in the cluster that `make cluster` raised."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import installed, namespace
from tests.kueue import queues

__all__ = ["installed", "namespace"]


@pytest.fixture(scope="session")
def kueue(installed: None) -> Iterator[None]:
    """Kueue, for as long as the tests run: nobody else's Jobs should meet its webhooks."""
    try:
        queues.install()
        yield
    finally:
        queues.uninstall()


@pytest.fixture(scope="module")
def queue(kueue: None, namespace: str) -> Iterator[str]:
    """A queue in the module's namespace with room for one gang; the namespace's name."""
    made = queues.team_queue(namespace)
    try:
        queues.make(made)
        yield namespace
    finally:
        queues.remove(made)
