"""Rises in neighbourhoods against closed forms, the secular equation and searches of the user's own loss in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from landscape import InputError, Problem
from landscape.sharpness.average_case import average_case
from landscape.sharpness.neighbourhood import NAMES, Region, worst_case
from landscape.sharpness.rises import Rises
from landscape.spectrum.probes import probe

RNG = np.random.default_rng(0)
WEIGHTS = torch.tensor([0.5, 0.25, 2.25])  # of three samples; their mean is 1


class AtPoint(nn.Module):
    """A model that returns its parameters for every sample."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.as_tensor(theta))

    def forward(self, x):
        return self.theta.expand(len(x), -1)


def pose(function, theta, dtype=torch.float64) -> Problem:
    """The problem whose loss is a function of the parameters (n,), weighted differently for each of three samples."""
    batch = torch.zeros(3, 1, dtype=dtype), WEIGHTS.to(dtype)

    def loss(output, target):
        return torch.stack([function(row) for row in output]) * target

    return Problem(AtPoint(torch.as_tensor(theta).to(dtype)), loss, [batch], dtype=dtype)


def quadratic(gradient, hessian):
    """L(w) = g.w + w.H w / 2 as a function of tensors of either type."""
    g, matrix = torch.as_tensor(gradient), torch.as_tensor(hessian)
    return lambda w: (g.to(w.dtype) * w).sum() + (w[:, None] * matrix.to(w.dtype) * w).sum() / 2


def symmetric(n: int) -> np.ndarray:
    square = RNG.standard_normal((n, n))
    return (square + square.T) / 2


def secular(g: np.ndarray, hessian: np.ndarray, radius: float) -> float:
    """The maximum of g.d + d.H d / 2 over ||d|| <= radius (Conn, Gould and Toint 2000, chapter 7)."""
    values, vectors = np.linalg.eigh(hessian)
    along, top = vectors.T @ g, max(values[-1], 0.0)

    def step(multiplier):
        return np.divide(along, multiplier - values, out=np.zeros_like(along), where=multiplier > values)

    d, hard = step(top), values[-1] >= 0
    if np.linalg.norm(d) <= radius and (not hard or abs(along[-1]) < 1e-12):
        d[-1] += math.sqrt(radius**2 - d @ d) if hard else 0.0  # the hard case; otherwise the maximum is inside
    else:
        upper = top + np.linalg.norm(along) / radius + 1e-12
        d = step(
            scipy.optimize.brentq(lambda each: np.linalg.norm(step(each)) - radius, top + 1e-13 * (1 + top), upper)
        )
    return float(along @ d + values @ d**2 / 2)


# ---------------------------------------------------------------------- worst case


def test_the_secular_equation_agrees_with_dense_grids():
    angle = np.linspace(0, 2 * math.pi, 20001)
    for _ in range(3):
        g, hessian = RNG.standard_normal(2), symmetric(2)
        points = np.stack([np.cos(angle), np.sin(angle)])
        inside = np.concatenate([share * points for share in np.linspace(0, 0.7, 200)], axis=1)
        every = np.concatenate([0.7 * points, inside], axis=1)
        grid = (g @ every + np.einsum("in,ij,jn->n", every, hessian, every) / 2).max()
        assert grid == pytest.approx(secular(g, hessian, 0.7), abs=1e-4)
        assert grid <= secular(g, hessian, 0.7) + 1e-12


@pytest.mark.parametrize("hard", [False, True])
def test_the_ball_on_quadratics(hard):
    """In the hard case the gradient is orthogonal to the top eigenvector, so gradients don't find that eigenvector."""
    shortest = 1.0
    for n in (2, 3, 4, 5):
        g, hessian = RNG.standard_normal(n) * 10 ** RNG.uniform(-2, 1), symmetric(n)
        if hard:
            top = np.linalg.eigh(hessian)[1][:, -1]
            g -= top * (top @ g)
        rises = Rises(pose(quadratic(g, hessian), np.zeros(n)))
        found = worst_case(rises, "ball", [0.05, 1.0])
        wanted = [secular(g, hessian, radius) for radius in (0.05, 1.0)]
        assert (found.rises <= np.multiply(wanted, 1 + 1e-9)).all()  # a point of the ball
        shortest = min(shortest, (found.rises / wanted).min())
        steps = [radius * g / np.linalg.norm(g) for radius in (0.05, 1.0)]
        np.testing.assert_allclose(found.one_step, [g @ d + d @ hessian @ d / 2 for d in steps], rtol=1e-9)
    assert shortest > 0.98  # docs/sharpness.md has the shares of many draws


def test_near_a_minimum_the_worst_case_is_the_top_eigenvector():
    values, vectors = np.array([0.1, 1.0, 5.0]), np.linalg.qr(RNG.standard_normal((3, 3)))[0]
    hessian = vectors @ np.diag(values) @ vectors.T
    rises = Rises(pose(quadratic(np.zeros(3), hessian), np.zeros(3)))
    found = worst_case(rises, "ball", [0.01, 0.1], directions=[torch.as_tensor(vectors[:, 2])])
    np.testing.assert_allclose(found.rises, [2.5e-4, 2.5e-2], rtol=1e-6)
    np.testing.assert_allclose(found.one_step, 0, atol=1e-20)  # the gradient shows nothing
    np.testing.assert_allclose(worst_case(rises, "ball", [0.01, 0.1]).rises, [2.5e-4, 2.5e-2], rtol=1e-3)


def test_the_box_on_convex_quadratics_beside_all_corners():
    """A convex function has its maximum at a corner, and other corners may be local maxima, where an ascent ends."""
    for n in (2, 3, 5):
        square, g, w = RNG.standard_normal((n, n)), RNG.standard_normal(n), RNG.standard_normal(n)
        hessian = square @ square.T
        rises = Rises(pose(quadratic(g, hessian), w))
        for radius, share in ((0.01, 1 - 1e-9), (0.3, 0.95)):
            half = radius * (np.abs(w) + 1)
            corners = [half * signs for signs in itertools.product((-1, 1), repeat=n)]
            heights = np.array([(g + hessian @ w) @ d + d @ hessian @ d / 2 for d in corners])
            found = worst_case(rises, "box", [radius]).rises[0]
            assert share * heights.max() <= found <= heights.max() * (1 + 1e-12)
            assert np.abs(heights / found - 1).min() < 1e-12  # the height of a corner


def network(w):
    """The loss of a network with weights (5,): not convex, and steep where the product of the weights grows."""
    hidden = torch.tanh(w[0] * torch.linspace(-1, 2, 7, dtype=w.dtype) + w[1]) * w[2] + w[3]
    return (torch.sin(2 * hidden) * w[4] - 0.3).square().mean()


def inside(name, w, radius):
    """Random starts (m, n) in a neighbourhood, the bounds and the constraint of `scipy.optimize.minimize`."""
    scale = {"ball": np.ones_like(w), "adaptive": np.abs(w), "box": np.abs(w) + 1}[name]
    z = RNG.standard_normal((12, len(w)))
    if name == "box":
        return radius * scale * np.sign(z), [(-radius * each, radius * each) for each in scale], ()
    starts = radius * scale * z / np.linalg.norm(z, axis=1)[:, None]
    slack = {"type": "ineq", "fun": lambda d: radius**2 - ((d / scale) ** 2).sum()}
    return starts, None, (slack,)


@pytest.mark.parametrize("name", NAMES)
def test_against_searches_of_the_loss_itself(name):
    """SLSQP of SciPy from many starts, on the user's own function: an oracle for the maximum."""
    w = np.array([0.7, -0.4, 1.3, 0.2, 0.9])
    base = float(network(torch.as_tensor(w)))
    rises = Rises(pose(network, w))
    radii = [0.02, 0.2, 0.4]
    found = worst_case(rises, name, radii)
    for radius, rise in zip(radii, found.rises, strict=True):
        starts, bounds, constraints = inside(name, w, radius)
        oracle = max(
            -scipy.optimize.minimize(
                lambda d: base - float(network(torch.as_tensor(w + d))),
                start,
                bounds=bounds,
                constraints=constraints,
                method="SLSQP",
            ).fun
            for start in starts
        )
        assert rise >= 0.999 * oracle
        assert rise <= oracle * (1 + 1e-3)
    assert (np.diff(found.rises) >= 0).all()
    assert (found.rises >= found.one_step).all()
    assert found.settled.all()


def test_steps_stay_within_their_neighbourhood():
    w = torch.tensor([3.0, -0.5, 0.0, 1e-3], dtype=torch.float64)
    for name in NAMES:
        region = Region.of(name, w)
        for along in torch.as_tensor(RNG.standard_normal((20, 4))):
            for z in (region.farthest(along, 0.3), region.projected(along, 0.3)):
                d = (region.scale * z).numpy()
                if name == "ball":
                    assert np.linalg.norm(d) <= 0.3 * (1 + 1e-15)
                elif name == "adaptive":
                    assert d[2] == 0  # a weight that is 0 doesn't move
                    assert np.linalg.norm(d[[0, 1, 3]] / np.abs(w.numpy())[[0, 1, 3]]) <= 0.3 * (1 + 1e-15)
                else:
                    assert (np.abs(d) <= 0.3 * (np.abs(w.numpy()) + 1) * (1 + 1e-15)).all()


def test_the_step_of_adaptive_sharpness():
    """Kwon et al. 2021: d = rho T^2 g / ||T g|| with T = |w|."""
    w, g, hessian = np.array([2.0, -0.1, 0.0]), np.array([1.0, 5.0, 100.0]), np.zeros((3, 3))
    found = worst_case(Rises(pose(quadratic(g, hessian), w)), "adaptive", [0.1])
    d = 0.1 * w**2 * g / np.linalg.norm(w * g)
    assert found.one_step[0] == pytest.approx(g @ d, rel=1e-12)
    assert found.rises[0] == pytest.approx(g @ d, rel=1e-9)  # a linear function: the step is the maximum


def test_points_without_a_finite_loss_are_counted_and_left_out():
    rises = Rises(pose(lambda w: -torch.log(1 - w.square().sum()), np.array([0.5, 0.1])))
    found = worst_case(rises, "ball", [0.1, 2.0])
    assert found.skipped[0] == 0
    assert found.skipped[1] > 0
    assert np.isfinite(found.rises).all()


def test_a_limit_on_steps_is_reported():
    hessian = np.diag([1.0, 1.01, 1.02])
    rises = Rises(pose(quadratic(np.array([1e-3, 0, 0]), hessian), np.zeros(3)))
    assert not worst_case(rises, "ball", [1.0], steps=1).settled[0]


# ---------------------------------------------------------------------- errors


def test_the_error_over_samples_is_that_of_paired_differences():
    g = np.array([1.0, 2.0])
    found = worst_case(Rises(pose(quadratic(g, np.zeros((2, 2))), np.zeros(2))), "ball", [0.1])
    rises = found.rises[0] * WEIGHTS.double()  # of each sample
    assert found.standard_errors[0] == pytest.approx(float(rises.std() / math.sqrt(3)), rel=1e-6)


def test_small_rises_of_float32_weights_have_no_rounding_of_float32():
    """In float32 a loss of 1,000 hides any rise below 1e-4."""
    g = np.array([3.0, 4.0])
    rises = Rises(pose(lambda w: 1000 + quadratic(g, np.zeros((2, 2)))(w), np.zeros(2), torch.float32))
    found = worst_case(rises, "ball", [1e-6])
    assert rises.arithmetic == "in float64"
    assert abs(found.rises[0] - 5e-6) <= rises.rounding
    assert 1e-13 < rises.rounding < 1e-11


def test_a_model_that_rounds_to_fewer_digits_has_rises_in_float32():
    rises = Rises(pose(lambda w: 1 + (3 * w.to(torch.bfloat16).to(w.dtype)).sum(), np.ones(2), torch.float32))
    assert rises.arithmetic == "in float32: the model itself rounds to fewer digits (to to bfloat16)"
    assert not rises.rounding_is_measured
    assert rises.rounding > 7 * 2**-24


# ---------------------------------------------------------------------- average case


def test_pairs_on_a_quadratic_are_its_quadratic_form():
    """The gradient cancels in each antithetic pair, so every pair is rho^2 x.H x / (2 dim)."""
    n, w = 4, np.array([1.0, -2.0, 0.0, 0.5])
    hessian = symmetric(n)
    rises = Rises(pose(quadratic(RNG.standard_normal(n), hessian), w))
    draws = torch.stack([probe(n, 5, index, "gaussian") for index in range(6)]).numpy()
    for noise, moved in (("isotropic", draws / 2), ("adaptive", draws * np.abs(w) / math.sqrt(3))):
        found = average_case(rises, noise, [0.01, 0.3], pairs=6, seed=5)
        forms = np.einsum("ki,ij,kj->k", moved, hessian, moved) / 2
        np.testing.assert_allclose(found.pairs, np.outer([1e-4, 0.09], forms), rtol=1e-7, atol=1e-13)


def test_intervals_contain_the_exact_mean_of_a_quartic():
    """E (w + s x)^4 - w^4 = 6 w^2 s^2 + 3 s^4, with s^2 = rho^2 / dim."""
    w, n = np.linspace(-1, 1, 6), 6
    rises = Rises(pose(lambda each: each.pow(4).sum(), w))
    radii = [0.1, 2.0]
    exact = [(6 * w**2 * rho**2 / n + 3 * (rho**2 / n) ** 2).sum() for rho in radii]
    held = np.zeros(2)
    for seed in range(40):
        found = average_case(rises, "isotropic", radii, pairs=8, seed=seed)
        held += [each.low <= value <= each.high for each, value in zip(found.estimates, exact, strict=True)]
    assert (held >= 31).all()  # at a coverage of 93 %, the chance of 30 or fewer is below 0.1 %


def test_draws_are_those_of_the_seed_at_every_checkpoint():
    hessian = symmetric(3)
    one, other = (average_case(Rises(pose(quadratic(np.zeros(3), hessian), w)), "isotropic", [0.1], pairs=4)
                  for w in (np.ones(3), np.full(3, 7.0)))  # fmt: skip
    np.testing.assert_allclose(one.pairs, other.pairs, rtol=1e-6)


# ---------------------------------------------------------------------- of the command


def test_a_row_holds_what_the_functions_find(command, tiny):
    ran = command("a.pt", "--hessian", "-k", 2, "--neighbourhood", "--radii", 0.02, "--radii", 0.01, "--seed", 2,
                  "-o", "a.h5")  # fmt: skip
    assert ran.status == 0
    assert "a lower bound of the maximum; losses in float64" in ran.out
    row = landscape_row("a.h5")
    np.testing.assert_array_equal(row.radius, [0.01, 0.02])
    assert list(row.set_name.values) == ["ball", "adaptive", "box"]
    largest = float(torch.linalg.eigvalsh(tiny.hessian("a.pt"))[-1])
    model = row.radius * row.gradient_norm + row.radius**2 * largest / 2
    np.testing.assert_allclose(row.quadratic_bound, model, rtol=1e-4)
    assert (row.quadratic_bound >= model * (1 - 1e-9)).all()
    np.testing.assert_allclose(row.keskar, 100 * row.rise[2] / (1 + row.loss), rtol=1e-12)
    assert (row.average_interval[..., 0] <= row.average).all()
    trace = float(torch.trace(tiny.hessian("a.pt")))
    low, high = row.average_interval.values[0, 0]
    assert low <= 0.01**2 * trace / (2 * 13) <= high
    assert row.losses > 0
    assert row.gradients > 0


def landscape_row(path):
    import landscape

    with landscape.open_record(path) as tree:
        return tree["neighbourhood"].to_dataset().isel(checkpoint=0).load()


def test_without_eigenpairs_there_is_no_quadratic_model(command, tiny):
    ran = command("a.pt", "--neighbourhood", "--radii", 0.01, "--probes", 2, "-o", "a.h5")
    assert ran.status == 0
    assert "model ≤" not in ran.out
    assert np.isnan(landscape_row("a.h5").quadratic_bound).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--radii", 0), "a radius is a positive number, not 0"),
        (("--radii", "nan"), "a radius is a positive number, not nan"),
        (("--radii=-1",), "a radius is a positive number, not -1"),
        (("--radii", "inf"), "a radius is a positive number, not inf"),
        (("--probes", 1), "probes must be at least 2"),
        (("--steps", 0), "an ascent has at least 1 step, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(command, tiny, arguments, message):
    before = tiny.listing()
    ran = command("a.pt", "--neighbourhood", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert tiny.listing() == before


def test_a_loss_without_a_derivative_is_refused():
    with pytest.raises(InputError, match="no derivative here"):
        Rises(pose(lambda w: w.abs().sum().sqrt(), np.zeros(2)))


def test_an_open_ascent_is_an_unmet_goal(command, tiny):
    ran = command("a.pt", "--neighbourhood", "--radii", 0.1, "--steps", 1, "--probes", 2)
    assert ran.status == 3
    assert "an ascent in the ball of radius 0.1 still rose after 1 steps" in ran.out
    assert "raise --steps" in ran.out
