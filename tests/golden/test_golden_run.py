"""The committed numbers of a whole run: what every refactoring must leave as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.golden import GOLDEN, RELATIVE_TOLERANCE, golden_run


def test_golden_run(tmp_path: Path) -> None:
    expected, actual = json.loads(GOLDEN.read_text()), golden_run(tmp_path)
    assert len(expected["personalize"]) == 20
    assert actual["personalize"] == pytest.approx(expected["personalize"], rel=RELATIVE_TOLERANCE)
    assert len(actual["reinforce"]) == len(expected["reinforce"])
    for ours, golden in zip(actual["reinforce"], expected["reinforce"], strict=True):
        assert ours == pytest.approx(golden, rel=RELATIVE_TOLERANCE)
