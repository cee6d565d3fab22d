"""The edge of stability: the drawn sharpness, threshold and crossing are those of the record."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.path import Path

from landscape import InputError
from landscape.figures import RecordView, draw, draw_edge_of_stability, styled
from landscape.figures.edge_of_stability import crossing_of, sharpness_of
from tests.figures.test_limits import outside

STEPS = np.array([0, 10, 20, 30])


def record(values=(1.0, 2.0, 4.0, 5.0), thresholds=3.0, optimizer="gradient descent", reasons=("",) * 4, **more):
    """A record of four checkpoints, whose rows aren't in the order of the steps."""
    groups = {
        "stability": xr.Dataset(
            {
                "step": ("checkpoint", STEPS),
                "eigenvalue": ("checkpoint", list(values), {"units": "loss / parameter^2"}),
                "eigenvalue_error": ("checkpoint", [0.1] * 4),
                "converged": ("checkpoint", more.pop("converged", [True] * 4)),
                "threshold": ("checkpoint", np.broadcast_to(thresholds, 4).copy()),
                "optimizer": ("checkpoint", [optimizer] * 4),
                "reason": ("checkpoint", list(reasons)),
            }
        ).isel(checkpoint=[2, 0, 3, 1])
    }
    return RecordView("run", groups | more, {"record": "run.h5"})


def lines_of(axes, style="-"):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines if line.get_linestyle() == style]


def drawn(shown: RecordView):
    axes = draw_edge_of_stability(Figure().subplots(), shown)
    assert not outside(axes)
    return axes


def test_gradient_descent_has_its_sharpness_threshold_and_crossing():
    axes = drawn(record())
    assert (STEPS.tolist(), [1.0, 2.0, 4.0, 5.0]) in lines_of(axes)
    assert lines_of(axes, "--") == [(STEPS.tolist(), [3.0] * 4)]
    assert axes.get_yscale() == "log"
    labels = axes.get_legend_handles_labels()[1]
    assert sorted(labels) == ["first crossing", "sharpness", "threshold"]
    (span,) = (patch for patch in axes.patches if patch.get_label() == "first crossing")
    assert (span.get_x(), span.get_width()) == (10, 10)


def test_the_threshold_of_a_schedule_has_a_band_between_checkpoints():
    axes = drawn(record(thresholds=[12.0, 6.0, 6.0, 3.0]))
    assert lines_of(axes, "--") == [(STEPS.tolist(), [12.0, 6.0, 6.0, 3.0])]
    bands = [path.vertices for each in axes.collections for path in each.get_paths() if len(path.vertices) > 4]
    (band,) = bands
    for step, ends in ((5, (6, 12)), (25, (3, 6))):
        assert Path(band).contains_point((step, np.mean(ends)))
        assert not Path(band).contains_point((step, ends[1] + 0.1))
    assert crossing_of(record(thresholds=[12.0, 6.0, 6.0, 3.0])).high == 30


def test_what_did_not_converge_is_hollow_and_makes_no_crossing():
    shown = record(converged=[True, True, False, False])
    axes = drawn(shown)
    assert "sharpness, not converged" in axes.get_legend_handles_labels()[1]
    fills = {each[0].get_fillstyle(): list(each[0].get_ydata()) for each in axes.containers}
    assert fills == {"full": [1.0, 2.0], "none": [4.0, 5.0]}
    assert crossing_of(shown).reason == "below the threshold at every checkpoint"


@pytest.mark.parametrize("source", ["spectrum", "eigenpairs", "none"])
def test_adam_has_both_kinds_of_sharpness_where_the_record_has_them(source):
    eigenvalues = [[0.5, -3.0], [0.4, -3.0], [-0.1, -3.0], [0.2, np.nan]]
    rows = xr.Dataset({"step": ("checkpoint", STEPS), "eigenvalues": (("checkpoint", "index"), eigenvalues)})
    rows["rounding"] = "checkpoint", [0.01] * 4
    rows["intervals"] = ("checkpoint", "index", "bound"), np.array(eigenvalues)[..., None] + [-0.01, 0.01]
    rows["converged"] = ("checkpoint", "index"), [[True, False]] * 4
    rows["provenance"] = "checkpoint", [json.dumps({"settings": {"which": "LM"}})] * 4
    more = {} if source == "none" else {source: rows}
    shown = record([9.0, 2.0, 4.0, 5.0], [np.nan, 3.0, 3.0, 3.0], "Adam", ["no state", "", "", ""], **more)
    plain, preconditioned = sharpness_of(shown)
    np.testing.assert_array_equal(preconditioned.values, [2, 4, 5])
    np.testing.assert_array_equal(preconditioned.steps, [10, 20, 30])
    expected = {"spectrum": [0.5, 0.4, -0.1, 0.2], "eigenpairs": [0.5, 0.4, 0.2], "none": [9.0]}[source]
    np.testing.assert_array_equal(plain.values, expected)
    if source == "eigenpairs":  # of the two of largest magnitude at step 20, none is the largest eigenvalue
        np.testing.assert_array_equal(plain.steps, [0, 10, 30])
        np.testing.assert_allclose(plain.errors, 0.01)
        assert plain.converged.all()
    labels = drawn(shown).get_legend_handles_labels()[1]
    assert {"sharpness", "preconditioned sharpness", "threshold", "first crossing"} == set(labels)
    with styled("paper"):
        note = " ".join(draw("edge-of-stability", shown).get_supxlabel().split())
    assert "run: first above the threshold after step 10, by step 20 (Adam)" in note
    assert "run: a threshold at 3 of 4 checkpoints" in note
    assert ("left out 1 eigenvalue, not positive numbers" in note) == (source == "spectrum")


def test_without_a_threshold_the_sharpness_is_drawn_and_the_reason_given():
    shown = record(thresholds=np.nan, optimizer="", reasons=["there is no state of an optimiser"] * 4)
    assert drawn(shown).get_legend_handles_labels()[1] == ["sharpness"]
    with styled("paper"):
        note = " ".join(draw("edge-of-stability", shown).get_supxlabel().split())
    assert "run: no threshold (there is no state of an optimiser)" in note


def test_error_bars_that_reach_below_zero_end_on_the_axis():
    shown = record([0.05, 2.0, 4.0, 5.0])
    drawn(shown)
    with styled("paper"):
        assert "error bars end at a tenth of the eigenvalue" in " ".join(
            draw("edge-of-stability", shown).get_supxlabel().split()
        )


def test_without_a_positive_eigenvalue_there_is_nothing_to_draw():
    with pytest.raises(InputError, match="run has no positive eigenvalue"):
        draw_edge_of_stability(Figure().subplots(), record([-1.0, 0.0, -2.0, np.nan]))
