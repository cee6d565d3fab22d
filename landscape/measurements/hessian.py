"""The Hessian's eigenpairs at the end of the spectrum that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from rich.console import RenderableType

from landscape.curvature.hessian import Hessian, Route
from landscape.display import eigenvalue_table, rounded_up
from landscape.measurements.base import Measured, Measurement, variable
from landscape.parameters import ParameterLayout
from landscape.problem import Problem
from landscape.progress import ProgressBar
from landscape.spectrum.eigenpairs import Eigenpairs, check_arguments, top_eigenpairs
from landscape.spectrum.ends import Which
from landscape.spectrum.search import MISSED_AT_MOST

_ENDS = {"LM": "of largest magnitude", "LA": "at the upper end", "SA": "at the lower end", "BE": "at both ends"}


@dataclass(frozen=True)
class HessianEigenpairs(Measurement):
    """Top eigenpairs by thick-restart Lanczos; see `landscape.top_eigenpairs` for the settings.

    Attributes:
        eigenvectors: whether they are stored; None decides by their size.
    """

    name: ClassVar[str] = "hessian"

    k: int = 10
    which: Which = "LM"
    tol: float = 1e-3
    seed: int = 0
    max_products: int | None = None
    eigenvectors: bool | None = None

    def settle(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse what `top_eigenpairs` would, and store eigenvectors if that takes less than 1 GB."""
        check_arguments(problem.layout.dim, self.k, self.which, self.tol, self.seed, self.max_products)
        size = checkpoints * self.k * problem.vector.nbytes
        return replace(self, eigenvectors=size < 1e9) if self.eigenvectors is None else self

    def measure(self, problem: Problem, bar: ProgressBar, earlier: Mapping[str, Any] | None) -> Measured:
        """See `Measurement.measure`; the way the products are made is kept from an earlier row."""
        hessian = Hessian(problem, route=None if earlier is None else earlier["route"]["name"])
        pairs = top_eigenpairs(
            hessian, self.k, self.which, self.tol, self.seed, max_products=self.max_products, progress=bar
        )
        variables = _pairs(pairs)
        if self.eigenvectors:
            variables |= _vectors(pairs, problem.layout)
        return Measured(variables, {"route": hessian.route.plain()})

    def shortfalls(self, row: xr.Dataset) -> list[str]:
        """Pairs that did not converge, and a search for missed copies that stayed undecided."""
        lines = []
        if open_pairs := int((~row.converged).sum()):
            lines.append(
                f"{open_pairs} of {row.sizes['index']} eigenpairs did not converge to a relative residual of "
                f"{self.tol:g} in {int(row.products)} products: raise --max-products or --tol"
            )
        elif row.missed > MISSED_AT_MOST:
            lines.append(
                "undecided whether a copy of a multiple eigenvalue was missed "
                f"(chance below {rounded_up(float(row.missed), 2)}, goal {MISSED_AT_MOST:g}): raise --max-products"
            )
        return lines

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """How it was computed, the table, and what it cost."""
        told = json.loads(str(row.provenance.values))
        return [
            f"Hessian: {row.sizes['index']} eigenvalues {_ENDS[self.which]}, {told['dtype']} on {told['device']}",
            f"products by {Route(**told['route'])}",
            eigenvalue_table(row.eigenvalues.values, row.residuals.values, row.converged.values, float(row.rounding)),
            f"{int(row.products)} products, {int(row.products_verification)} of them to verify",
            f"chance that an eigenvalue among these was missed: {_chance(float(row.missed))}",
        ]


def _chance(missed: float) -> str:
    if missed == 0:
        return "none seen, the search came to its end"
    return f"below {rounded_up(missed, 1)}" if missed < 1 else "undecided"


def _pairs(pairs: Eigenpairs) -> dict[str, xr.Variable]:
    curvature = "loss / parameter^2"
    return {
        "index": variable("index", np.arange(len(pairs.eigenvalues)), f"position in the order {pairs.which}"),
        "eigenvalues": variable("index", pairs.eigenvalues, "eigenvalue of the Hessian", curvature),
        "residuals": variable("index", pairs.residuals, "computed residual norm ||H v - lambda v||", curvature),
        "converged": variable("index", pairs.converged, "residual within tol |lambda| or at the level of rounding"),
        "rounding": variable((), pairs.rounding, "residual that rounding alone explains", curvature),
        "orthogonality": variable((), pairs.orthogonality, "max |Q^T Q - I| of the Lanczos basis"),
        "missed": variable((), pairs.missed, "bound on the probability that an eigenvalue among these was missed"),
        "products": variable((), pairs.products, "Hessian-vector products made"),
        "products_verification": variable((), pairs.products_verification, "products spent on verification"),
    }


def _vectors(pairs: Eigenpairs, layout: ParameterLayout) -> dict[str, xr.Variable]:
    starts = np.cumsum([0, *layout.sizes[:-1]])
    shapes = [" ".join(map(str, shape)) for shape in layout.shapes]
    return {
        "eigenvectors": variable(
            ("index", "parameter"), pairs.eigenvectors.T.cpu().numpy(), "unit eigenvector, flat parameter layout"
        ),
        "tensor_name": variable("tensor", list(layout.names), "parameter tensor, in the order of the flat vector", ""),
        "tensor_shape": variable("tensor", shapes, "its shape", ""),
        "tensor_start": variable("tensor", starts, "where it begins in the flat vector"),
    }
