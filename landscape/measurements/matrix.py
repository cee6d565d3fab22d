"""The matrix of a measurement: the Hessian, or another kind of curvature."""

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
    """A kind of curvature with its settings.

    Attributes:
        kind: name of the kind, see `landscape.matrix`. Default: ``hessian``.
        unit: the unit of a score in a Fisher matrix: each loss ``term`` (token), or each sample's sum of terms
            (``sequence``). Default: ``term``.
        samples: number of labels sampled for each term of ``fisher-mc``. Default: 1.
        seed: seed of these labels. Default: 0.
        precondition: source of the diagonal D of D^(-1/2) A D^(-1/2): ``adam`` for Adam's second moments in the
            checkpoint, or a file with a flat vector (.npy, or .pt with one tensor). Default: None, the matrix A.
        digest: sha256 of that file, set by `resolved`. The request contains this digest instead of the file's name.
    """

    kind: str = "hessian"
    unit: Unit = "term"
    samples: int = 1
    seed: int = 0
    precondition: str | None = None
    digest: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine the matrix, as stored in the record."""
        settings = asdict(self)
        digest = settings.pop("digest")
        return settings | ({"precondition": f"sha256 {digest}"} if digest else {})

    @property
    def title(self) -> str:
        """Name of the matrix on the screen."""
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
        """Units of the entries and the eigenvalues."""
        return "1 (preconditioned)" if self.precondition else "loss / parameter^2"

    def group(self, measurement: str) -> str:
        """Name of a measurement's group in the record; a matrix other than the Hessian has its own name at the end."""
        label = "" if self.kind == "hessian" else "_" + self.kind.replace("-", "_")
        return f"{measurement}{label}{'_preconditioned' if self.precondition else ''}"

    def operator(
        self, problem: Problem, route: str | None = None, products: int | None = None
    ) -> tuple[SymmetricOperator, BatchedOperator | DifferenceHessian]:
        """The operator at a problem's point, and the operator without preconditioning, which has a route.

        Args:
            problem: the problem, at the point where the matrix is taken.
            route: name of the route of the products. Default: None, which chooses a route.
            products: expected number of products, or None if unknown.

        Raises:
            InputError: the problem has no such matrix, or no diagonal to precondition with.
        """
        from landscape.curvature.preconditioned import Preconditioned

        settings = {"unit": self.unit, "samples": self.samples, "seed": self.seed}
        base = kind_of(self.kind).make(problem, **settings, route=route, products=products)
        return (Preconditioned(base, self._diagonal(problem)), base) if self.precondition else (base, base)

    def resolved(self, problem: Problem) -> Matrix:
        """The matrix with the digest of its file, if it has a file.

        Raises:
            InputError: the problem has no such matrix, a setting is out of range, or the diagonal is unusable.
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
        group: name of the record's group where the matrix is the Hessian.
        matrix: the matrix.
    """

    group: ClassVar[str]
    matrix: Matrix

    @property
    def exact(self) -> bool:
        """Whether the measurement needs exact products: its errors don't cover products in reduced precision."""
        return True

    @property
    def name(self) -> str:
        """Name of the record's group; see `Matrix.group`."""
        return self.matrix.group(self.group)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Measurement.settings`."""
        # "errors" keeps a request from reusing rows of version 0.1, whose errors leave out what all products share.
        return super().settings | {"matrix": self.matrix.settings, "errors": "to products in float64"}

    def operator(self, problem: Problem, products: int) -> SymmetricOperator:
        """The operator of a problem's matrix, made for a number of products."""
        return self.matrix.operator(problem, None, products)[0]

    def with_matrix(self, problem: Problem) -> Self:
        """The measurement with its matrix resolved; see `Matrix.resolved`.

        Raises:
            InputError: see `Matrix.resolved`, or the measurement needs exact products and the matrix has none.
        """
        if self.exact and kind_of(self.matrix.kind).reduced:
            raise InputError(
                "--matrix bfloat16 is for eigenpairs to a residual (--eigenpairs without --tol-value), --density and "
                f"--self-check, not for {self.name}: leave one of them out"
            )
        return replace(self, matrix=self.matrix.resolved(problem))  # type: ignore[type-var]


def kept_route(choices: Mapping[str, Any] | None) -> str | None:
    """Name of the route of an earlier row's products, or None without an earlier row."""
    return None if choices is None else choices["route"]["name"]


def kept_routes(choices: Mapping[str, Any] | None, count: int) -> list[str | None]:
    """Names of the routes of an earlier row's `count` matrices, or as many None without an earlier row."""
    return [None] * count if choices is None else [route["name"] for route in choices["routes"]]
