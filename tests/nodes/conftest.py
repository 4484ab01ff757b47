"""Nodes and networks that fail, in the cluster that `make cluster` raised: its nodes are processes of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import installed, namespace

# The cluster's scripts are no installed package: they run on a bare machine, from their folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cluster"))

from tests.nodes import machines

__all__ = ["installed", "namespace"]


@pytest.fixture
def victim(installed: None) -> Iterator[str]:
    """A node to lose: not the one that the storage runs on. It is brought back in the end."""
    name = machines.node_without_storage()
    try:
        yield name
    finally:
        machines.bring_back()
