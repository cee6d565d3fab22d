"""The study of steps: crossings of the floor and the split of a step, on numbers for which the answer is known."""

import numpy as np
import pytest

from analysis.studies import steps
from analysis.support.toy import PAIR

COUNT = 20


def rows(slope_after: list[float], error: float = 0.1) -> dict:
    """A training whose steps are all alike: a slope of -2 along the step, of length 1, and of -1 along eigenvectors."""
    before = [-2.0, -1.0, -1.0, -1.0]
    return {
        "eigenvalues": [[4.0, 2.0, 1.0]] * COUNT,
        "converged": [1.0] * COUNT,
        "valley_share": [0.75] * COUNT,
        "random_share": 0.01,
        "components": [[1.0, 0.5, 0.5, 0.5]] * COUNT,
        "slopes": [[before, slope_after]] * COUNT,
        "errors": [[[error] * 4] * 2] * COUNT,
        "ratio": [0.5] * (COUNT // steps.STABILITY_EVERY),
    }


def test_crossings_are_changes_of_sign_and_certain_beyond_two_errors():
    crossing, uncertain = rows([1.0, -1.0, 1.0, 0.1]), rows([1.0, -1.0, 1.0, 0.1], error=0.6)
    found = {f"steps-{arm}-{seed}": (crossing, uncertain)[seed] for arm in PAIR for seed in range(2)}
    data = steps._dataset(found, range(2)).isel(arm=0)
    np.testing.assert_array_equal(data.crossed.mean("step"), [[1, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(data.certain.mean("step"), [[1, 1, 1, 0], [0, 0, 0, 0]])


def test_the_split_is_by_first_and_second_order():
    found = {f"steps-{arm}-{seed}": rows([1.0, 1.0, 1.0, 1.0]) for arm in PAIR for seed in range(2)}
    data = steps._dataset(found, range(2))
    assert data.decrease.values == pytest.approx(3 * 0.5 / 2)  # three eigenvectors of slope 1 and component 1/2, by 2
    assert data.curvature.values == pytest.approx((4 + 2 + 1) * 0.25 / 2 / 2)
