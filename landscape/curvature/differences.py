"""The Hessian by central differences of the gradient, for losses that can be differentiated only once."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from landscape.curvature.products.route import Route
from landscape.errors import InputError
from landscape.machine.memory import OVERHEAD
from landscape.operator import SymmetricOperator
from landscape.problem import Problem

_STEPS = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, 16.0)
_WORTHLESS = 0.1  # at a kink within the smallest step, differences go with 1 / h: those of h and 2 h disagree by half


@final
class DifferenceHessian(SymmetricOperator):
    """H v as (g(theta + h v) - g(theta - h v)) / 2h with g the gradient: two gradients a product, and not exact.

    The step has one length, h ||v|| = c eps^(1/3) (1 + ||theta||). At c = 1 the errors of the third derivative and of
    rounding are alike where derivatives are of the size of the parameters. Derivatives seldom are. The factor c is
    therefore chosen from six values, by how well steps c and 2 c agree along one random direction. Their disagreement
    is the stated error, which holds for directions like the random one. A solver measures the error again, as rounding,
    on its own directions.

    Attributes:
        route: the route, with a note on the error.
        step: factor c of the step.
        error: ||d(c) - d(2 c)|| / ||d(c)|| along the random direction, with d(c) the difference at step c.
    """

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        """Choose the step, by 24 gradients.

        Raises:
            InputError: differences don't agree with each other at any step.
        """
        super().__init__(problem.layout.dim, problem.device, problem.dtype, processes=problem.processes)
        self._problem = problem
        size = 1 + float(torch.linalg.vector_norm(problem.vector, dtype=torch.float64))
        self._length = torch.finfo(problem.dtype).eps ** (1 / 3) * size
        draws = torch.randn(self.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        direction = draws.to(problem.vector)
        self.error, self.step = min((self._disagreement(direction, step), step) for step in _STEPS)
        if not self.error < _WORTHLESS:
            raise InputError(
                f"differences of the gradient don't agree with each other (by {self.error:.1g} of their size at the "
                "best of six steps): the loss has kinks or noise at this scale, or no curvature; try --dtype float64"
            )
        note = f"off by about {self.error:.1e} of a product"
        self.route = Route("differences", 0, 0).inexact(note, problem.compile_products)
        if problem.memory is not None:
            self.memory = problem.memory - OVERHEAD - 6 * problem.vector.nbytes

    def _disagreement(self, direction: Tensor, step: float) -> float:
        """The relative disagreement of steps c and 2 c; infinite without curvature or with a non-finite gradient."""
        first, second = self._difference(direction, step), self._difference(direction, 2 * step)
        size = float(torch.linalg.vector_norm(first))
        disagreement = float(torch.linalg.vector_norm(first - second)) / size if size else math.inf
        return disagreement if math.isfinite(disagreement) else math.inf

    def _difference(self, vector: Tensor, step: float) -> Tensor:
        """The product with a nonzero vector, in float64."""
        h = step * self._length / float(torch.linalg.vector_norm(vector, dtype=torch.float64))
        ahead, behind = self._problem.vector + h * vector, self._problem.vector - h * vector
        ends = (self._problem.at(end).gradient().to(torch.float64) for end in (ahead, behind))
        # Divide by the step between the rounded ends.
        taken = torch.linalg.vector_norm((ahead - behind).to(torch.float64)) / torch.linalg.vector_norm(vector)
        return (next(ends) - next(ends)) / taken

    def _product(self, vectors: Tensor) -> Tensor:
        products = torch.zeros_like(vectors)
        for column, vector in enumerate(vectors.unbind(1)):
            if vector.any():
                products[:, column] = self._difference(vector, self.step)
        return products
