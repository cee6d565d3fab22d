"""The shape of profiles: known profiles with known noise, labels that are ruled out, and invariance under units."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from scipy.stats import beta, binom, ortho_group

from benchmarks.accuracy.profiles import FLATTENING, OPPOSITE, SAMPLES, SHAPES, T, huber, independent, labels, smooth
from landscape import InputError, Problem
from landscape.slices import line, unit
from landscape.slices.grid import positions
from landscape.valley import classify_profile
from landscape.valley.wall import EXPONENTS, fit_walls
from tests.slices.test_slices import Point


@pytest.mark.parametrize("name", SHAPES)
def test_known_shapes_are_told(name):
    assert labels(name, 40, 12)[SHAPES[name][1]] >= 11


@pytest.mark.slow
@pytest.mark.parametrize("noise", [independent, smooth])
@pytest.mark.parametrize("name", SHAPES)
def test_known_shapes_are_told_over_100_seeds(name, noise):
    for snr in (40, 100):
        found = labels(name, snr, 100, noise)
        assert found[SHAPES[name][1]] >= 95, (snr, found)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [independent, smooth])
def test_the_opposite_label_is_rare_at_any_noise(noise):
    """At most 1 % of 100 seeds of every U and V get the opposite label, with the upper bound of Clopper and Pearson."""
    for snr in (8, 12, 20):
        wrong = total = 0
        for name, (_, label) in SHAPES.items():
            if label in OPPOSITE:
                wrong += labels(name, snr, 100, noise)[OPPOSITE[label]]
                total += 100
        assert wrong <= 0.01 * total, (snr, wrong, total, beta.ppf(0.95, wrong + 1, total - wrong))


@pytest.mark.parametrize("dim", [2, 50])
@pytest.mark.parametrize(("name", "power"), [("U", 2), ("V", 1)])
def test_a_valley_in_rotated_dimensions_is_read_along_its_direction(dim, name, power):
    """The loss is |u.theta|^p plus a quadratic in all other directions. Samples differ in walls, floors and slopes."""
    rotation = torch.tensor(ortho_group.rvs(dim, random_state=0))
    rng = np.random.default_rng(1)
    walls, floors = (torch.tensor(values) for values in (1 + 0.5 * rng.standard_normal(SAMPLES), rng.random(SAMPLES)))

    def losses(model, batch):
        coordinates = rotation @ model.at
        rest = coordinates[1:].square().sum()
        return walls[batch] * coordinates[0].abs() ** power + floors[batch] + rest

    problem = Problem.from_sample_losses(Point(torch.zeros(dim)), losses, [torch.arange(SAMPLES)])
    problem = problem.at(0.1 * rotation[0])  # off the floor, as iterates are; the kink itself has no second derivative
    found = line(problem, unit(rotation[0], "valley"), positions(-1.1, 0.9, 51))
    verdict = classify_profile(found.positions, found.sample_losses, found.sample_weights)
    assert verdict.label == name
    assert verdict.exponent == pytest.approx(power, rel=0.05)
    assert verdict.centre == pytest.approx(-0.1, abs=0.03)
    assert verdict.height == pytest.approx(1.0, rel=0.2)


def test_the_fitted_walls_are_those_of_the_curve():
    """Without noise the fit equals the curve, if centre and exponent are on the grid."""
    power = float(EXPONENTS[41])
    curve = 3 + np.where(T < 0, 2.0, 0.5) * np.abs(T) ** power
    verdict = classify_profile(5 + 2 * T, np.tile(curve, (SAMPLES, 1)))
    np.testing.assert_allclose(verdict.walls(5 + 2 * T), curve, atol=1e-10)
    assert verdict.floor == pytest.approx(3, abs=1e-10)
    assert verdict.ends == (5 + 2 * T[0], 5 + 2 * T[-1])
    assert np.isnan(verdict.walls(np.array([2.9, 7.1]))).all()
    one_sided = classify_profile(T, np.tile(3 + np.abs(T + 1) ** power, (SAMPLES, 1)))
    np.testing.assert_allclose(one_sided.walls(T), 3 + np.abs(T + 1) ** power, atol=1e-10)


def test_the_height_is_part_of_the_verdict():
    """A kink rounded at 0.3 is a V from afar and a U from near."""
    far, near = huber(0.3)(3 * T), huber(0.3)(0.25 * T)
    rng = np.random.default_rng(0)
    assert classify_profile(3 * T, independent(far, 100, rng)).label == "V"
    verdict = classify_profile(0.25 * T, independent(near, 100, rng))
    assert verdict.label == "U"
    assert verdict.height == pytest.approx(0.25**2 / 0.6, rel=0.1)
    fine = np.linspace(-3, 3, 501)
    assert classify_profile(fine, independent(huber(0.3)(fine), 2000, rng), height=0.1).label == "U"


@pytest.mark.parametrize("scatter", [0.02, 0.1, 0.4])
def test_scattered_minima_round_the_mean(scatter):
    """Every sample is a V. Their mean is a V at heights far above the scatter, and a U at heights below it."""
    minima = scatter * np.random.default_rng(0).standard_normal(SAMPLES)

    def seen(reach):
        return classify_profile(reach * T, abs(reach * T - minima[:, None]))

    assert seen(10 * scatter).label == "V"
    below = seen(scatter)
    assert below.label == "U"
    assert 1.6 < below.exponent < 2.2


def test_units_and_levels_change_nothing():
    rng = np.random.default_rng(0)
    losses = independent(abs(T), 30, rng)
    one, other = classify_profile(T, losses), classify_profile(5 + 1024 * T, 7 + 2.0**20 * losses)
    assert other.label == one.label
    assert other.exponent == one.exponent
    assert other.interval == one.interval
    assert other.height == pytest.approx(2.0**20 * one.height, rel=1e-9)
    assert other.centre == pytest.approx(5 + 1024 * one.centre, abs=1e-6)


def test_weights_count_samples_and_masked_ones_not_at_all():
    rng = np.random.default_rng(0)
    losses = independent(T**2, 50, rng)
    masked = np.vstack([losses, np.full((5, len(T)), np.nan)])
    weights = np.append(np.full(len(losses), 2.5), np.zeros(5))
    one, other = classify_profile(T, masked, weights), classify_profile(T, losses)
    assert (one.label, one.exponent, one.interval) == (other.label, other.exponent, other.interval)
    assert one.right == pytest.approx(other.right, rel=1e-12)


def test_what_is_not_two_walls_is_undecided():
    verdict = classify_profile(T, independent(np.cos(4 * np.pi * T), 200, np.random.default_rng(0)))
    assert (verdict.label, verdict.reason) == ("undecided", "the profile isn't two walls about one floor")


def test_noise_alone_is_no_verdict():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        verdict = classify_profile(T, rng.standard_normal((SAMPLES, len(T))))
        assert verdict.label in ("undecided", "no valley")
        assert verdict.reason


def test_a_flat_profile_is_no_valley():
    assert classify_profile(T, np.ones((SAMPLES, len(T)))).label in ("undecided", "no valley")


def test_reasons_name_the_side():
    rng = np.random.default_rng(0)
    assert "to the left" in classify_profile(T, independent(np.maximum(T, 0), 60, rng)).reason
    assert "to the right" in classify_profile(T, independent(np.maximum(-T, 0), 60, rng)).reason


@pytest.mark.parametrize("exponent", EXPONENTS[[0, 30, 60, 100]])
@pytest.mark.parametrize("centre", [-0.5, 0.0, 0.98])
def test_the_fit_is_exact_on_its_own_curves(exponent, centre):
    walls = np.where(centre > T, 2.0, 0.7)
    curve = 3 + walls * abs(T - centre) ** exponent
    found = fit_walls(T, curve[None])
    assert found.exponent[0] == pytest.approx(exponent)
    assert found.centre[0] == pytest.approx(centre, abs=1e-9)
    # Normal equations lose half of the digits, and what is left is a difference of sums of squares.
    rounding = 10 * np.sqrt(np.finfo(float).eps) * curve.std()
    assert found.left[0] == pytest.approx(2 * (centre + 1) ** exponent, abs=rounding)
    assert found.right[0] == pytest.approx(0.7 * (1 - centre) ** exponent, abs=rounding)
    assert found.floor[0] == pytest.approx(3, abs=rounding)
    assert found.misfit[0] <= rounding


@pytest.mark.parametrize("seed", range(3))
def test_no_centre_and_exponent_fit_better_with_walls_that_are_not_negative(seed):
    """SciPy's non-negative least squares, at all exponents and centres and with any sign of the floor, is no better."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(-1, 1, 15))
    curve = [rng.standard_normal(15), t + 0.1 * rng.standard_normal(15), t**2 + 0.1 * rng.standard_normal(15)][seed]
    least = math.inf
    for centre in np.sort(np.append(t, (t[1:] + t[:-1]) / 2)):
        for exponent in EXPONENTS:
            left, right = (np.maximum(side, 0) ** exponent for side in (centre - t, t - centre))
            least = min(least, nnls(np.stack([np.ones(15), -np.ones(15), left, right], axis=1), curve)[1])
    assert fit_walls(t, curve[None]).misfit[0] == pytest.approx(least / math.sqrt(15), rel=1e-9)


def test_many_positions_have_no_more_centres_than_memory_allows():
    fine = np.linspace(-1, 1, 2001)
    found = fit_walls(fine, abs(fine - 0.3)[None])
    assert found.centre[0] == pytest.approx(0.3, abs=2 / 120)
    assert found.exponent[0] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("t", "losses", "more", "word"),
    [
        (T[:5], np.ones((9, 5)), {}, "at least 7"),
        (T[::-1], np.ones((9, 51)), {}, "ascend"),
        (T, np.ones((9, 50)), {}, r"shape \(samples, 51\)"),
        (T, np.ones((3, 51)), {}, "at least 8 samples"),
        (T, np.full((9, 51), np.nan), {}, "finite losses"),
        (T, np.ones((9, 51)), {"weights": -np.ones(9)}, "weights"),
        (T, np.ones((9, 51)), {"height": 0.0}, "height must be positive"),
        (T, np.tile(abs(T), (9, 1)), {"height": 0.01}, "positions lie below"),
    ],
)
def test_bad_profiles_are_refused_in_one_line(t, losses, more, word):
    with pytest.raises(InputError, match=word) as caught:
        classify_profile(t, losses, **more)
    assert "\n" not in str(caught.value)


def test_a_shift_of_a_whole_curve_is_no_noise():
    """A shift that is equal at all positions of a sample doesn't change the shape or the quality of its fit."""
    rng = np.random.default_rng(0)
    losses = np.maximum(abs(T) - 0.4, 0) + 0.5 * rng.standard_normal((SAMPLES, len(T)))
    shifted = losses + 100 * rng.standard_normal((SAMPLES, 1))
    plain, moved = (classify_profile(T, each, resamples=50) for each in (losses, shifted))
    assert moved.misfit == pytest.approx(plain.misfit, rel=1e-6)
    assert (moved.label, moved.interval) == (plain.label, plain.interval)


@pytest.mark.parametrize("name", FLATTENING)
def test_walls_that_flatten_are_no_v(name):
    """This holds without noise, and for 64 samples with a standard error of 1 % of the depth."""
    profile = FLATTENING[name](T)
    noise = 0.01 * np.ptp(profile) * 8 * np.random.default_rng(0).standard_normal((64, len(T)))
    for losses in (np.tile(profile, (64, 1)), profile + noise):
        verdict = classify_profile(T, losses, resamples=50)
        assert verdict.label == "undecided"
        assert verdict.reason


def test_a_bowl_is_flat_where_it_is_read_low_enough():
    """1 - exp(-t^2 / 0.1) has a floor like any other: at a tenth of its depth it is a U."""
    t = np.linspace(-1, 1, 201)
    losses = np.tile(1 - np.exp(-(t**2) / 0.1), (16, 1))
    assert classify_profile(t, losses, resamples=50).label == "undecided"
    assert classify_profile(t, losses, height=0.1, resamples=50).label == "U"


@pytest.mark.parametrize("noise", [independent, smooth])
def test_nothing_but_noise_has_a_shape_once_in_a_hundred(noise):
    """Pure noise gets the label U or V at most at the stated rate, by the binomial bound for 60 seeds."""
    found = Counter(
        classify_profile(T, noise(0 * T, 1, np.random.default_rng(seed))[:16], resamples=20, seed=seed).label
        for seed in range(60)
    )
    assert found["U"] + found["V"] <= binom.ppf(0.999, 60, 0.01)


def test_a_wall_is_told_from_noise_by_few_samples():
    """For eight samples 2 of 256 choices of signs are the given signs or their opposite, which is below 1 %."""
    losses = abs(T) + 0.01 * np.random.default_rng(0).standard_normal((8, len(T)))
    assert classify_profile(T, losses, resamples=50).label == "V"
