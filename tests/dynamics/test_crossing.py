"""The first crossing of the threshold of stability: by hand, by brute force, and in trained networks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.accuracy.edge_of_stability import TRAININGS, Training, first_above, measured
from landscape import InputError, Stability, probe
from landscape.dynamics import Crossing, crossing
from landscape.loading.source import Source
from landscape.record import open_record
from tests.conftest import ROOT

STEPS = [0, 10, 20, 30, 40]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "errors", "thresholds", "expected"),
    [
        ([1, 2, 3, 5, 6], 0, 4, Crossing(20, 30, "", 0)),
        ([1, 2, 3, 5, 6], [0, 0, 1, 0, 0], 4, Crossing(10, 30, "", 0)),  # 3 + 1 isn't below 4
        ([1, 2, 3, 5, 6], [0, 0, 0, 1, 1], 4, Crossing(20, 40, "", 0)),  # 5 - 1 isn't above 4
        ([1, 3.9, 3, 5, 6], [0, 0.2, 0, 0, 0], 4, Crossing(0, 30, "", 0)),  # it may have been above at step 10
        ([1, 5, 3, 5, 6], 0, 4, Crossing(0, 10, "", 0)),  # the first of several
        ([3, 3, 3, 3, 3], 0, [9, 7, 5, 2, 1], Crossing(20, 30, "", 0)),  # the threshold falls
        ([3, 3, 3, 3, 3], 0, [math.inf, 7, 5, 2, 1], Crossing(20, 30, "", 0)),  # the learning rate is 0 at first
        ([1, math.nan, 3, 5, 6], 0, [math.nan, 4, 4, 4, 4], Crossing(20, 30, "", 2)),
        ([-3, -2, -1, 0, 1], 0, -0.5, Crossing(20, 30, "", 0)),  # weight decay alone is unstable
        ([5, 2, 3, 5, 6], 0, 4, Crossing(math.nan, math.nan, "above the threshold at the first checkpoint already", 0)),
        ([1, 2, 3, 3, 3], 0, 4, Crossing(math.nan, math.nan, "below the threshold at every checkpoint", 0)),
        ([1, 2, 3, 4, 4], 0.5, 4, Crossing(math.nan, math.nan, "above the threshold at no checkpoint", 0)),
        ([4, 2, 3, 5, 6], 0, 4,
         Crossing(math.nan, math.nan, "too close to the threshold at the first checkpoint to tell", 0)),
        ([math.nan] * 5, 0, 4,
         Crossing(math.nan, math.nan, "no checkpoint has both an eigenvalue and a threshold", 5)),
    ],
)  # fmt: skip
def test_crossings_by_hand(values, errors, thresholds, expected):
    found = crossing(STEPS, values, np.broadcast_to(errors, 5), np.broadcast_to(thresholds, 5))
    assert (found.reason, found.left_out) == (expected.reason, expected.left_out)
    np.testing.assert_array_equal([found.low, found.high], [expected.low, expected.high])


def test_the_first_checkpoint_above_lies_in_the_interval_whatever_the_errors():
    """The errors bound how far measured values are from the true ones, and some values are lost."""
    counts = {True: 0, False: 0}
    for _ in range(2_000):
        count = int(RNG.integers(1, 12))
        steps, thresholds = np.cumsum(RNG.integers(1, 9, count)), RNG.uniform(1, 2, count)
        true, errors = np.cumsum(RNG.normal(0.2, 0.5, count)), RNG.uniform(0, 0.5, count)
        values = true + errors * RNG.uniform(-1, 1, count)
        lost = RNG.random(count) < 0.1
        found = crossing(steps, np.where(lost, np.nan, values), errors, thresholds)
        above = steps[~lost & (true > thresholds)]
        counts[not found.reason] += 1
        if not found.reason:
            assert found.low < above[0] <= found.high
        elif found.reason == "below the threshold at every checkpoint":
            assert not len(above)
        elif "already" in found.reason:
            assert above[0] == steps[~lost][0]
    assert min(counts.values()) > 200


@pytest.mark.parametrize(
    ("steps", "values", "errors", "words"),
    [
        ([0, 1], [1.0], [0.0], "of equal length"),
        ([[0]], [[1.0]], [[0.0]], "of equal length"),
        ([1, 0], [1.0, 2.0], [0.0, 0.0], "in the order of their steps"),
        ([0, 0], [1.0, 2.0], [0.0, 0.0], "each step once"),
        ([0, 1], [1.0, 2.0], [0.0, -1.0], "not negative"),
    ],
)
def test_what_is_no_run_is_refused(steps, values, errors, words):
    with pytest.raises(InputError, match=words):
        crossing(steps, values, errors, np.ones_like(values))


# ---------------------------------------------------------------------- trained networks


@pytest.mark.parametrize(
    "training",
    [Training("gradient descent", 0.3, 0, 100), Training("Adam", 0.01, 1, 100)],
    ids=lambda each: each.optimizer,
)
def test_the_dense_hessian_at_every_step_crosses_within_the_interval(training, tmp_path):
    files, ratios = training.run(tmp_path)
    source = Source(problem=f"{ROOT}/benchmarks/accuracy/edge_of_stability.py:problem", dtype="float64")
    probe(files, [Stability()], tmp_path / "record.h5", source=source)
    with open_record(tmp_path / "record.h5") as tree:
        rows = tree["stability"].to_dataset().load()
    steps = rows.step.values
    known = np.isfinite(ratios[steps])
    assert known.all() or training.optimizer == "Adam"
    assert (abs(rows.ratio.values - ratios[steps]) <= rows.ratio_error.values + 1e-9)[known].all()
    found = crossing(steps, rows.eigenvalue.values, rows.eigenvalue_error.values, rows.threshold.values)
    step = first_above(ratios)
    assert found.reason == ""
    assert found.low < step <= found.high
    assert found.high - found.low <= training.every + 0.02 * training.steps


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS, ids=str)
def test_the_command_gives_an_interval_with_the_crossing(training, tmp_path):
    files, ratios = training.run(tmp_path)
    low, high, reason = measured(files, tmp_path / "record.h5")
    step = first_above(ratios)
    if reason:
        assert math.isnan(step)
    else:
        assert low < step <= high
        assert high - low <= training.every + 0.02 * training.steps
