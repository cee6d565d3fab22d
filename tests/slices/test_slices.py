"""Slices: exact on known functions, equal to plain evaluations, with the model untouched and the stated directions."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import landscape
from landscape import InputError, Problem
from landscape.slices import (
    find_extent,
    gaussian,
    gradient_direction,
    line,
    natural_scale,
    orthogonalised,
    plane,
    towards,
    unit,
)
from landscape.slices.directions import Direction, cosine
from landscape.slices.grid import positions
from tests.conftest import ROOT


class Point(nn.Module):
    """A model whose only parameter is a point of parameter space, so that a loss may be any function of the point."""

    def __init__(self, at):
        super().__init__()
        self.at = nn.Parameter(torch.as_tensor(at, dtype=torch.float64))


class Transposed(nn.Module):
    """A model with classes before tokens in its output, as cross-entropy needs."""

    def forward(self, logits):
        return logits.transpose(1, 2)


def of(function, at, samples=4):
    """The problem of a function of the parameters, equal for all samples, at a point."""
    fn = lambda model, batch: function(model.at) * torch.ones(len(batch), dtype=torch.float64)  # noqa: E731
    return Problem.from_sample_losses(Point(at), fn, [torch.zeros(samples, 1)])


MATRIX = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -1.0], [0.0, -1.0, 1.0]], dtype=torch.float64)
THETA = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
ONE = Direction(torch.ones(1, dtype=torch.float64), "d")
AXIS = Direction(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), "axis")


def quadratic(theta):
    return theta @ MATRIX @ theta / 2


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 4))


def posed(seed=0, **more):
    model = network(seed).eval()
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(30, 2, 4, generator=generator), torch.randint(0, 4, (30,), generator=generator)
    return Problem(model, nn.CrossEntropyLoss(), [(x[:20], y[:20]), (x[20:], y[20:])], **more)


# ---------------------------------------------------------------------- known functions


def test_a_line_through_a_quadratic_is_exact_and_so_is_its_model():
    at = positions(-2, 3, 21)
    found = line(of(quadratic, THETA), AXIS, at)
    points = THETA + torch.tensor(at)[:, None] * AXIS.vector
    exact = torch.einsum("pi,ij,pj->p", points, MATRIX, points).numpy() / 2
    assert np.abs(found.losses - exact).max() < 1e-12 * np.abs(exact).max()
    assert np.abs(found.quadratic - exact).max() < 1e-12 * np.abs(exact).max()
    assert found.curvature == pytest.approx(float(AXIS.vector @ MATRIX @ AXIS.vector), rel=1e-13)
    assert found.slope == pytest.approx(float(AXIS.vector @ MATRIX @ THETA), rel=1e-13)
    assert found.norm == pytest.approx(math.sqrt(6))
    assert np.isnan(found.accuracies).all()


def test_a_plane_that_is_not_square_is_indexed_by_row_and_column():
    """Goldstein's code mixes up the axes of a grid that isn't square."""
    across, up = positions(-1, 1, 5), positions(-2, 2, 9)
    first, second = (Direction(row, "d") for row in torch.eye(3, dtype=torch.float64)[:2])
    found = plane(of(lambda theta: theta[0] + 100 * theta[1] ** 3, torch.zeros(3)), first, second, across, up)
    assert found.losses.shape == (9, 5)
    assert np.abs(found.losses - (across[None, :] + 100 * up[:, None] ** 3)).max() < 1e-12 * 800
    assert found.losses[found.centre] == 0
    assert (found.norms, found.cosine) == ((1.0, 1.0), 0.0)


def test_what_is_not_finite_stays_so():
    """Landscaper replaces NaN by the mean and disturbs maxima."""
    found = line(
        of(lambda theta: theta[0].log() + theta[0] ** 2, [1.0]),
        unit(torch.ones(1).double(), "d"),
        np.array([-2.0, -1.0, 0, 1.0]),
    )
    assert np.isnan(found.losses[0])
    assert found.losses[1] == -math.inf
    assert found.losses[2:] == pytest.approx([1, math.log(2) + 4], rel=1e-15)


# ---------------------------------------------------------------------- a network


def test_points_are_those_of_a_plain_evaluation_to_the_last_bit():
    problem = posed()
    first, second = (gaussian(problem, 3, index) for index in range(2))
    at = positions(-1, 1, 11)
    found = plane(problem, first, second, at, at)
    along = line(problem, first, at)
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, 11, (20, 2)):
        vector = torch.add(problem.vector, second.vector, alpha=float(at[row]))
        there = problem.at(torch.add(vector, first.vector, alpha=float(at[column])))
        assert found.losses[row, column] == there.loss()
        assert found.standard_errors[row, column] == there.evaluate().standard_error
        assert found.accuracies[row, column] == there.by_sample().accuracy
    for column in range(11):
        assert (
            along.losses[column] == problem.at(torch.add(problem.vector, first.vector, alpha=float(at[column]))).loss()
        )
    assert along.losses[along.centre] == found.losses[found.centre] == problem.loss()


def test_samples_make_the_loss():
    problem = posed()
    found = line(problem, gaussian(problem, 0), positions(-1, 1, 5))
    mean = (found.sample_weights[:, None] * found.sample_losses).sum(0) / found.sample_weights.sum()
    assert found.sample_losses.shape == (30, 5)
    assert np.abs(mean - found.losses).max() < 1e-12


def test_a_samples_loss_is_the_mean_of_its_own_terms():
    """For samples of 1, 3, 5 and no term, F.cross_entropy of each sample alone gives this mean."""
    torch.manual_seed(0)
    tokens, targets = torch.randn(4, 5, 3, dtype=torch.float64), torch.randint(0, 6, (4, 5))
    for sample, terms in enumerate((1, 3, 5, 0)):
        targets[sample, terms:] = -100
    model = nn.Sequential(nn.Linear(3, 6), Transposed()).double()
    problem = Problem(model, nn.CrossEntropyLoss(), [(tokens, targets)])
    direction = gaussian(problem, 0, normalisation="none")
    found = line(problem, direction, positions(-1, 1, 3), model=False)
    assert found.sample_weights.tolist() == [1, 3, 5, 0]
    for index, position in enumerate(found.positions):
        vector = problem.vector + position * direction.vector
        weight, bias = vector[:18].reshape(6, 3), vector[18:]
        logits = (tokens @ weight.T + bias).transpose(1, 2)
        alone = [float(nn.functional.cross_entropy(logits[i : i + 1], targets[i : i + 1])) for i in range(3)]
        assert found.sample_losses[:3, index] == pytest.approx(alone, rel=1e-12)
    assert np.isnan(found.sample_losses[3]).all()


def test_the_model_is_as_before_bit_for_bit():
    """loss-landscapes and PyHessian change the user's model in place."""
    model = network()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.randn(20, 2, 4), torch.randint(0, 4, (20,))
    problem = Problem(model, nn.CrossEntropyLoss(), [(x, y)])
    vector = problem.vector.clone()
    plane(problem, gaussian(problem, 0), gaussian(problem, 0, 1), positions(-1, 1, 3), positions(-1, 1, 3))
    find_extent(problem, gradient_direction(problem))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(problem.vector, vector)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_both_ends_of_a_line_between_two_points_are_evaluated():
    """loss-landscapes never evaluates one of them."""
    problem, other = posed(0), posed(1)
    there = problem.at(other.vector)
    found = line(problem, towards(problem, other.vector), np.linspace(0, 1, 5))
    assert found.losses[0] == problem.loss()
    assert found.losses[-1] == pytest.approx(there.loss(), rel=1e-6)  # theta + (theta' - theta) rounds


# ---------------------------------------------------------------------- directions


def filters(tensor):
    return torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1)


def test_filters_have_the_norms_of_the_weights_and_biases_are_left_out():
    problem = posed()
    at = problem.layout.unflatten(problem.vector)
    for normalisation in ("filter", "layer"):
        direction = gaussian(problem, 0, normalisation=normalisation)
        parts = problem.layout.unflatten(direction.vector)
        for name, part in parts.items():
            if part.ndim == 1:  # biases, and the scales and shifts of BatchNorm
                assert not part.any()
            elif normalisation == "filter":
                assert torch.allclose(filters(part), filters(at[name]), rtol=1e-5)
            else:
                assert float(part.norm()) == pytest.approx(float(at[name].norm()), rel=1e-5)
                assert not torch.allclose(filters(part), filters(at[name]), rtol=1e-2)
    plain = problem.layout.unflatten(gaussian(problem, 0, normalisation="none").vector)
    assert all(part.any() for part in plain.values())


def test_a_filter_of_zeros_gets_a_direction_of_zeros():
    problem = posed()
    tensors = {name: tensor.clone() for name, tensor in problem.layout.unflatten(problem.vector).items()}
    tensors["0.weight"][1] = 0
    parts = problem.layout.unflatten(gaussian(problem.at(problem.layout.flatten(tensors)), 0).vector)
    assert not parts["0.weight"][1].any()
    assert parts["0.weight"][0].any()
    assert all(part.isfinite().all() for part in parts.values())
    with pytest.raises(InputError, match="nothing to go along"):
        gaussian(problem.at(torch.zeros_like(problem.vector)), 0)


def test_random_directions_are_all_but_orthogonal_and_the_second_can_be_made_so():
    """Landscaper's "random orthogonal" directions are parallel, |cos| >= 0.996."""
    problem = landscape.load_problem(ROOT / "data/looped.pt")
    first, second = (gaussian(problem, 0, index, "none") for index in range(2))
    assert abs(cosine(first, second)) < 5 / math.sqrt(problem.layout.dim)
    one, other = orthogonalised([first, second])
    assert one is first
    assert abs(cosine(one, other)) < 1e-6
    assert other.norm == pytest.approx(second.norm, rel=1e-6)
    assert torch.equal(gaussian(problem, 0, 1, "none").vector, second.vector)
    assert not torch.equal(gaussian(problem, 1, 1, "none").vector, second.vector)


def test_parallel_directions_make_no_plane():
    with pytest.raises(InputError, match="twice lies within the span"):
        orthogonalised([AXIS, Direction(2 * AXIS.vector, "twice")])


def test_the_gradient_goes_uphill_and_a_line_to_itself_nowhere():
    problem = of(quadratic, THETA)
    direction = gradient_direction(problem)
    assert direction.norm == pytest.approx(1)
    found = line(problem, direction, np.array([-1e-3, 0, 1e-3]))
    assert found.losses[0] < found.losses[1] < found.losses[2]
    assert found.slope == pytest.approx(float((MATRIX @ THETA).norm()), rel=1e-12)
    for refused in (lambda: towards(problem, THETA), lambda: gradient_direction(of(quadratic, torch.zeros(3)))):
        with pytest.raises(InputError):
            refused()


def test_directions_out_of_range_are_refused():
    problem = of(quadratic, THETA)
    for call in (
        lambda: gaussian(problem, 0, normalisation="batch"),
        lambda: gaussian(problem, -1),
        lambda: towards(problem, torch.ones(4)),
        lambda: unit(torch.full((3,), math.nan), "d"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- positions and their ends


@given(st.floats(-1e6, -1e-6), st.floats(1e-6, 1e6), st.integers(3, 200))
def test_zero_is_always_among_the_positions(low, high, points):
    """Landscaper moves the minimum off zero when the number of steps is even."""
    at = positions(low, high, points)
    assert (at == 0).sum() == 1
    assert (at[0], at[-1]) == (low, high)
    assert (np.diff(at) > 0).all()
    assert len(at) == points + (points % 2 == 0)


def test_positions_are_symmetric_where_their_ends_are():
    at = positions(-1.5, 1.5, 50)
    assert np.abs(at + at[::-1]).max() < 1e-15
    assert len(at) == 51
    assert list(positions(0, 1, 3)) == [0, 0.5, 1]


def test_each_side_has_as_many_positions_as_its_length_takes():
    """Unequal sides have one spacing, if whole numbers of points allow it."""
    for low, high in ((-1.0, 3.0), (-3.0, 1.0)):
        np.testing.assert_allclose(positions(low, high, 41), np.linspace(low, high, 41), atol=1e-15)
    assert list(positions(-1e-9, 1, 5)) == [-1e-9, 0, 1 / 3, 2 / 3, 1], "and no side is without any"


@pytest.mark.parametrize("bad", [(1, 2, 5), (0, 0, 5), (-1, math.inf, 5), (1, -1, 5), (-1, 1, 2), (math.nan, 1, 5)])
def test_positions_that_make_no_slice_are_refused(bad):
    with pytest.raises(InputError):
        positions(*bad)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_ends_are_where_the_loss_has_risen(scale):
    """The loss 1 + t^2 / 2 has risen by 1 at sqrt 2, and unequal walls have unequal ends."""
    problem = of(lambda theta: 1 + (theta[0] / scale) ** 2 / 2, [0.0])
    found = find_extent(problem, ONE)
    assert found.rise == pytest.approx(1)
    assert found.risen == (True, True)
    for end in (-found.low, found.high):
        assert math.sqrt(2) <= end / scale <= 1.1 * math.sqrt(2)
    walls = of(lambda theta: torch.where(theta[0] < 0, -theta[0], 3 * theta[0]) / scale, [0.0])
    found = find_extent(walls, ONE, rise=1.0)
    assert -found.low / scale == pytest.approx(1.0, rel=0.1)
    assert found.high / scale == pytest.approx(1 / 3, rel=0.1)


def test_by_default_the_loss_rises_by_itself_or_by_a_tenth_of_its_scale():
    """A line of slope 1 + t on y = x of variance 2.5 has the loss 2.5 t^2, which has risen by 0.25 at root 0.1."""
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    found = find_extent(Problem(model, nn.MSELoss(), [(x, x)]), ONE)
    assert found.rise == pytest.approx(0.25, rel=1e-12)
    for end in (-found.low, found.high):
        assert math.sqrt(0.1) <= end <= 1.1 * math.sqrt(0.1)
    nn.init.zeros_(model.weight)
    assert find_extent(Problem(model, nn.MSELoss(), [(x, x)]), ONE).rise == pytest.approx(2.5, rel=1e-12)


def test_a_side_that_does_not_rise_says_so():
    found = find_extent(of(lambda theta: torch.relu(theta[0]), [0.0]), ONE, rise=1.0)
    assert found.risen == (False, True)


def test_a_loss_that_is_not_finite_has_risen():
    found = find_extent(of(lambda theta: -(1 - theta[0] ** 2).log(), [0.0]), ONE, rise=50.0)
    assert found.risen == (True, True)
    assert 1 <= found.high <= 1.1


def test_the_scale_of_a_loss():
    assert natural_scale(posed()) == pytest.approx(math.log(4))
    x, y = torch.randn(50, 3), 7 + 2 * torch.randn(50, 2)
    squares = Problem(nn.Linear(3, 2), nn.MSELoss(), [(x[:20], y[:20]), (x[20:], y[20:])])
    assert natural_scale(squares) == pytest.approx(float(y.double().var(0, correction=0).mean()), rel=1e-6)
    assert natural_scale(of(quadratic, THETA)) == pytest.approx(abs(float(quadratic(THETA))))
    constant = Problem(nn.Linear(3, 2), nn.MSELoss(), [(x, torch.zeros(50, 2))])  # a residual, as of an equation
    assert natural_scale(constant) == pytest.approx(constant.loss())
    uneven = [(torch.randn(8, 5, 1), torch.randn(8, 5, 1)), (torch.randn(4, 7, 1), torch.randn(4, 7, 1))]
    ragged = Problem(nn.Linear(1, 1), nn.MSELoss(), uneven)
    assert natural_scale(ragged) == pytest.approx(ragged.loss())


def test_ends_that_there_cannot_be_are_refused():
    problem = of(quadratic, THETA)
    with pytest.raises(InputError, match="is not a direction"):
        find_extent(problem, Direction(torch.zeros(3, dtype=torch.float64), "nothing"))
    with pytest.raises(InputError, match="rises by a positive number"):
        find_extent(problem, AXIS, 0.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        find_extent(of(lambda theta: theta[0].log(), [-1.0]), ONE)
    tiny = Problem.from_sample_losses(
        nn.Linear(1, 1), lambda model, batch: batch[:, 0] + 0 * model(batch)[:, 0], [torch.ones(4, 1)]
    )
    flat = find_extent(tiny, Direction(torch.full((2,), 1e-30), "tiny"))
    assert math.isfinite(flat.high)


def test_the_packages_are_there_without_an_import_of_their_own():
    code = "import landscape; print(landscape.slices.line.__name__, landscape.valley.classify_profile.__name__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["line", "classify_profile"]
