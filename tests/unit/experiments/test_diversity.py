"""Diversity by hand, and on real pictures."""

from __future__ import annotations

import math

import pytest
import torch

from experiments.diversity import mean_distances


def test_mean_pairwise_distance_by_hand():
    # Unit vectors at 0, 60 and 180 degrees: cosines .5, -1 and -.5, so distances .5, 2 and 1.5.
    angles = [0.0, math.pi / 3, math.pi]
    found = mean_distances(torch.tensor([[math.cos(a), math.sin(a)] for a in angles]))
    assert found == pytest.approx([1.25, 1.0, 1.75], abs=1e-6)
    assert sum(found) / 3 == pytest.approx((0.5 + 2 + 1.5) / 3, abs=1e-6)  # each pair once


def test_equal_pictures_have_none_and_one_has_no_answer():
    assert mean_distances(torch.tensor([[0.6, 0.8]] * 4)) == pytest.approx([0.0] * 4, abs=1e-6)
    with pytest.raises(ValueError, match="at least two"):
        mean_distances(torch.tensor([[1.0, 0.0]]))
