"""Fisher matrices against explicit sums of outer products of scores, and against each other."""

from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import InputError, Problem, SymmetricOperator
from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
from landscape.curvature.gauss_newton import GaussNewton
from landscape.curvature.likelihood import Categorical
from landscape.operator import as_operator
from tests.support.oracles import Network, dense, network

NAMES = ["single", "looped", "perceptron", "convolutional"]
UNITS = ["term", "sequence"]
PARTS = [3, 2]
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1]).double()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def error(operator: SymmetricOperator, expected: SymmetricOperator | torch.Tensor) -> float:
    """The relative difference of eight products of an operator from those of another operator or matrix."""
    vectors = torch.randn(operator.dim, 8, generator=torch.Generator().manual_seed(0)).double()
    return relative(operator.matmat(vectors), as_operator(expected).matmat(vectors))


def scores(net: Network) -> torch.Tensor:
    """The scores grad -log p(c) of every class c at every place, (sample, class, place, parameter)."""
    jacobian = net.jacobian.reshape(*net.output.shape[:2], -1, net.jacobian.shape[-1])
    probabilities = net.output.softmax(1).reshape(*jacobian.shape[:3], 1)
    return (probabilities * jacobian).sum(1, keepdim=True) - jacobian


def masked(net: Network) -> tuple[nn.CrossEntropyLoss, torch.Tensor, torch.Tensor]:
    """A loss with class weights and a mask, its targets, and the weight (sample, place) of each of its terms."""
    target = net.classes.clone()
    target[0] = 1
    loss = nn.CrossEntropyLoss(WEIGHT[: net.output.shape[1]], ignore_index=1)
    weights = (WEIGHT[target] * (target != 1)).reshape(len(target), -1)
    assert weights[1:].any()
    return loss, target, weights


def outer_products(gradients: torch.Tensor, weights: torch.Tensor, unit: str) -> torch.Tensor:
    """The sum of w_i g_i g_i^T over gradients (sample, place, parameter), or over each sample's sum of w_i g_i."""
    if unit == "sequence":
        gradients, weights = (weights.unsqueeze(2) * gradients).sum(1, keepdim=True), torch.ones(len(weights), 1)
    return torch.einsum("nt,nti,ntj->ij", weights.double(), gradients, gradients)


def at_labels(gradients: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The scores (sample, place, parameter) of the given labels, from the scores of all classes."""
    places = labels.reshape(len(labels), 1, -1, 1).expand(-1, -1, -1, gradients.shape[-1])
    return gradients.gather(1, places).squeeze(1)


# ------------------------------------------------------------------ cross-entropy, against explicit sums


@pytest.mark.parametrize("name", NAMES)
def test_exact_against_the_sum_over_all_classes(name):
    net = network(name)
    loss, target, weights = masked(net)
    fisher = dense(ExactFisher(net.problem(loss, PARTS, target)))
    probabilities = net.output.softmax(1).reshape(len(target), net.output.shape[1], -1)
    expected = torch.einsum("nt,nct,ncti,nctj->ij", weights, probabilities, scores(net), scores(net)) / weights.sum()
    assert relative(fisher, expected) < 1e-9


@cache
def _three_places() -> Network:
    whole = network("looped")
    return Network(whole.model, whole.inputs[:2, :3], whole.classes[:2, :3])


@pytest.mark.parametrize("weighted", [False, True])
def test_exact_by_sequence_against_the_sum_over_all_sequences_of_labels(weighted):
    """Three places of five classes make 125 sequences, each weighted by the product of its labels' probabilities."""
    net = _three_places()
    weights = WEIGHT[net.classes] if weighted else torch.ones(2, 3).double()
    loss = nn.CrossEntropyLoss(WEIGHT) if weighted else nn.CrossEntropyLoss()
    expected = torch.zeros(net.jacobian.shape[-1], net.jacobian.shape[-1]).double()
    for labels in product(range(5), repeat=3):
        sequence = torch.tensor(labels).expand(2, 3)
        chance = net.output.softmax(1).gather(1, sequence.unsqueeze(1)).prod(2).squeeze(1)  # (sample,)
        gradients = (weights.unsqueeze(2) * at_labels(scores(net), sequence)).sum(1)
        expected += torch.einsum("n,ni,nj->ij", chance, gradients, gradients)
    fisher = ExactFisher(net.problem(loss, [1, 1]), unit="sequence")
    assert error(fisher, expected / weights.sum()) < 1e-9
    # Labels are independent given the inputs, so the two units differ only by the weights.
    apart = error(fisher, ExactFisher(net.problem(loss)))
    assert (apart > 0.1) if weighted else (apart < 1e-13)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_monte_carlo_against_the_sum_over_its_labels(name, unit):
    net = network(name)
    loss, target, weights = masked(net)
    fisher = MonteCarloFisher(net.problem(loss, PARTS, target), unit=unit, samples=2, seed=3)
    labels = torch.cat(fisher.labels)  # (sample, draw, *place)
    expected = [outer_products(at_labels(scores(net), draw), weights, unit) for draw in labels.unbind(1)]
    assert error(fisher, sum(expected) / (2 * weights.sum())) < 1e-9
    assert error(fisher.draw(1), expected[1] / weights.sum()) < 1e-9


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_empirical_against_the_sum_over_the_data(name, unit):
    net = network(name)
    loss, target, weights = masked(net)
    expected = outer_products(at_labels(scores(net), target), weights, unit) / weights.sum()
    assert error(EmpiricalFisher(net.problem(loss, PARTS, target), unit=unit), expected) < 1e-9


def test_the_empirical_one_is_another_matrix():
    """At random weights and labels the matrices differ by 4.2, 13.3, 0.77 and 0.97 times the exact Fisher's norm."""
    for name in NAMES:
        problem = network(name).problem(nn.CrossEntropyLoss())
        fisher, empirical = dense(ExactFisher(problem)), dense(EmpiricalFisher(problem))
        assert relative(empirical, fisher) > 0.5


# ------------------------------------------------------------------ the other losses

REALS = torch.randn(5, 4, generator=torch.Generator().manual_seed(8)).double()
SOFT = REALS.sigmoid()  # (sample, output) in (0, 1)
CLASSES = network("perceptron").classes
FOUR = torch.tensor([1.0, 2.0, 0.5, 3.0])

LIKELIHOODS = {
    "classes": (nn.CrossEntropyLoss(), CLASSES),
    "weights": (nn.CrossEntropyLoss(FOUR, ignore_index=1), CLASSES),
    "smoothing": (nn.CrossEntropyLoss(FOUR, ignore_index=1, label_smoothing=0.3), CLASSES),
    "distributions": (nn.CrossEntropyLoss(FOUR, label_smoothing=0.3), REALS.softmax(1)),
    "unnormalised": (nn.CrossEntropyLoss(label_smoothing=0.3), SOFT),
    "function": (partial(functional.cross_entropy, weight=FOUR), CLASSES),
    "binary": (nn.BCEWithLogitsLoss(), SOFT.round()),
    "binary, weighted": (nn.BCEWithLogitsLoss(FOUR, pos_weight=FOUR.flip(0)), SOFT),
    "binary, function": (partial(functional.binary_cross_entropy_with_logits, pos_weight=FOUR), SOFT),
    "squares": (nn.MSELoss(), REALS),
    "squares, function": (functional.mse_loss, REALS),
}


def pose(name: str) -> Problem:
    """A problem of the perceptron with the given loss."""
    loss, target = LIKELIHOODS[name]
    return network("perceptron").problem(loss, PARTS, target)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_exact_one_is_the_gauss_newton_matrix(name):
    problem = pose(name)
    assert error(ExactFisher(problem), GaussNewton(problem)) < 1e-9


@pytest.mark.parametrize("name", ["single", "looped", "convolutional"])
def test_the_exact_one_is_the_gauss_newton_matrix_of_networks(name):
    net = network(name)
    loss, target, _ = masked(net)
    problem = net.problem(loss, PARTS, target)
    assert error(ExactFisher(problem), GaussNewton(problem)) < 1e-9


def test_log_probabilities_have_the_fisher_of_their_logits_and_no_gauss_newton_matrix():
    net = network("perceptron")
    log_model = Network(nn.Sequential(net.model, nn.LogSoftmax(1)), net.inputs, net.classes)
    problem = log_model.problem(nn.NLLLoss(FOUR, ignore_index=1), PARTS)
    assert not dense(GaussNewton(problem)).any()
    logits = pose("weights")
    for kind in (ExactFisher, MonteCarloFisher, EmpiricalFisher):
        for unit in UNITS:
            assert error(kind(problem, unit=unit), kind(logits, unit=unit)) < 1e-9


@pytest.mark.parametrize("unit", UNITS)
def test_squares_against_explicit_sums(unit):
    """MSELoss is the mean of K squares without 1/2: F = (2/K) J^T J / N, for normal outputs of variance K/2."""
    net, problem = network("perceptron"), pose("squares")
    jacobian = net.jacobian  # (5, 4, parameter)
    assert error(ExactFisher(problem, unit), 2 / 4 * torch.einsum("nki,nkj->ij", *[jacobian] * 2) / 5) < 1e-9

    def by_hand(labels: torch.Tensor) -> torch.Tensor:
        gradients = torch.einsum("nk,nki->ni", 2 / 4 * (net.output - labels), jacobian)
        return gradients.T @ gradients / 5

    sampled = MonteCarloFisher(problem, unit, samples=2)
    expected = [by_hand(labels) for labels in torch.cat(sampled.labels).unbind(1)]
    assert error(sampled, sum(expected) / 2) < 1e-9
    assert error(EmpiricalFisher(problem, unit), by_hand(REALS)) < 1e-9


@pytest.mark.parametrize("unit", UNITS)
def test_binary_labels_against_explicit_sums(unit):
    """Each of the K outputs is a term, and the objective is the mean over all N K terms."""
    net, problem = network("perceptron"), pose("binary, weighted")
    weights = FOUR.double() * (FOUR.flip(0) * SOFT + 1 - SOFT)  # the loss's weights, from the data's targets
    jacobian, p = net.jacobian, net.output.sigmoid()
    exact = torch.zeros_like(dense(ExactFisher(problem)))
    for n, k, y in product(range(5), range(4), (0, 1)):
        score = (p[n, k] - y) * jacobian[n, k]
        weight = weights[n, k] if unit == "term" else weights[n, k] ** 2
        exact += weight * (p[n, k] if y else 1 - p[n, k]) * torch.outer(score, score) / 20
    assert error(ExactFisher(problem, unit), exact) < 1e-9
    sampled = MonteCarloFisher(problem, unit, seed=1)
    gradients = (p - torch.cat(sampled.labels).squeeze(1)).unsqueeze(2) * jacobian
    assert error(sampled, outer_products(gradients, weights, unit) / 20) < 1e-9
    # A term of the empirical matrix is a sample: the mean over k of w_k ((q t + 1 - t) p - q t) J_k, with target t.
    slopes = (weights * p - FOUR.double() * FOUR.flip(0) * SOFT) / 4
    gradients = torch.einsum("nk,nki->ni", slopes, jacobian)
    assert error(EmpiricalFisher(problem, unit), gradients.T @ gradients / 5) < 1e-9


def test_the_empirical_one_of_own_losses_with_weights():
    """Losses of two terms a sample, from a function of the user."""
    net, weights = network("perceptron"), SOFT[:, :2]

    def losses(model, batch):
        x, w = batch
        return model(x).square()[:, :2], w

    problem = Problem.from_sample_losses(
        net.model, losses, list(zip(net.inputs.split(2), weights.split(2), strict=True))
    )
    gradients = 2 * (net.output.unsqueeze(2) * net.jacobian)[:, :2]
    for unit in UNITS:
        expected = outer_products(gradients, weights, unit) / weights.sum()
        assert error(EmpiricalFisher(problem, unit), expected) < 1e-9


# ------------------------------------------------------------------ sampled labels


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("single", "sequence"),
        ("looped", "term"),
        ("convolutional", "term"),
        ("weights", "sequence"),
        ("binary, weighted", "term"),
        ("binary, weighted", "sequence"),
        ("squares", "term"),
    ],
)
def test_sampled_labels_give_the_exact_matrix_within_4_standard_errors(name, unit):
    problem = pose(name) if name in LIKELIHOODS else network(name).problem(nn.CrossEntropyLoss())
    draws = 30
    fisher = MonteCarloFisher(problem, unit=unit, samples=draws)
    vectors = torch.randn(problem.layout.dim, 3, generator=torch.Generator().manual_seed(0)).double()

    def forms(operator) -> np.ndarray:
        return (vectors * operator.matmat(vectors)).sum(0).numpy()

    each = np.stack([forms(fisher.draw(i)) for i in range(draws)])
    np.testing.assert_allclose(each.mean(0), forms(fisher), rtol=1e-9)
    errors = each.std(0, ddof=1) / draws**0.5
    exact = forms(ExactFisher(problem, unit=unit))
    assert (abs(each.mean(0) - exact) < 4 * errors).all()
    assert (errors < 0.5 * exact).all()  # otherwise the test would say little


def test_the_trace_within_4_standard_errors():
    problem, draws = pose("classes"), 30
    fisher = MonteCarloFisher(problem, samples=draws, seed=5)
    traces = [float(dense(fisher.draw(i)).trace()) for i in range(draws)]
    error = np.std(traces, ddof=1) / draws**0.5
    exact = float(dense(ExactFisher(problem)).trace())
    assert abs(np.mean(traces) - exact) < 4 * error < 0.5 * exact


@pytest.mark.parametrize("name", ["classes", "binary", "squares"])
def test_labels_depend_on_the_seed_and_the_number_of_the_draw_alone(name):
    loss, target = LIKELIHOODS[name]

    def labels(parts: list[int], samples: int, seed: int) -> torch.Tensor:
        problem = network("perceptron").problem(loss, parts, target)
        return torch.cat(MonteCarloFisher(problem, samples=samples, seed=seed).labels)

    # The outputs themselves, around which normal labels lie, round differently in other batches.
    same = partial(torch.testing.assert_close, rtol=0, atol=1e-14)
    first = labels([5], 3, 7)
    same(labels([2, 2, 1], 3, 7), first)
    same(labels([1] * 5, 2, 7), first[:, :2])
    for other in (labels([5], 3, 8), first.roll(1, dims=1)):
        assert not torch.equal(other, first)


def test_sampled_labels_have_the_frequencies_of_the_model():
    """Over 20,000 samples each frequency is within 4 standard errors, and so are mean and variance of normal labels."""
    n, g = 20_000, torch.Generator().manual_seed(9)
    logits = torch.tensor([0.5, -1e4, 1.0, -2.0]).double()  # a class of probability 0 among them

    def drawn(loss: nn.Module, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        model = nn.Linear(1, len(output), bias=True).double()
        with torch.no_grad():
            model.weight.zero_()
            model.bias.copy_(output)
        batches = [(torch.zeros(n, 1).double(), target)]
        return MonteCarloFisher(Problem(model, loss, batches), memory=0).labels[0].squeeze(1)

    counts = torch.bincount(drawn(nn.CrossEntropyLoss(), logits, torch.zeros(n).long()), minlength=4)
    p = logits.softmax(0)
    assert (abs(counts / n - p) <= 4 * (p * (1 - p) / n).sqrt()).all()
    ones = drawn(nn.BCEWithLogitsLoss(), logits, torch.zeros(n, 4).double()).mean(0)
    p = logits.sigmoid()
    assert (abs(ones - p) <= 4 * (p * (1 - p) / n).sqrt()).all()
    normal = drawn(nn.MSELoss(), REALS[0], torch.randn(n, 4, generator=g).double()) - REALS[0]
    # Variance K/2 = 2; that of a sample variance is 2 sigma^4 / n.
    assert (abs(normal.mean(0)) < 4 * (2 / n) ** 0.5).all()
    assert (abs(normal.square().mean(0) - 2) < 4 * (2 * 4 / n) ** 0.5).all()
    assert abs(torch.corrcoef(normal.T) - torch.eye(4)).max() < 4 / n**0.5


def test_a_class_of_probability_0_is_never_drawn():
    class Zero:
        """A generator that gives the smallest number."""

        random = staticmethod(np.zeros)

    logits = torch.tensor([[-1e4, -1e4, 0.0, 1.0]]).double()
    assert Categorical(True, None, -100, 0.0).draw(logits, Zero()).item() == 2


# ------------------------------------------------------------------ refusals


class Subclassed(nn.CrossEntropyLoss):
    """A subclass of a loss, which may compute anything."""


@pytest.mark.parametrize(
    ("loss", "target", "word"),
    [
        (nn.HuberLoss(), REALS, "HuberLoss"),
        (functional.huber_loss, REALS, "huber_loss"),
        (nn.KLDivLoss(reduction="batchmean"), SOFT, "KLDivLoss"),
        (Subclassed(), CLASSES, "Subclassed"),
        (lambda output, target: functional.cross_entropy(output, target, reduction="none"), CLASSES, "function"),
        (nn.NLLLoss(), CLASSES, "log_softmax"),
    ],
)
@pytest.mark.parametrize("kind", [ExactFisher, MonteCarloFisher])
def test_a_loss_of_no_known_likelihood_is_refused_in_one_line(kind, loss, target, word):
    problem = network("perceptron").problem(loss, PARTS, target)
    with pytest.raises(InputError, match=word) as caught:
        kind(problem)
    assert "\n" not in str(caught.value)
    if word != "log_softmax":  # that is seen in the outputs alone
        with pytest.raises(InputError, match=word):
            kind.check(problem)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("kind", [ExactFisher, MonteCarloFisher])
def test_a_target_that_is_spread_over_the_outputs_is_refused(kind):
    with pytest.raises(InputError, match=r"\(3, 4\) against the target \(3, 1\)") as caught:
        kind(network("perceptron").problem(nn.MSELoss(), PARTS, REALS[:, :1]))
    assert "\n" not in str(caught.value)


def test_other_refusals_in_one_line():
    problem = pose("classes")
    own = Problem.from_sample_losses(nn.Linear(3, 1), lambda m, b: m(b).sum(1), [torch.ones(2, 3)])
    detached = Network(Detached(), torch.ones(2, 3), torch.zeros(2).long()).problem(nn.CrossEntropyLoss())
    for make, word in [
        (lambda: ExactFisher(own), "from_sample_losses"),
        (lambda: ExactFisher.check(own), "from_sample_losses"),
        (lambda: MonteCarloFisher.check(own), "from_sample_losses"),
        (lambda: ExactFisher(problem, unit="token"), "not 'token'"),
        (lambda: EmpiricalFisher(problem, unit="token"), "not 'token'"),
        (lambda: MonteCarloFisher(problem, samples=0), "at least 1"),
        (lambda: MonteCarloFisher(problem, seed=-1), "between 0 and"),
        (lambda: MonteCarloFisher(problem, samples=2).draw(2), "from 0 to 1"),
        (lambda: MonteCarloFisher(problem).draw(-1), "none with number -1"),
        (lambda: ExactFisher(detached), "no gradient"),
        (lambda: MonteCarloFisher(detached), "no gradient"),
        (lambda: EmpiricalFisher(detached), "no gradient"),
    ]:
        with pytest.raises(InputError, match=word) as caught:
            make()
        assert "\n" not in str(caught.value)


class Detached(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return super().forward(x).detach()
