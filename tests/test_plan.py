"""What is found out before the fit."""

import numpy as np
import pytest

from tiltfield import plan


def test_the_thickness_is_where_the_coarse_profile_ends():
    height = np.exp(-(((np.arange(32) - 15.5) / 6) ** 2))
    half = 6 * np.sqrt(-np.log(plan.EDGE))
    expected = 2 * plan.BLURRED * half * 3
    assert plan._thickness(height, 3) == pytest.approx(expected, rel=0.02)
    ends = height.copy()
    ends[[0, -1]] = 0.8  # what no layer explains gathers there
    assert plan._thickness(ends, 3) == pytest.approx(expected, rel=0.02)
    assert np.isfinite(plan._thickness(np.ones(32), 3))
