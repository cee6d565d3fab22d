"""The Hessian with its matrix products in bfloat16: cheaper products (docs/performance.md), but not exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch

from landscape.curvature.hessian import Hessian
from landscape.errors import InputError
from landscape.machine.memory import ran_out
from landscape.machine.widened import NoFloat64Error
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.reporting.messages import cause


@final
class ReducedHessian(Hessian):
    """Products H v with matrix products, convolutions and attention in bfloat16, by torch's automatic mixed precision.

    Eight bits of mantissa leave an error of some percent of a product. Vectors, sums over batches and the work of
    solvers stay in float32. The stated error belongs to one random direction. `landscape.top_eigenpairs` and
    `landscape.spectral_density` measure the error on their own vectors, against products of `full_precision`. Other
    estimators refuse the operator. Nothing is compiled.

    Attributes:
        error: ||H' v - H v|| / ||H v|| of the products H' v in bfloat16, along one random direction v.
    """

    traceable = False

    def __init__(
        self, problem: Problem, memory: int | None = None, route: str | None = None, *, products: int | None = None
    ) -> None:
        """Prepare products at the problem's point, see `BatchedOperator`, and measure their error by two products.

        Raises:
            InputError: the problem isn't in float32, or `Hessian` refuses the problem.
        """
        self.check(problem)
        self._exact = Hessian(problem, memory=0, compile_products="off")
        try:
            super().__init__(problem, memory, route, products=products, compile_products="off")
        except RuntimeError as error:
            if ran_out(error):
                raise
            raise InputError(
                f"the model can't be evaluated in bfloat16 ({cause(error)}): leave out --matrix bfloat16"
            ) from error
        self.eps = torch.finfo(torch.bfloat16).eps
        draws = torch.randn(self.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        direction = (draws / torch.linalg.vector_norm(draws)).to(problem.vector).unsqueeze(1)
        exact = self._exact.matmat(direction)
        size = float(torch.linalg.vector_norm(exact))
        off = float(torch.linalg.vector_norm(self._product(direction) - exact))
        self.error = off / size if size else off
        note = f"in bfloat16, off by about {self.error:.1e} of a product"
        self.route = self.route.inexact(note, problem.compile_products)

    @staticmethod
    def check(problem: Problem) -> None:
        """Raise the InputError that the constructor would raise for the problem's dtype."""
        if problem.dtype != torch.float32:
            raise InputError("products in bfloat16 are of problems in float32: leave out --dtype float64 (dtype=...)")

    @property
    def peak_bytes(self) -> int:
        """See `BatchedOperator`; an exact product beside the kept graphs takes twice a graph of twice the bytes."""
        return super().peak_bytes + 3 * self._first_bytes

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        # Casts aren't cached: cached casts would belong to the weights of another point.
        with super()._evaluating(), torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            yield

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`: the Hessian in float64, or in float32 where float64 fails."""
        try:
            return self._exact.full_precision()
        except NoFloat64Error:
            return self._exact
