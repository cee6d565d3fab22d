"""The paper's definition over a range of thresholds, and anisotropy, on given spectra."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape import InputError, Problem
from landscape.measurements import History, Valley
from landscape.valley import anisotropy, kappa_map, noise_floor, thresholds

GAP = np.array([10.0, 9.0, 8.0, 0.1, 0.05, 0.0, -0.02, -0.5])


def test_kappa_is_the_ratio_of_the_ends_of_the_valley():
    found = kappa_map(GAP[::-1], np.array([0.01, 0.2, 1.0, 7.99, 8.0, 10.0]))
    assert found.kappa == pytest.approx([200, 1.25, 1.25, 1.25, 10 / 9, np.nan], nan_ok=True)
    assert list(found.valley) == [5, 3, 3, 3, 2, 0]
    assert list(found.river) == [1, 4, 5, 5, 6, 8]  # magnitudes of at most eps: -0.5 is river from 0.5 on
    assert found.restates == pytest.approx([0.2, 0.025, 0.125, 0.99875, 8 / 9, np.nan], nan_ok=True)
    labels = found.labels(np.array([0.1, 0.2, 1.0, 1000.0]))
    assert list(labels[0]) == ["V", "V", "V", "U"]
    assert list(labels[2]) == ["V", "V", "U", "U"]
    assert set(labels[5]) == {"no valley"}


def test_without_a_gap_the_definition_restates_the_cut():
    """A spectrum without a gap and one with a gap have equal kappa, and `restates` distinguishes them."""
    continuous = np.geomspace(1e-4, 10, 2000)
    eps = thresholds(continuous, 1e-3)
    assert (kappa_map(continuous, eps).restates > 0.99).all()
    assert kappa_map(continuous, eps).kappa == pytest.approx(10 / eps, rel=0.01)
    gapped = np.concatenate([np.linspace(5, 10, 50), np.geomspace(1e-6, 1e-4, 500)])
    inside = kappa_map(gapped, np.geomspace(1e-3, 1, 20))
    assert (inside.kappa == 2).all()
    assert (inside.restates < 0.21).all()


def test_thresholds_go_from_the_floor_to_the_top():
    eps = thresholds(GAP, 0.03, 11)
    assert (eps[0], len(eps)) == (pytest.approx(0.03), 11)
    assert 9.99 < eps[-1] < 10
    assert np.diff(np.log(eps)) == pytest.approx(np.full(10, np.log(10 / 0.03) / 10))
    for floor in (10.0, 0.0, -1.0):
        with pytest.raises(InputError, match="noise floor"):
            thresholds(GAP, floor)


def test_scale_moves_the_thresholds_and_nothing_else():
    one, other = kappa_map(GAP, np.array([0.2, 1.0])), kappa_map(1024 * GAP, 1024 * np.array([0.2, 1.0]))
    assert np.array_equal(one.kappa, other.kappa)
    assert np.array_equal(one.restates, other.restates)


def test_anisotropy_counts_what_lies_outside_apart():
    found = anisotropy(GAP, 0.03)
    assert (found.positive, found.null, found.zeros, found.negative) == (5, 2, 1, 1)
    assert found.negative_mass == pytest.approx(0.5 / 27.67)
    positive = GAP[:5]
    assert found.participation == pytest.approx(positive.sum() ** 2 / (positive**2).sum())
    assert found.quantile_ratio == pytest.approx(np.quantile(positive, 0.9) / np.quantile(positive, 0.1))


def test_isotropic_and_ill_conditioned_quadratics_are_told_apart():
    assert anisotropy(np.full(40, 3.0), 1e-6).participation == pytest.approx(40)
    assert anisotropy(np.full(40, 3.0), 1e-6).quantile_ratio == pytest.approx(1)
    steep = anisotropy(np.geomspace(1e-3, 1e3, 40), 1e-6)
    assert steep.participation < 6
    assert steep.quantile_ratio > 1e4


def test_where_nothing_is_positive_there_is_no_ratio():
    found = anisotropy(np.zeros(3), 0.0)
    assert np.isnan([found.participation, found.quantile_ratio]).all()
    assert (found.null, found.zeros, found.negative_mass) == (3, 3, 0.0)


def test_the_floor_is_the_larger_of_two():
    assert noise_floor(GAP, "float32") == pytest.approx(1e-4)
    assert noise_floor(-GAP, "float64") == pytest.approx(1e-12)
    assert noise_floor(GAP, "float64", 0.3) == 0.3


@pytest.mark.parametrize(
    "call",
    [
        lambda: kappa_map(np.array([1.0, np.nan]), np.array([0.1])),
        lambda: kappa_map(np.array([]), np.array([0.1])),
        lambda: kappa_map(GAP, np.array([0.0])),
        lambda: anisotropy(GAP, -1.0),
        lambda: anisotropy(np.array([np.inf]), 0.0),
        lambda: noise_floor(GAP, "float16"),
    ],
)
def test_what_is_no_spectrum_is_refused(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- the sampling floor


def test_halves_are_two_parts_of_the_data_that_make_the_whole():
    torch.manual_seed(0)
    x, y = torch.randn(11, 3), torch.randint(0, 2, (11,))
    for batches in ([(x, y)], [(x[:5], y[:5]), (x[5:], y[5:])]):
        problem = Problem(nn.Linear(3, 2), nn.CrossEntropyLoss(), batches)
        first, second = problem.halves()
        sizes = [len(each.by_sample().losses) for each in (first, second)]
        assert sum(sizes) == 11
        assert abs(sizes[0] - sizes[1]) <= 1
        mean = (sizes[0] * first.loss() + sizes[1] * second.loss()) / 11
        assert mean == pytest.approx(problem.loss(), rel=1e-6)
        assert first.loss() != second.loss()
    several = [(x[:8], y[:8]), *((x[a : a + 1], y[a : a + 1]) for a in (8, 9, 10))]
    first, second = Problem(nn.Linear(3, 2), nn.CrossEntropyLoss(), several).halves()
    assert sorted(len(each.by_sample().losses) for each in (first, second)) == [5, 6]
    with pytest.raises(InputError, match="no two halves"):
        Problem(nn.Linear(3, 2), nn.CrossEntropyLoss(), [(x[:1], y[:1])]).halves()


# ---------------------------------------------------------------------- as a measurement


def measured(loss, samples, **settings):
    problem = Problem.from_sample_losses(Quartic(), loss, [samples])
    valley = Valley(k=1, **settings).resolve(problem, 1)
    return valley, valley.measure(problem, lambda *_: None, History()).dataset


class Quartic(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))


def test_where_sampling_explains_all_curvature_there_is_no_valley_to_be_cut_out():
    """The walls have curvature 3 in one half of the data and -2.9 in the other half."""
    samples = torch.cat([torch.full((8,), 3.0), torch.full((8,), -2.9)]).double()
    valley, row = measured(lambda model, batch: 1 + batch * model.w**2 / 2 + 0.01 * model.w**4, samples)
    assert len(row.eps) == 0
    assert any("no valley, because no eigenvalue lies above" in str(line) for line in valley.show(row))


@pytest.mark.parametrize(("slope", "depth"), [(0.4, 1.6), (0.0, 0.25)])
def test_the_depth_is_what_was_learnt_and_profiles_go_to_shares_of_it_on_both_sides(slope, depth):
    """For a line on y = x the depth is the variance 2.5 less the loss 2.5 (1 - slope)^2, or a tenth of 2.5."""
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]] * 4, dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, slope)
    row = Valley(k=1, points=7).measure(Problem(model, nn.MSELoss(), [(x, x)]), lambda *_: None, History()).dataset
    assert float(row.natural_scale) == pytest.approx(2.5, rel=1e-12)
    assert float(row.depth) == pytest.approx(depth, rel=1e-12)
    off = 1 - slope
    for share, ends in zip(row.height_share.values, row.end.values[0], strict=True):
        # 2.5 (off - t)^2 has risen by share * depth where |off - t| is the root of this; an end is within a tenth.
        far = np.sqrt(off**2 + share * depth / 2.5)
        for end, exact in zip(np.sort(np.abs(ends)), (far - off, far + off), strict=True):
            assert exact * (1 - 1e-9) <= end <= 1.1 * exact
        assert ends[0] < 0 < ends[1]


def test_a_side_on_which_nothing_rises_goes_ten_times_as_far_as_the_other():
    """The loss is 1 + relu(w)^2, which rises only to the right."""
    losses = lambda model, batch: batch * (1 + torch.relu(model.w) ** 2)  # noqa: E731
    _, row = measured(losses, torch.ones(16).double(), points=7)
    for low, high in np.sort(np.abs(row.end.values[0]), axis=1):
        assert high == pytest.approx(10 * low, rel=1e-12)


def test_a_valley_without_depth_or_samples_is_refused():
    zero = lambda model, batch: 0 * batch * model.w**2  # noqa: E731
    with pytest.raises(InputError, match="no depth"):
        measured(zero, torch.ones(16).double())
    with pytest.raises(InputError, match="at least 8 samples, and there are 4"):
        measured(zero, torch.ones(4).double())
