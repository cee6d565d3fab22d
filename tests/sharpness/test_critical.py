"""The critical learning rate against closed forms of quadratics, and against roots of losses by torch alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn
from torch.func import functional_call

from landscape import InputError, Problem
from landscape.sharpness.critical import critical_learning_rate
from tests.measurements.test_per_batch import IGNORED, masked, model, tokens

SAMPLES = 60


class Linear(nn.Module):
    """A linear model of given weights."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.theta


def regression(dim: int, dtype: torch.dtype = torch.float64, seed: int = 0):
    """A linear regression in uneven batches; inputs, targets and weights in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, dim, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(SAMPLES, generator=generator, dtype=torch.float64).to(dtype)
    weights = torch.randn(dim, generator=generator, dtype=torch.float64).to(dtype)
    batches = [(x[a:b], y[a:b]) for a, b in ((0, 7), (7, 8), (8, SAMPLES))]
    return Problem(Linear(weights), nn.MSELoss(), batches), x.double(), y.double(), weights.double()


def along(function, **more) -> Problem:
    """A problem of one parameter, at 0, whose loss is a function of that parameter."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(self.theta).expand(len(x))

    return Problem.from_sample_losses(Own(), lambda own, batch: own(batch), [torch.zeros(2)], **more)


ONE = torch.ones(1, dtype=torch.float64)  # so that theta - eta u is -eta


# ---------------------------------------------------------------------- quadratics


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 9])
@pytest.mark.parametrize("tol", [0.3, 0.05, 1e-3])
def test_a_quadratic_has_the_closed_form(dtype, dim, tol):
    problem, x, y, weights = regression(dim, dtype)
    hessian, gradient = 2 * x.T @ x / SAMPLES, 2 * x.T @ (x @ weights - y) / SAMPLES
    generator = torch.Generator().manual_seed(1)
    for vector in (gradient, torch.randn(dim, generator=generator, dtype=torch.float64)):
        update = (torch.sign(vector @ gradient) * vector).to(dtype).double()
        wanted = float(update @ hessian @ update / (gradient @ update))
        found = critical_learning_rate(problem, update, tol)
        assert found.reason == ""
        low, high = found.bracket
        assert low < 2 / wanted < high
        assert (found.sharpness_bracket[0], found.sharpness_bracket[1]) == (2 / high, 2 / low)
        assert found.converged
        assert high - low <= tol * high
        # The chord of r is exact up to the losses' rounding, of which `width_by_rounding` is four deviations.
        # The closed form and the sum over samples are rounded too.
        own = SAMPLES * np.finfo(float).eps * found.learning_rate
        assert abs(found.learning_rate - 2 / wanted) <= found.width_by_rounding + own
        assert abs(found.quadratic.sharpness - wanted) <= found.quadratic.sharpness_error + own * wanted**2
        assert found.quadratic.directional_curvature == pytest.approx(
            float(update @ hessian @ update / (update @ update)), rel=1e-5 if dtype == torch.float32 else 1e-12
        )
        assert found.forward_passes <= 7  # with doublings of a first step that is as long as the weights


def test_the_update_of_one_data_set_and_the_losses_of_another():
    """The relative critical sharpness, in closed form."""
    update, (other, x, y, weights) = regression(5, seed=7)[0].gradient(), regression(5, seed=8)
    hessian, gradient = 2 * x.T @ x / SAMPLES, 2 * x.T @ (x @ weights - y) / SAMPLES
    update = torch.sign(update @ gradient) * update
    found = critical_learning_rate(other, update)
    assert found.sharpness == pytest.approx(float(update @ hessian @ update / (gradient @ update)), rel=1e-9)


def test_the_standard_error_is_that_of_resampled_samples():
    """Bootstrap of the closed form for a fixed update; 4000 draws give the deviation to 1.1 %."""
    problem, x, y, weights = regression(3, seed=2)
    update = (2 * x.T @ (x @ weights - y) / SAMPLES).numpy()
    x, y, weights = x.numpy(), y.numpy(), weights.numpy()
    slopes, curvatures = 2 * (x @ weights - y) * (x @ update), 2 * (x @ update) ** 2
    draws = np.random.default_rng(0).integers(SAMPLES, size=(4000, SAMPLES))
    rates = 2 * slopes[draws].mean(1) / curvatures[draws].mean(1)
    found = critical_learning_rate(problem, torch.as_tensor(update))
    # The linearisation is off by terms of relative order (error / rate)^2, and n-1 by 1/(2n).
    allowed = 0.033 + (found.standard_error / found.learning_rate) ** 2 * 3 + 1 / (2 * SAMPLES)
    assert found.standard_error == pytest.approx(rates.std(), rel=allowed)
    assert found.sharpness_standard_error == pytest.approx(2 * found.standard_error / found.learning_rate**2)
    assert found.sharpness_error > found.sharpness_standard_error


def test_one_sample_has_no_standard_error():
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(Linear(torch.ones(1, dtype=torch.float64)), nn.MSELoss(), [(one, torch.zeros(1).double())])
    found = critical_learning_rate(problem, ONE)
    assert found.learning_rate == pytest.approx(2.0)
    assert np.isnan(found.standard_error)


# ---------------------------------------------------------------------- other losses


@pytest.mark.parametrize(
    ("function", "root"),
    [
        (lambda t: t + t**4, 1.0),
        (lambda t: t + t**6 / 32, 2.0),
        (lambda t: t + 1e-6 * (torch.exp(-50 * t) - 1 + 50 * t), None),
        (lambda t: torch.tanh(t) + t**2 / 8, None),
        (lambda t: t + 3 * torch.relu(-t - 0.5), 0.75),
        (lambda t: 1e-3 * t + 20 * t**2, 5e-5),
        (lambda t: t - t**2 + t**4, None),
    ],
)
@pytest.mark.parametrize("tol", [0.05, 1e-6])
def test_a_crossing_of_any_loss_lies_in_the_bracket(function, root, tol):
    if root is None:

        def change(rate):
            theta = torch.tensor(-rate, dtype=torch.float64)
            return float(function(theta) - function(torch.zeros_like(theta)))

        root = scipy.optimize.brentq(change, 0.01, 10, xtol=1e-14)
    found = critical_learning_rate(along(function), ONE, tol)
    low, high = found.bracket
    assert low <= root <= high
    assert high - low <= tol * high
    rates, losses = found.learning_rates, found.losses
    assert rates[0] == 0
    assert (losses[(rates > 0) & (rates <= low)] <= losses[0]).all()
    assert losses[rates == high] > losses[0]


def test_the_smallest_crossing_may_be_missed_and_the_bracket_still_holds_one():
    """The loss rises above its value between 0.5 and 1 as well; the docstring says what is guaranteed."""
    found = critical_learning_rate(along(lambda t: t * (t + 0.5) * (t + 1) * (t + 3)), ONE)
    assert any(found.bracket[0] <= each <= found.bracket[1] for each in (0.5, 3))


def test_masked_tokens_in_uneven_batches():
    problem = masked().to(dtype=torch.float64)
    x, y = tokens()
    network = model().double()
    generator = torch.Generator().manual_seed(5)
    update = torch.randn(problem.layout.dim, generator=generator, dtype=torch.float64)
    update *= torch.sign(update @ problem.gradient())

    def change(rate):
        named = problem.layout.unflatten(problem.vector - rate * update)
        output = functional_call(network, named, (x.double(),))
        return nn.functional.cross_entropy(output, y, ignore_index=IGNORED).item() - problem.loss()

    found = critical_learning_rate(problem, update, 0.01)
    assert change(found.bracket[0]) < 0 < change(found.bracket[1])
    assert found.samples == int(((y != IGNORED).sum(1) > 0).sum())


class Once(torch.autograd.Function):
    """t + t^4, as a fused operation has it: with a first derivative and no second one."""

    @staticmethod
    def forward(context, t):
        context.save_for_backward(t)
        return t + t**4

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        (t,) = context.saved_tensors
        return gradient * (1 + 4 * t**3)


def test_a_model_without_second_derivatives_has_a_critical_sharpness_from_losses_alone():
    found = critical_learning_rate(along(Once.apply), ONE)
    assert found.bracket[0] <= 1 <= found.bracket[1]
    assert np.isnan([found.quadratic.curvature, found.quadratic.sharpness, found.quadratic.directional_curvature]).all()
    assert found.quadratic.reason.startswith("there is no product with the Hessian (")
    assert found.quadratic.descent == 1


def test_every_loss_is_counted(monkeypatch):
    evaluated, own = [], Problem.sums_at
    monkeypatch.setattr(Problem, "sums_at", lambda *given: evaluated.append(given) or own(*given))
    found = critical_learning_rate(along(lambda t: t + t**4), ONE)
    assert found.forward_passes == len(evaluated) == len(found.learning_rates) + 1


# ---------------------------------------------------------------------- no crossing


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda t: -t, "the update goes uphill"),
        (lambda t: t * 0, "the update goes uphill"),
        (lambda t: t, "the loss stays lower"),
        (lambda t: t - t**2, "the loss stays lower"),
        (torch.tanh, "the loss stays lower"),
        (lambda t: torch.log(3 + t), "the loss is NaN or infinite at a learning rate of"),
        (lambda t: torch.where(t < -0.7, torch.nan, t + t**2 / 4), "the loss is NaN or infinite"),
    ],
)
def test_without_a_crossing_there_is_a_reason_and_no_value(function, reason):
    found = critical_learning_rate(along(function), ONE)
    assert found.reason.startswith(reason)
    assert np.isnan([found.learning_rate, found.sharpness, found.sharpness_error, *found.bracket]).all()
    assert found.converged
    assert found.losses[0] == 0 or reason.startswith("the loss is NaN")


def test_a_crossing_before_the_loss_is_infinite_is_found():
    found = critical_learning_rate(along(lambda t: torch.where(t < -1.3, torch.inf, t + t**2)), 100 * ONE)
    assert found.bracket[0] <= 0.01 <= found.bracket[1]


@pytest.mark.parametrize(
    ("value", "reason"), [(0, "is zero"), (np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")]
)
def test_an_update_that_is_none(value, reason):
    found = critical_learning_rate(along(lambda t: t + t**2), value * ONE)
    assert reason in found.reason
    assert (found.forward_passes, len(found.losses)) == (0, 0)


def test_refusals():
    problem = along(lambda t: t + t**2)
    for tol in (0, 1, -0.1, np.nan):
        with pytest.raises(InputError, match="a share between 0 and 1"):
            critical_learning_rate(problem, ONE, tol)
    with pytest.raises(InputError, match=r"the update has shape \(2,\), the parameters \(1,\)"):
        critical_learning_rate(problem, torch.ones(2))


# ---------------------------------------------------------------------- rounding


def raised(constant: float, dtype: torch.dtype) -> Problem:
    """A linear regression with a constant added to each loss, which costs digits."""
    _, x, y, weights = regression(4, seed=3)
    return Problem.from_sample_losses(
        Linear(weights.to(dtype)),
        lambda own, batch: (own(batch[0]) - batch[1]) ** 2 + constant,
        [(x.to(dtype), y.to(dtype))],
    )


@pytest.mark.parametrize("constant", [0.0, 1.0, 100.0, 1e4, 1e6])
def test_rounding_ends_the_search(constant):
    exact = raised(0.0, torch.float64)
    update = exact.gradient() / 100
    truth = critical_learning_rate(exact, update, 1e-9).learning_rate
    found = critical_learning_rate(raised(constant, torch.float32), update, 1e-6)
    low, high = found.bracket
    assert abs(found.learning_rate - truth) <= found.width_by_rounding
    assert high - low <= max(1e-6 * high, found.width_by_rounding)
    assert found.converged == (high - low <= 1e-6 * high)
    if constant >= 1e4:
        assert not found.converged, "1e-6 is below the rounding of such losses in float32"
        assert low <= truth <= high


def test_a_change_below_rounding_has_no_crossing():
    problem = raised(1e9, torch.float32)
    found = critical_learning_rate(problem, problem.gradient())
    assert found.reason.startswith("the change of the loss is below its rounding")
    assert not found.converged
    assert np.isnan(found.sharpness)
