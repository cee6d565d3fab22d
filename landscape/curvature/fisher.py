"""Three matrices that go by the name of Fisher, two of which are: exact, from sampled labels, and empirical.

They are written for an objective sum_i w_i l_i / W over terms i (samples or tokens) with W the sum of the weights, and
l_i = -log p(y_i | x_i, theta) up to a constant. With g_i = grad l_i, the score of a term up to its sign:

- ``unit="term"``: sum_i w_i g_i g_i^T / W;
- ``unit="sequence"``: sum_n s_n s_n^T / W with s_n = sum_{i in n} w_i g_i, the score of sample n.

Given the inputs, labels are independent and scores have mean zero, so that in expectation over the model's own labels
the second is the first with w_i^2 in place of w_i: weights of 0 and 1 make them equal.
"""

from __future__ import annotations

import copy
from typing import Literal, Self, final, get_args

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.likelihood import Likelihood, likelihood_of
from landscape.curvature.products.sandwich import Sandwich, SandwichParts
from landscape.errors import InputError, refuse_fractions
from landscape.problem import Problem

Unit = Literal["term", "sequence"]


@final
class ExactFisher(Sandwich):
    """The Fisher matrix, its expectation over the model's own labels taken in closed form.

    F = sum_i w_i E_{y ~ p(. | x_i)}[g_i g_i^T] / W (Martens 2020, "New insights and perspectives on the natural
    gradient method", also on when it is the generalised Gauss-Newton matrix), for

    - CrossEntropyLoss: categorical, softmax of logits (N, C, ...); class weights and ignore_index stay those of the
      data's targets. NLLLoss the same from log-probabilities (where Gauss-Newton would be zero);
    - BCEWithLogitsLoss: Bernoulli, each element of the output a term of its own;
    - MSELoss: normal, of variance K/2 in each of a sample's K outputs, since MSELoss is without 1/2 and averages.

    Label smoothing and class probabilities as targets don't change the model's distribution; such a target counts with
    the sum of its classes' weights. The exact Fisher with ``unit="term"`` then equals `GaussNewton`, but for NLLLoss.
    """

    def __init__(
        self, problem: Problem, unit: Unit = "term", memory: int | None = None, route: str | None = None
    ) -> None:
        """Prepare products at the problem's point.

        Args:
            problem: where the Fisher is taken.
            unit: of which scores; see the module.
            memory: see `BatchedOperator`.
            route: see `BatchedOperator`.

        Raises:
            InputError: the loss has no known likelihood, or the outputs don't fit it.
        """
        self.check(problem)
        self.unit = _checked(unit)
        super().__init__(problem, memory, route)

    @staticmethod
    def check(problem: Problem) -> None:
        """Refuse, before anything is computed, a problem without a known likelihood.

        Raises:
            InputError: it has none.
        """
        _likelihood(problem)

    def _parts(self, index: int) -> SandwichParts:
        problem, batch = self._problem, self._problem.batches[index]
        output, likelihood = _output(problem, self._vector, batch), _likelihood(problem)
        with torch.no_grad():
            weights = likelihood.weights(output, batch[1])
            weights = weights if self.unit == "term" else weights.square()
            scaled = weights / (likelihood.averaged(output) * problem.total_weight)
            information, tensors = likelihood.information(output.detach(), scaled)
        return SandwichParts((output,), lambda directions: [information(directions[0])], tensors=tensors)


@final
class MonteCarloFisher(Sandwich):
    """An unbiased estimate of the Fisher matrix, from labels sampled from the model's own distribution.

    F_S = 1/S sum_s sum_i w_i g_is g_is^T / W, with g_is the gradient of -log p(y_is | x_i) at the s-th of S labels
    drawn for each term; ``unit="sequence"`` sums the scores of a draw over each sample first. Losses, weights and terms
    are those of `ExactFisher`, its expectation; for MSELoss a term is a sample, with all K outputs.

    The labels are drawn once and kept: this is one fixed matrix, the same whatever batches the data are in. It is the
    mean of `draw` (0), ..., `draw` (S - 1), each of which depends on the seed and its number alone. They are
    independent and alike, so the standard error of v^T F_S v is the standard deviation of theirs over sqrt(S).

    Attributes:
        labels: (samples of the batch, S, places of labels) for each batch, or this process's part of it.
    """

    def __init__(
        self,
        problem: Problem,
        unit: Unit = "term",
        samples: int = 1,
        seed: int = 0,
        memory: int | None = None,
        route: str | None = None,
    ) -> None:
        """Draw the labels and prepare products at the problem's point.

        Args:
            problem: where the Fisher is taken.
            unit: of which scores; see the module.
            samples: S, the labels drawn for each term.
            seed: of the draws, 0 to 2^63 - 1.
            memory: see `BatchedOperator`.
            route: see `BatchedOperator`.

        Raises:
            InputError: the loss has no known likelihood, the outputs don't fit it, or a number is out of range.
        """
        refuse_fractions(samples=samples, seed=seed)
        if samples < 1:
            raise InputError(f"the Monte-Carlo Fisher needs at least 1 sampled label a term, not {samples}")
        if not 0 <= seed < 2**63:
            raise InputError(f"seed must lie between 0 and 2^63 - 1, not {seed}")
        self.unit = _checked(unit)
        self.labels = _sampled(problem, _likelihood(problem), samples, seed)
        super().__init__(problem, memory, route)

    @staticmethod
    def check(problem: Problem) -> None:
        """See `ExactFisher.check`."""
        _likelihood(problem)

    def draw(self, index: int) -> Self:
        """The matrix that one of the S draws makes alone, their mean being this one.

        Raises:
            InputError: there is no draw of this number.
        """
        samples = self.labels[0].shape[1]
        if not 0 <= index < samples:
            raise InputError(f"the draws are numbered from 0 to {samples - 1}, there is none with number {index}")
        other = copy.copy(self)
        other.labels = [labels[:, index : index + 1] for labels in self.labels]
        other.products = 0
        other._prepare()
        return other

    def _parts(self, index: int) -> SandwichParts:
        problem, batch, labels = self._problem, self._problem.batches[index], self.labels[index]
        output, likelihood = _output(problem, self._vector, batch), _likelihood(problem)
        with torch.no_grad():
            weights = likelihood.weights(output, batch[1])
        scale = 1 / (labels.shape[1] * likelihood.averaged(output) * problem.total_weight)
        return _outer_products(likelihood.losses(output, labels), weights, self.unit, scale)


@final
class EmpiricalFisher(Sandwich):
    """The second moment of the gradients at the data's labels, called the empirical Fisher. It is not the Fisher.

    sum_i w_i g_i g_i^T / W with g_i = grad l_i of the data's own terms, whose labels are not those that the model would
    draw: away from a model that fits its data's distribution it has neither the Fisher's size nor its directions
    (Kunstner, Hennig and Balles 2019, "Limitations of the empirical Fisher approximation"; Martens 2020). It is defined
    for every loss, likelihood or not, and for `Problem.from_sample_losses`. Terms are those of `Problem.terms`: of
    BCEWithLogitsLoss over K outputs a sample's mean, whose g_i is 1/K of the sum of its elements' scores.
    """

    def __init__(
        self, problem: Problem, unit: Unit = "term", memory: int | None = None, route: str | None = None
    ) -> None:
        """Prepare products at the problem's point.

        Args:
            problem: where the gradients are taken.
            unit: of which gradients; see the module.
            memory: see `BatchedOperator`.
            route: see `BatchedOperator`.
        """
        self.unit = _checked(unit)
        super().__init__(problem, memory, route)

    def _parts(self, index: int) -> SandwichParts:
        problem = self._problem
        losses, weights = problem.terms(self._vector, problem.batches[index])
        if not losses.requires_grad:
            raise InputError("the losses have no gradient: the model or the loss is detached from its parameters")
        return _outer_products(losses.unsqueeze(1), weights.detach(), self.unit, 1 / problem.total_weight)


def _outer_products(losses: Tensor, weights: Tensor, unit: Unit, scale: float) -> SandwichParts:
    """Outer products of gradients: of each loss (N, draws, *places), or of each sample's weighted sum over places.

    Args:
        losses: with their graph.
        weights: (N, *places).
        unit: which of them.
        scale: of every product.
    """
    weights = weights.unsqueeze(1)
    if unit == "sequence":
        sums = (weights * losses).reshape(*losses.shape[:2], -1).sum(2)
        return SandwichParts((sums,), lambda directions: [scale * directions[0]])
    scaled = scale * weights
    return SandwichParts((losses,), lambda directions: [scaled * directions[0]], tensors=(scaled,))


def _likelihood(problem: Problem) -> Likelihood:
    return likelihood_of(problem.loss_terms.reduced)


def _checked(unit: Unit) -> Unit:
    if unit not in get_args(Unit):
        raise InputError(f"a Fisher matrix is of scores for each 'term' or 'sequence', not {unit!r}")
    return unit


def _output(problem: Problem, vector: Tensor, batch: object) -> Tensor:
    output = problem.output(vector, batch)
    if not output.requires_grad:
        raise InputError("the model's output has no gradient: it is detached from the parameters (no_grad inside?)")
    return output


@torch.no_grad()
def _sampled(problem: Problem, likelihood: Likelihood, samples: int, seed: int) -> list[Tensor]:
    """Labels (N, samples, *places) for each batch, from one stream of numbers for each draw."""
    streams = [_stream(seed, index) for index in range(samples)]
    with problem.evaluating():
        outputs = (problem.output(problem.vector, batch) for batch in problem.batches)
        return problem.data.local_parts(
            [torch.stack([likelihood.draw(output, stream) for stream in streams], dim=1) for output in outputs]
        )


def _stream(seed: int, index: int) -> np.random.Generator:
    """The float64 numbers of the CPU that draw number ``index`` is made from.

    The counter-based generator Philox keyed with (seed, index), as for random probes (`landscape.spectrum.probes`), but
    counting from 2^192 on, which no probe reaches: with one seed for both, probes and labels share nothing.
    """
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, 1]))
