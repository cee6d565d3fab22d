"""Statistics of one spectrum, and the stability of steps: closed forms, brute force, and the optimisers themselves."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import ortho_group

from landscape import InputError
from landscape.checkpoint.stand_ins import LeftOut
from landscape.dynamics import overlap, spectrum_measures, stability

# ---------------------------------------------------------------------- spectra


def entropy(magnitudes):
    shares = np.asarray(magnitudes, dtype=float)
    shares = shares[shares > 0] / shares.sum()
    return -(shares * np.log(shares)).sum()


def test_equal_magnitudes_have_the_entropy_of_their_number():
    found = spectrum_measures(np.array([2.0, -2.0, 2.0, 2.0, 0.0]))
    assert found.entropy == pytest.approx(math.log(4), rel=1e-15)
    assert found.effective_rank == pytest.approx(4, rel=1e-15)
    assert found.negative_mass == 0.25
    assert found.entropy_interval == pytest.approx((math.log(4), math.log(4)), rel=1e-13)
    assert found.negative_mass_interval == (0.25, 0.25)


@pytest.mark.parametrize("floor", [1e-3, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_range_of_the_entropy_is_that_of_brute_force(seed, floor):
    """The minimum over all corners of the box, and the maximum by a general optimiser from several starts."""
    values = np.random.default_rng(seed).standard_normal(7)
    if seed == 5:
        values = np.array([1.0, 1.0, 1.0, 0.0, 0.0, -0.2, 0.2])  # ties
    found = spectrum_measures(values, floor)
    low, high = np.maximum(abs(values) - floor, 0), abs(values) + floor
    corners = (np.where(up, high, low) for up in product([False, True], repeat=7))
    assert found.entropy_interval[0] == pytest.approx(
        min(entropy(corner) for corner in corners if corner.any()), abs=1e-12
    )
    bounds = list(zip(low + 1e-12, high, strict=True))
    best = max(
        -minimize(lambda a: -entropy(a), start, bounds=bounds, method="L-BFGS-B", tol=1e-14).fun
        for start in (abs(values) + 1e-9, (low + high) / 2, high)
    )
    # An optimiser that stops early is below the maximum, but only a little, because the function is flat there.
    assert best - 1e-9 <= found.entropy_interval[1] <= best + 1e-5


@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.05, 1.0])
def test_no_spectrum_within_the_floor_leaves_the_ranges(floor):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(30) ** 3
    found = spectrum_measures(values, floor)
    for size in (0, 1, 1.0 - 1e-9):
        for _ in range(300):
            shift = rng.uniform(-1, 1, 30) if size != 1 else rng.choice([-1.0, 1.0], 30)
            other = spectrum_measures(values + floor * shift)
            for name in ("entropy", "effective_rank", "negative_mass"):
                low, high = getattr(found, f"{name}_interval")
                assert low - 1e-12 * 30 <= getattr(other, name) <= high + 1e-12 * 30
    for sign, end in ((1, 0), (-1, 1)):
        moved = spectrum_measures(values + sign * floor).negative_mass
        assert found.negative_mass_interval[end] == moved


def test_a_zero_spectrum_has_no_shares():
    found = spectrum_measures(np.zeros(4))
    assert math.isnan(found.entropy)
    assert math.isnan(found.effective_rank)
    assert math.isnan(found.negative_mass)
    assert "zero" in found.reason
    within = spectrum_measures(np.zeros(4), 1e-6)
    assert math.isnan(within.entropy)
    assert within.entropy_interval == pytest.approx((0, math.log(4)))
    assert within.negative_mass_interval == (0, 1)


def test_a_single_eigenvalue_and_any_unit():
    assert spectrum_measures(np.array([-3.0]), 0.1).entropy_interval == (0, 0)
    assert spectrum_measures(np.array([-3.0])).negative_mass == 1
    values = np.random.default_rng(1).standard_normal(20)
    one, other = spectrum_measures(values, 0.01), spectrum_measures(1e-200 * values, 1e-202)
    assert other.entropy == pytest.approx(one.entropy, rel=1e-13)
    assert other.entropy_interval == pytest.approx(one.entropy_interval, rel=1e-12)


def test_overlaps_of_random_subspaces_have_the_mean_and_deviation_that_is_told():
    n, k, draws = 12, 3, 2000
    rng = np.random.default_rng(0)
    V = np.eye(n)[:, :k]
    found = [overlap(V, np.linalg.qr(rng.standard_normal((n, k)))[0]) for _ in range(draws)]
    values, told = np.array([each.value for each in found]), found[0]
    assert told.random == k / n
    assert abs(values.mean() - told.random) < 4 * told.random_deviation / math.sqrt(draws)
    # The deviation of a deviation is sqrt((kurtosis - 1) / 4 draws) of it, and the kurtosis here is below 4.
    assert values.std() == pytest.approx(told.random_deviation, rel=4 * math.sqrt(3 / (4 * draws)))


def test_the_deviation_of_an_overlap_of_two_lines_of_a_plane():
    """The square of the cosine of a uniform angle has the variance 1/8."""
    line = np.eye(2)[:, :1]
    assert overlap(line, line).random_deviation == pytest.approx(math.sqrt(1 / 8), rel=1e-15)


def test_overlaps_at_the_ends():
    basis = ortho_group.rvs(8, random_state=0)
    same = overlap(basis[:, :3], basis[:, :3] @ ortho_group.rvs(3, random_state=1))
    assert same.value == pytest.approx(1, abs=1e-14)
    assert same.error < 1e-14
    assert overlap(basis[:, :3], basis[:, 3:6]).value < 1e-28
    assert overlap(basis, basis[:, ::-1]).random_deviation == 0
    tilted = basis[:, :3] * (1 + 1e-5)
    found = overlap(tilted, tilted)
    assert abs(found.value - 1) <= found.error < 1e-4


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: spectrum_measures(np.array([])), "at least one"),
        (lambda: spectrum_measures(np.array([1.0, np.nan])), "finite"),
        (lambda: spectrum_measures(np.ones(3), -1.0), "at least 0"),
        (lambda: overlap(np.ones((3, 2)), np.eye(3)[:, :2]), "orthonormal"),
        (lambda: overlap(np.eye(3)[:, :1], np.eye(3)[:, :2]), "one dimension"),
    ],
)
def test_bad_spectra_are_refused_in_one_line(call, word):
    with pytest.raises(InputError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- stability

SGD = torch.optim.SGD
FAMILIES = {
    "gradient descent": [{}],
    "heavy ball": [{"momentum": b} for b in (0.5, 0.9)],
    "Nesterov": [{"momentum": b, "nesterov": True} for b in (0.5, 0.9)],
}


def resolved(make, eigenvalue, steps=4000):
    """The final |x| of an optimiser on the quadratic lambda x^2 / 2 from x = 1, in float64."""
    x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = make([x])
    for _ in range(steps):
        x.grad = eigenvalue * x.detach()
        optimizer.step()
        if not 1e-30 < abs(x.item()) < 1e30:
            break
    return abs(x.item())


def state_of(make):
    return make([torch.nn.Parameter(torch.zeros(1))]).state_dict()


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize(("name", "more"), [(name, more) for name in FAMILIES for more in FAMILIES[name]], ids=str)
def test_sgd_converges_just_below_the_threshold_and_diverges_just_above(name, more, decay):
    def make(parameters):
        return SGD(parameters, lr=0.1, weight_decay=decay, **more)

    found = stability(state_of(make))
    assert (found.name, found.learning_rate, found.weight_decay) == (name, 0.1, decay)
    assert found.momentum == more.get("momentum", 0)
    assert not found.preconditioned
    assert found.ratio(found.threshold) == 1
    for ratio in (0.98, 1.02):
        eigenvalue = ratio * (found.threshold + decay) - decay
        assert found.ratio(eigenvalue) == pytest.approx(ratio, rel=1e-14)
        end = resolved(make, eigenvalue)
        assert end < 1e-6 if ratio < 1 else end > 1e6
    assert found.ratio(-decay) == 0


@pytest.mark.parametrize("b", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("name", "decay"), [("Adam", 0.0), ("AdamW", 0.0), ("AdamW", 0.1)])
def test_adam_with_its_preconditioner_held_fixed(name, b, decay):
    """The largest root of m' = b m + (1 - b) lambda x, x' = (1 - eta w) x - eta m' is in, on or out of the circle."""
    eta = 0.01
    found = stability(state_of(lambda p: getattr(torch.optim, name)(p, lr=eta, betas=(b, 0.99), weight_decay=decay)))
    assert (found.name, found.preconditioned, found.momentum) == (name, True, b)
    for ratio, side in ((0.98, -1), (1.0, 0), (1.02, 1)):
        preconditioned = ratio * found.threshold
        assert found.ratio(preconditioned) == pytest.approx(ratio, rel=1e-14)
        step = np.array([1 - b, b]) @ np.array([[preconditioned, 0], [0, 1]])  # m' of (x, m)
        matrix = np.array([[1 - eta * decay, 0] - eta * step, step])
        radius = abs(np.linalg.eigvals(matrix)).max()
        assert np.sign(round(radius - 1, 12)) == side


def test_adam_itself_with_its_second_moment_held_fixed():
    """Torch's Adam divides by a constant if its second moment is written into its state before each step."""
    eta, b, late = 0.01, 0.9, 1e9

    for ratio in (0.98, 1.02):
        x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.Adam([x], lr=eta, betas=(b, 0.999), eps=0.0)
        found = stability(optimizer.state_dict())
        diagonal = 3.0
        eigenvalue = ratio * found.threshold * diagonal
        moment = torch.zeros(1, dtype=torch.float64)
        for _ in range(3000):
            second = torch.full((1,), diagonal**2, dtype=torch.float64)
            x.grad = eigenvalue * x.detach()
            # Undo the step's change of the second moment, so that the second moment is equal at every step.
            before = (second - 0.001 * x.grad**2) / 0.999
            optimizer.state[x] = {"step": torch.tensor(late), "exp_avg": moment, "exp_avg_sq": before}
            optimizer.step()
            moment = optimizer.state[x]["exp_avg"]
            if not 1e-30 < abs(x.item()) < 1e3:  # outside of this range rounding hides the undoing
                break
        assert abs(x.item()) < 1e-6 if ratio < 1 else abs(x.item()) >= 1e3


@pytest.mark.parametrize(
    "name", ["RMSprop", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop", "LBFGS", "SparseAdam",
             "Adafactor", "Muon"]
)  # fmt: skip
def test_nothing_is_claimed_for_other_optimisers(name):
    parameters = [torch.nn.Parameter(torch.zeros(2, 2))]
    found = stability(getattr(torch.optim, name)(parameters).state_dict())
    assert "no threshold is known" in found.reason
    assert (found.name, math.isnan(found.ratio(1.0)), math.isnan(found.threshold)) == ("", True, True)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5), "dampening"),
        (lambda p: SGD(p, lr=0.1, maximize=True), "maximises"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "preconditioned with the gradient"),
        (lambda p: torch.optim.AdamW(p, lr=3.0, weight_decay=1.0), "weight decay alone"),
        (lambda p: SGD([{"params": p, "lr": 0.1}, {"params": [torch.nn.Parameter(torch.zeros(1))]}], lr=0.2), "lr"),
    ],
)
def test_nothing_is_claimed_where_the_theory_does_not_reach(make, word):
    assert word in stability(state_of(make)).reason


@pytest.mark.parametrize("lr", [LeftOut(), "fast"])
def test_a_learning_rate_that_is_no_number_is_refused(lr):
    state = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1).state_dict()
    state["param_groups"][0]["lr"] = lr
    with pytest.raises(InputError, match="state_dict of a torch optimiser"):
        stability(state)


def test_groups_with_equal_settings_schedulers_and_old_states_are_recognised():
    one, two = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = SGD([{"params": [one]}, {"params": [two]}], lr=torch.tensor(0.25))
    torch.optim.lr_scheduler.StepLR(optimizer, 10)
    assert stability(optimizer.state_dict()).threshold == 8
    state = torch.optim.Adam([one]).state_dict()
    del state["param_groups"][0]["decoupled_weight_decay"]
    assert stability(state).name == "Adam"
    state["param_groups"][0]["weight_decay"] = 0.01
    assert "Adam or AdamW" in stability(state).reason
    assert stability(None).reason
    assert stability(SGD([one], lr=0.0).state_dict()).ratio(5.0) == 0
    with pytest.raises(InputError, match="state_dict"):
        stability({"state": {}})
