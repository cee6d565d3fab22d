"""The table of invariances in docs/sharpness.md against measured ratios, and the kinks of ReLU networks."""

from __future__ import annotations

import re

import pytest

from benchmarks.accuracy import invariances
from landscape import full_spectrum
from landscape.sharpness.average_case import average_case
from landscape.sharpness.rises import Rises
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "sharpness.md").read_text(encoding="utf-8")
ROWS = {
    symmetry: [cell.strip() for cell in cells.split("|")]
    for symmetry, cells in re.findall(r"^\| ([^|]*?) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    if symmetry in invariances.SYMMETRIES
}
NOISY = ("isotropic noise", "adaptive noise")
QUICK = "layer-wise rescaling of a ReLU network"


def test_the_table_has_every_symmetry_and_every_measure():
    assert set(ROWS) == set(invariances.SYMMETRIES)
    assert f"| symmetry | {' | '.join(invariances.MEASURES)} |" in PAGE


@pytest.mark.parametrize(
    "symmetry", [each if each == QUICK else pytest.param(each, marks=pytest.mark.slow) for each in ROWS]
)
def test_ratios_are_those_of_the_table(symmetry, monkeypatch):
    """Ascents settle to 1e-4. Means from different draws may differ by four of their errors."""
    if symmetry == QUICK:
        monkeypatch.setattr(invariances, "PAIRS", 20)
    found = invariances.ratios(symmetry)
    for measure, written in zip(invariances.MEASURES, ROWS[symmetry], strict=True):
        ratio, error = found[measure]
        if written == "1":
            assert ratio == pytest.approx(1, abs=1e-4), measure
        elif measure in NOISY:
            assert abs(ratio - float(written.split()[0])) <= max(4 * error, 0.02), measure
        else:
            assert ratio == pytest.approx(float(written), rel=0.01), measure


def test_noise_sees_the_kinks_of_a_relu_network_and_the_trace_does_not():
    """Below the distance to the nearest kink, the mean rise is rho^2 tr(H) / (2 dim); above that distance it's more."""
    problem = invariances.posed(invariances.network())
    trace = full_spectrum(problem.hessian()).eigenvalues.sum()
    found = average_case(Rises(problem), "isotropic", [1e-4, 1e-2], pairs=30).estimates
    near, far = (radius**2 * trace / (2 * problem.layout.dim) for radius in (1e-4, 1e-2))
    assert found[0].low <= near <= found[0].high
    assert found[1].low > 2 * far
