"""The Fisher matrix, exact and from sampled labels, and the empirical Fisher, which isn't the Fisher matrix.

The objective is sum_i w_i l_i / W over terms i (samples or tokens), with W the sum of the weights. Up to a constant,
l_i = -log p(y_i | x_i, theta). With g_i = grad l_i, the score of a term up to its sign:

- ``unit="term"``: sum_i w_i g_i g_i^T / W;
- ``unit="sequence"``: sum_n s_n s_n^T / W with s_n = sum_{i in n} w_i g_i, the score of sample n.

Given the inputs, labels are independent and scores have mean zero. In expectation over the model's own labels, the
second matrix is therefore the first one with w_i^2 in place of w_i. With weights of 0 and 1 the two are equal.
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
    """The exact Fisher matrix, with its expectation over the model's own labels in closed form.

    F = sum_i w_i E_{y ~ p(. | x_i)}[g_i g_i^T] / W (Martens 2020, "New insights and perspectives on the natural
    gradient method", also on when it is the generalised Gauss-Newton matrix), for

    - CrossEntropyLoss: categorical, softmax of logits (N, C, ...); class weights and ignore_index stay those of the
      data's targets. NLLLoss: categorical too, from log-probabilities (where Gauss-Newton would be zero);
    - BCEWithLogitsLoss: Bernoulli, each element of the output a term of its own;
    - MSELoss: normal, of variance K/2 in each of a sample's K outputs, because MSELoss has no factor 1/2 and averages.

    Label smoothing and class probabilities as targets don't change the model's distribution. Such a target counts with
    the sum of its classes' weights. With ``unit="term"``, the exact Fisher then equals `GaussNewton`, except for
    NLLLoss.
    """

    def __init__(
        self, problem: Problem, unit: Unit = "term", memory: int | None = None, route: str | None = None
    ) -> None:
        """Prepare products at the problem's point.

        Args:
            problem: the problem at whose point the Fisher matrix is taken.
            unit: unit of a score, ``term`` (default) or ``sequence``; see the module's docstring.
            memory: see `BatchedOperator`.
            route: see `BatchedOperator`.

        Raises:
            InputError: the loss has no known likelihood, or the outputs don't fit the likelihood.
        """
        self.check(problem)
        self.unit = _checked(unit)
        super().__init__(problem, memory, route)

    @staticmethod
    def check(problem: Problem) -> None:
        """Refuse a problem without a known likelihood, before anything is computed.

        Raises:
            InputError: the problem's loss has no known likelihood.
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
    drawn for each term. ``unit="sequence"`` sums the scores of a draw over each sample first. The expectation is
    `ExactFisher`, with its losses, weights and terms; for MSELoss a term is a sample, with all K outputs.

    The labels are drawn once and kept. The operator is therefore one fixed matrix, however the data are batched. It is
    the mean of `draw` (0), ..., `draw` (S - 1). Each draw depends only on the seed and its number. The draws are
    independent and identically distributed. The standard error of v^T F_S v is therefore the standard deviation of
    v^T `draw` (s) v over s, divided by sqrt(S).

    Attributes:
        labels: sampled labels, (samples of the batch, S, places of labels) for each batch, or for this process's part
            of it.
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
            problem: the problem at whose point the Fisher matrix is taken.
            unit: unit of a score, ``term`` (default) or ``sequence``; see the module's docstring.
            samples: number S of labels drawn for each term; default: 1.
            seed: seed of the draws, 0 (default) to 2^63 - 1.
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
        """The matrix of one of the S draws; the mean of these matrices is the full matrix.

        Raises:
            InputError: there is no draw with this number.
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

    It is sum_i w_i g_i g_i^T / W, with g_i = grad l_i of the data's own terms. The data's labels are not those that the
    model would draw. For a model that doesn't fit its data's distribution, the empirical Fisher therefore has neither
    the Fisher's size nor its directions (Kunstner, Hennig and Balles 2019, "Limitations of the empirical Fisher
    approximation"; Martens 2020). The empirical Fisher is defined for every loss, likelihood or not, and for
    `Problem.from_sample_losses`. Terms are those of `Problem.terms`. For BCEWithLogitsLoss over K outputs a term is a
    sample's mean, and g_i is 1/K of the sum of its elements' scores.
    """

    def __init__(
        self, problem: Problem, unit: Unit = "term", memory: int | None = None, route: str | None = None
    ) -> None:
        """Prepare products at the problem's point.

        Args:
            problem: the problem at whose point the gradients are taken.
            unit: unit of a gradient, ``term`` (default) or ``sequence``; see the module's docstring.
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
        losses: losses with their graph, (N, draws, *places).
        weights: weights of the losses, (N, *places).
        unit: ``term`` for each loss, ``sequence`` for each sample's sum.
        scale: factor of every outer product.
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
    """Sampled labels (N, samples, *places) for each batch; each draw has its own stream of random numbers."""
    streams = [_stream(seed, index) for index in range(samples)]
    with problem.evaluating():
        outputs = (problem.output(problem.vector, batch) for batch in problem.batches)
        return problem.data.local_parts(
            [torch.stack([likelihood.draw(output, stream) for stream in streams], dim=1) for output in outputs]
        )


def _stream(seed: int, index: int) -> np.random.Generator:
    """The random generator of draw number ``index``, of float64 numbers on the CPU.

    It is the counter-based generator Philox keyed with (seed, index), as for probe vectors
    (`landscape.spectrum.probes`). It counts from 2^192 on, which no probe vector reaches. With one seed for both, probe
    vectors and labels therefore share no random numbers.
    """
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, 1]))
