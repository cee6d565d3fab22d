"""Which matrix a measurement is of: the Hessian, or another kind of curvature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from landscape.curvature.kinds import Unit, kind_of
from landscape.errors import InputError
from landscape.measurements.base import Measurement
from landscape.measurements.files import digest_of, read_vector

if TYPE_CHECKING:
    from torch import Tensor

    from landscape.curvature.differences import DifferenceHessian
    from landscape.curvature.products.batched import BatchedOperator
    from landscape.operator import SymmetricOperator
    from landscape.problem import Problem


@dataclass(frozen=True)
class Matrix:
    """A kind of curvature, and how it is made.

    Attributes:
        kind: as `landscape.matrix` has it.
        unit: what a score of the Fisher kinds is of: each loss ``term`` (token), or each sample's (``sequence``) sum.
        samples: labels sampled for each term of ``fisher-mc``.
        seed: of these labels.
        precondition: D^(-1/2) A D^(-1/2) with D from Adam's second moments in the checkpoint (``adam``), or from a file
            of a flat vector (.npy, or .pt with one tensor).
        digest: sha256 of that file, once it is settled: it, and not the file's name, is part of the request.
    """

    kind: str = "hessian"
    unit: Unit = "term"
    samples: int = 1
    seed: int = 0
    precondition: str | None = None
    digest: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the matrix, as stored in the record."""
        settings = asdict(self)
        digest = settings.pop("digest")
        return settings | ({"precondition": f"sha256 {digest}"} if digest else {})

    @property
    def title(self) -> str:
        """What the screen calls it."""
        title = kind_of(self.kind).title
        if self.kind == "fisher-mc":
            title += f", {self.samples} label{'s' * (self.samples > 1)} a term"
        if self.unit == "sequence":
            title += ", scores by sequence"
        if self.precondition:
            by = "Adam's second moments" if self.precondition == "adam" else self.precondition
            title += f", preconditioned by {by}"
        return title

    @property
    def units(self) -> str:
        """Of its entries and eigenvalues."""
        return "1 (preconditioned)" if self.precondition else "loss / parameter^2"

    def group(self, measurement: str) -> str:
        """The record's group for a measurement: its own name for the Hessian, with the matrix's for any other."""
        label = "" if self.kind == "hessian" else "_" + self.kind.replace("-", "_")
        return f"{measurement}{label}{'_preconditioned' if self.precondition else ''}"

    def operator(
        self, problem: Problem, route: str | None = None, products: int | None = None
    ) -> tuple[SymmetricOperator, BatchedOperator | DifferenceHessian]:
        """The operator at a problem's point, and what makes its products (itself, unless it is preconditioned).

        Args:
            problem: where.
            route: the way to make products, where it was decided before.
            products: so many are expected; None if nobody knows.

        Raises:
            InputError: the problem has no such matrix, or there is nothing to precondition with.
        """
        from landscape.curvature.preconditioned import Preconditioned

        settings = {"unit": self.unit, "samples": self.samples, "seed": self.seed}
        made = kind_of(self.kind).make(problem, **settings, route=route, products=products)
        return (Preconditioned(made, self._diagonal(problem)), made) if self.precondition else (made, made)

    def resolved(self, problem: Problem) -> Matrix:
        """Itself with the digest of its file.

        Raises:
            InputError: what `operator` would refuse, before anything is measured.
        """
        kind_of(self.kind).check(problem)
        if self.samples < 1:
            raise InputError(f"the Monte-Carlo Fisher needs at least 1 sampled label a term, not {self.samples}")
        if self.precondition is None:
            return self
        from landscape.curvature.preconditioned import inverse_root

        diagonal = self._diagonal(problem)
        try:
            inverse_root(diagonal, problem.layout.dim, problem.dtype)
        except InputError as error:
            raise InputError(f"--precondition {self.precondition}: {error}") from error
        return replace(self, digest=None if self.precondition == "adam" else digest_of(self.precondition))

    def _diagonal(self, problem: Problem) -> Tensor:
        from landscape.curvature.preconditioned import adam_diagonal_of

        assert self.precondition is not None, "asked for only where there is one"
        if self.precondition == "adam":
            return adam_diagonal_of(problem)
        return read_vector(self.precondition, self.digest)


class OfMatrix(Measurement):
    """A measurement of a matrix.

    Attributes:
        group: the record's group if the matrix is the Hessian.
        matrix: which one it is.
    """

    group: ClassVar[str]
    matrix: Matrix

    @property
    def exact(self) -> bool:
        """Whether the numbers have no error that covers products in less precision."""
        return True

    @property
    def name(self) -> str:
        """The group, with the matrix's name if it isn't the Hessian."""
        return self.matrix.group(self.group)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Measurement.settings`."""
        # Rows of version 0.1, whose errors leave out what all products share, are another request's.
        return super().settings | {"matrix": self.matrix.settings, "errors": "to products in float64"}

    def with_matrix(self, problem: Problem) -> Self:
        """Itself with its matrix settled; see `Matrix.resolved`.

        Raises:
            InputError: as there, or the numbers are too exact for products in less precision.
        """
        if self.exact and kind_of(self.matrix.kind).reduced:
            raise InputError(
                "--matrix bfloat16 is for eigenpairs to a residual (--eigenpairs without --tol-value), --density and "
                f"--self-check, not for {self.name}: leave one of them out"
            )
        return replace(self, matrix=self.matrix.resolved(problem))  # type: ignore[type-var]


def kept_route(choices: Mapping[str, Any] | None) -> str | None:
    """The way an earlier row's products were made."""
    return None if choices is None else choices["route"]["name"]


def kept_routes(choices: Mapping[str, Any] | None, count: int) -> list[str | None]:
    """The ways that the products of several matrices of an earlier row were made."""
    return [None] * count if choices is None else [route["name"] for route in choices["routes"]]
