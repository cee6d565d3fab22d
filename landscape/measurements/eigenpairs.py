"""Measure the eigenpairs at one or both ends of a matrix' spectrum."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, RowData, arithmetic_in, arithmetic_variable, tensors_of, variable
from landscape.measurements.cost import Cost, of_solve
from landscape.measurements.matrix import Matrix, OfMatrix, kept_route
from landscape.measurements.run import History
from landscape.reporting.display import eigenvalue_table, rounded_up
from landscape.reporting.messages import amount, counted
from landscape.reporting.progress import Progress
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import torch
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.spectrum.eigenpairs import Eigenpairs
    from landscape.spectrum.ends import Which

_ENDS = {"LM": "of largest magnitude", "LA": "at the upper end", "SA": "at the lower end", "BE": "at both ends"}


@dataclass(frozen=True)
class TopEigenpairs(OfMatrix):
    """Top eigenpairs by thick-restart Lanczos; see `landscape.top_eigenpairs` for the settings.

    Where eigenvectors are stored, the solve at each checkpoint of a run starts from the sum of the eigenvectors of the
    checkpoint before. The overlap of the two subspaces is stored too.

    Attributes:
        tol_value: goal for the certified relative accuracy of the eigenvalues, instead of a goal for residual norms.
            Default: None.
        eigenvectors: whether to store the eigenvectors. Default: None, which stores up to 1 GB over the run.
        matrix: the matrix whose eigenpairs are computed. Default: the Hessian.
    """

    k: int = 10
    which: Which = "LM"
    tol: float = 1e-3
    tol_value: float | None = None
    seed: int = 0
    max_products: int | None = None
    eigenvectors: bool | None = None
    matrix: Matrix = field(default_factory=Matrix)

    flag: ClassVar[Flag] = Flag(
        "eigenpairs", "Top eigenvalues and eigenvectors, by Lanczos.", ("--hessian", "--eigenpairs")
    )
    figures: ClassVar[tuple[str, ...]] = ("eigenvalues",)

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> list[Self]:
        """The measurement, where the command asks for it or for ``--crosscheck``, which compares its eigenvalues."""
        return [cls.of(options)] if options.get("crosscheck") else super().asked(options)

    @property
    def name(self) -> str:
        """The group of the record: ``eigenpairs`` for the Hessian."""
        return _group(self.matrix)

    @property
    def exact(self) -> bool:
        """See `OfMatrix.exact`."""
        return self.tol_value is not None

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse the settings that `top_eigenpairs` would refuse, and resolve the matrix.

        By default eigenvectors are stored if those of all checkpoints take less than 1 GB.
        """
        from landscape.spectrum.eigenpairs import check_arguments

        check_arguments(problem.layout.dim, self.k, self.which, self.tol, self.seed, self.max_products, self.tol_value)
        size = checkpoints * self.k * problem.vector.nbytes
        stored = size < 1e9 if self.eigenvectors is None else self.eigenvectors
        return replace(self, eigenvectors=stored).with_matrix(problem)

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: a Krylov basis of as many vectors as products, and the pairs."""
        from landscape.spectrum.basis_memory import vectors_beside
        from landscape.spectrum.eigenpairs import products_allowed

        products = min(of_solve(self.k), products_allowed(self.k, self.max_products))
        vectors = min(products, problem.layout.dim) + vectors_beside(self.k)
        return Cost(products, certainty="about", operator=self.operator, vectors=vectors)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`; products take the route of an earlier row, if there is one."""
        from landscape.machine.memory import Growth
        from landscape.spectrum.basis_memory import bytes_of_basis
        from landscape.spectrum.eigenpairs import top_eigenpairs

        growth, products = Growth(problem.device), of_solve(self.k)
        operator, base = self.matrix.operator(problem, kept_route(history.choices), products)
        before = self._vectors_before(history, problem)
        foreseen: list[float] = []

        def tell(at: Progress) -> None:
            if not foreseen:  # memory so far: a step's workspace and part of the basis, but no eigenpairs yet
                now, then = (bytes_of_basis(operator, self.k, self.tol_value, base) for base in (at.products, products))
                foreseen.append(growth.most() + max(0, then - now) + self.k * problem.vector.nbytes)
            bar(at)

        pairs = top_eigenpairs(
            operator,
            self.k,
            self.which,
            self.tol,
            self.seed,
            tol_value=self.tol_value,
            start=before,
            max_products=self.max_products,
            progress=tell,
        )
        variables = _pairs(pairs, self.matrix)
        if self.eigenvectors:
            vectors = pairs.eigenvectors.T.cpu().numpy()
            named = "unit eigenvector, flat parameter layout"
            variables |= {"eigenvectors": variable(("index", "parameter"), vectors, named), **tensors_of(problem)}
            variables["overlap"] = variable(
                (), _overlap(before, pairs.eigenvectors), "||V'^T V||_F^2 / k with the V' of the checkpoint before"
            )
        peak = growth.most()
        # A solve whose first products fill the whole space reports no progress.
        memory = {"memory": _known(peak), "memory_foreseen": _known(foreseen[0] if foreseen else peak)}
        return RowData(variables, {"route": base.route.plain(), "basis": _basis(pairs), **memory})

    def _vectors_before(self, history: History, problem: Problem) -> torch.Tensor | None:
        """The eigenvectors (n, k) of the checkpoint before."""
        import torch

        if history.previous is None or not self.eigenvectors:
            return None
        return torch.as_tensor(history.previous.eigenvectors.values.T.copy()).to(problem.device, problem.dtype)

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for pairs that did not converge, or else for an undecided search for missed copies of eigenvalues."""
        from landscape.spectrum.eigenpairs import products_allowed
        from landscape.spectrum.search import MISSED_AT_MOST

        lines = []
        if open_pairs := int((~row.converged).sum()):
            goal = f"a relative residual of {self.tol:g}"
            if self.tol_value is not None:
                goal = f"a certified relative accuracy of {self.tol_value:g}"
            option = "--tol" if self.tol_value is None else "--tol-value"
            remedy = f"raise --max-products or {option}"
            if _rounding_hinders(row):
                remedy = f"the residuals are at the level of rounding: use --dtype float64, or raise {option}"
            lines.append(
                f"{open_pairs} of {row.sizes['index']} eigenpairs did not converge to {goal} in "
                f"{int(row.products)} products: {remedy}"
            )
        elif row.miss_probability > MISSED_AT_MOST:
            ended = int(row.products) >= products_allowed(self.k, self.max_products)
            more = "raise --max-products" if ended else "allow a larger Lanczos basis by --memory"
            lines.append(
                "undecided whether a copy of a multiple eigenvalue was missed "
                f"(chance below {rounded_up(float(row.miss_probability), 2)}, goal {MISSED_AT_MOST:g}): {more}, or "
                "compute in float64"
            )
        return lines

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """The route of the products, the table of eigenvalues, and what the solve cost."""
        from landscape.curvature.products.route import Route

        provenance = json.loads(str(row.provenance.values))
        lines: list[RenderableType] = [
            f"{self.matrix.title}: {counted(row.sizes['index'], 'eigenvalue')} {_ENDS[self.which]}, "
            f"{provenance['dtype']} on {provenance['device']}",
            f"products by {Route(**provenance['route'])}",
            eigenvalue_table(
                row.eigenvalues.values,
                row.intervals.values,
                row.residuals.values,
                row.converged.values,
                arithmetic_in(row),
            ),
            f"{int(row.products)} products, {int(row.products_verification)} of them to verify",
            f"chance that an eigenvalue among these was missed: {chance_of_miss(float(row.miss_probability))}",
            *_of_rounding(row),
        ]
        if (provenance.get("memory") or 0) >= _WORTH_TELLING:
            basis = f", the Lanczos basis {provenance['basis']}" if provenance.get("basis") else ""
            lines.append(f"memory beyond model and data: {amount(provenance['memory'])}{basis}")
        if "overlap" in row and row.overlap.notnull():
            lines.append(f"overlap with the eigenvectors of the checkpoint before: {float(row.overlap):.3f}")
        return lines


_WORTH_TELLING = 1e6  # bytes of memory


def eigenpairs_of(row: xr.Dataset) -> Eigenpairs:
    """Rebuild the eigenpairs from a row of a record, with the eigenvectors in host memory.

    Args:
        row: one checkpoint's row of the group ``eigenpairs``, or of the eigenpairs group of another matrix.

    Raises:
        InputError: the row has no eigenvectors.
    """
    import torch

    from landscape.spectrum.basis_store import Place
    from landscape.spectrum.eigenpairs import Eigenpairs

    if "eigenvectors" not in row:
        raise InputError(
            "this row has no eigenvectors: `landscape.probe` returns rows without them; read the row from the record "
            "(`landscape.open_record`), or measure with --eigenvectors"
        )
    provenance = json.loads(str(row.provenance.values))
    settings, basis = provenance["settings"], provenance.get("basis") or ""
    return Eigenpairs(
        eigenvalues=row.eigenvalues.values,
        intervals=row.intervals.values,
        residuals=row.residuals.values,
        converged=row.converged.values.astype(bool),
        eigenvectors=torch.as_tensor(row.eigenvectors.values.T.copy()),
        which=settings["which"],
        tol=settings["tol"],
        tol_value=settings["tol_value"],
        rounding=float(row.rounding),
        misjudged=float(row.misjudged) if "misjudged" in row else 0.0,
        arithmetic=arithmetic_in(row),
        orthogonality=float(row.orthogonality),
        miss_probability=float(row.miss_probability),
        products=int(row.products),
        products_verification=int(row.products_verification),
        place=next((place for place in get_args(Place) if place in basis), "device"),
        shared="shared" in basis,
    )


def known_eigenpairs(matrix: Matrix, history: History) -> Eigenpairs | None:
    """The eigenpairs of largest magnitude that the record has of this matrix at this checkpoint, or None."""
    row = history.of_checkpoint(_group(matrix))
    if row is None or "eigenvectors" not in row:
        return None
    settings = json.loads(str(row.provenance.values))["settings"]
    return eigenpairs_of(row) if (settings["matrix"], settings["which"]) == (matrix.settings, "LM") else None


def known_pairs_note(row: xr.Dataset) -> list[str]:
    """A line for the eigenpairs that a measurement took from the record, if any."""
    known = json.loads(str(row.provenance.values)).get("known", 0)
    return [f"{counted(known, 'eigenpair')} of this record deflated without a search"] if known else []


def _group(matrix: Matrix) -> str:
    """``eigenpairs`` for the Hessian, ``eigenpairs_...`` for another matrix."""
    return matrix.group("eigenpairs")


def _basis(pairs: Eigenpairs) -> str | None:
    """Where the Lanczos basis was, or None if it was whole on the operator's device."""
    words = {"device": "", "host memory": "in host memory", "file": "in a file"}[pairs.place]
    return ("shared by the processes " * pairs.shared + words).strip() or None


def _known(size: float) -> int | None:
    """Bytes as an integer, or None for NaN, an unknown size."""
    return None if math.isnan(size) else int(size)


def _rounding_hinders(row: xr.Dataset) -> bool:
    """Whether rounding explains at least half of the residual norm of every pair that did not converge."""
    return bool((row.residuals <= 2 * row.rounding).where(~row.converged, True).all())


def _of_rounding(row: xr.Dataset) -> list[str]:
    """A line for the chance that rounding makes an interval too narrow, if that chance isn't 0."""
    chance = float(row.misjudged) if "misjudged" in row else 0.0
    return [f"chance that rounding exceeds its bound in ±: below {chance:.0e}"] if chance else []


def chance_of_miss(miss_probability: float) -> str:
    """A bound on the chance that an eigenvalue was missed, as text."""
    if miss_probability == 0:
        return "none found, and the search was complete"
    return f"below {rounded_up(miss_probability, 1)}" if miss_probability < 1 else "undecided"


def _overlap(before: torch.Tensor | None, now: torch.Tensor) -> float:
    """The overlap ||V'^T V||_F^2 / k of two subspaces with orthonormal bases (n, k).

    1 for equal subspaces, k/n on average for random ones, NaN without the earlier one.
    """
    import torch

    return float("nan") if before is None else float((before.T @ now).square().sum(dtype=torch.float64)) / now.shape[1]


def _pairs(pairs: Eigenpairs, matrix: Matrix) -> dict[str, xr.Variable]:
    units = matrix.units
    return {
        "index": variable("index", np.arange(len(pairs.eigenvalues)), f"position in the order {pairs.which}"),
        "eigenvalues": variable("index", pairs.eigenvalues, f"eigenvalue of the {matrix.title}", units),
        "intervals": variable(("index", "bound"), pairs.intervals, "lower and upper bound of an eigenvalue", units),
        "residuals": variable("index", pairs.residuals, "residual norm ||A v - lambda v||", units),
        "converged": variable("index", pairs.converged, "the goal was reached, or the level of rounding"),
        "rounding": variable((), pairs.rounding, "residual that rounding alone explains", units),
        "misjudged": variable((), pairs.misjudged, "chance that rounding does more than the intervals allow for"),
        **arithmetic_variable(pairs.arithmetic),
        "orthogonality": variable((), pairs.orthogonality, "max |Q^T Q - I| of the Lanczos basis"),
        "miss_probability": variable(
            (), pairs.miss_probability, "bound on the probability that an eigenvalue among these was missed"
        ),
        "products": variable((), pairs.products, "matrix-vector products made"),
        "products_verification": variable((), pairs.products_verification, "products spent on verification"),
    }
