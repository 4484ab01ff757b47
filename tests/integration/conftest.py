"""How these tests are shared out between two workers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Files stay whole: their fixtures are dear, and two of them must not install one chart at once.

    Those of the operator are long, wait most of the time, and have a namespace each: they are shared out.
    """
    for item in items:
        if item.path.parent.name != "operator" or item.path.stem == "test_definition_upgrade":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
