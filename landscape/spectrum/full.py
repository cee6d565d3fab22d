"""The whole spectrum of an operator small enough for its matrix, with the error that the matrix itself shows."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from landscape.errors import InputError
from landscape.operator import SymmetricOperator, as_exact_operator
from landscape.reporting.display import HasSummary, to_error
from landscape.reporting.messages import counted
from landscape.reporting.progress import Progress
from landscape.spectrum.limits import MAX_DIM
from landscape.spectrum.products import refuse_asymmetry
from landscape.spectrum.rounding import IN_FLOAT64, Columns, arithmetic, arithmetic_note

# Rows and columns of the tiles in which the matrix is symmetrised in place.
_TILE = 1024


@dataclass(frozen=True)
class FullSpectrum(HasSummary):
    """All eigenvalues, in the units of the operator, with their error.

    The eigenvalues are those of S = (A + A^T) / 2, where A is the matrix of the products as they were made. A null
    eigenvalue is one that can't be told from zero, |lambda| <= ``rounding``. Two things make them:

    * *zero columns*: parameters that the objective doesn't see at all, such as the weights into a dead ReLU unit or the
      embedding of a token that doesn't occur. Their columns of A are zero exactly.
    * *symmetries*: directions along which the objective is constant, such as a shift of all logits of a softmax. Of a
      linear symmetry (a whole straight line through theta on which nothing changes) the direction is null anywhere.
      Along a curved one (rescaling one layer against the next, or a weight in front of a normalisation) it is null
      only where the gradient is zero, as H x' = -g . x'' along the curve; away from a minimum such
      directions are counted as positive or negative. Not every direction counted comes from a symmetry: too few
      samples for the number of parameters make null directions too.

    Attributes:
        eigenvalues: (n,) float64, descending.
        asymmetry: ||A - A^T||_F / 2. The lower triangle of A, the upper one and their mean S are matrices that differ
            by this at most, in Frobenius norm and therefore in spectral norm: by Weyl's inequality no eigenvalue
            changes by more, whichever of them is believed.
        rounding: what rounding may have done to an eigenvalue: the norm ||E||_F of the errors of A, which is measured
            in two ways, by ``asymmetry`` and by the product with a vector made at two scales, the larger of which is
            taken; and n 2^-52 ||A|| for the dense solver (LAPACK Users' Guide, 1999, section 4.7).
        zero_columns: how many columns of A are exactly zero.
        products: made, n and one to measure their rounding.
        eigenvectors: (n, n) float64, orthonormal columns in the order of the eigenvalues; None if not asked for.
        arithmetic: of which matrix they are the eigenvalues, see `landscape.Eigenpairs`.
    """

    eigenvalues: np.ndarray
    asymmetry: float
    rounding: float
    zero_columns: int
    products: int
    eigenvectors: np.ndarray | None = field(default=None, repr=False)
    arithmetic: str = IN_FLOAT64

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`."""
        first, last = (to_error(self.eigenvalues[place], self.rounding) for place in (0, -1))
        return [
            f"all {counted(len(self.eigenvalues), 'eigenvalue')} from {first} to {last}, each ± {self.rounding:.1e}",
            f"{self.positive:,} positive, {self.negative:,} negative, {self.null:,} null to rounding "
            f"({counted(self.zero_columns, 'zero column')}, {counted(self.symmetry_null, 'other direction')})",
            f"asymmetry ||A - A^T||/2 {self.asymmetry:.1e}; trace {self.trace:.6g}, Frobenius norm "
            f"{self.frobenius:.6g}",
            *arithmetic_note(self.arithmetic),
        ]

    @property
    def positive(self) -> int:
        """How many eigenvalues are above ``rounding``."""
        return int((self.eigenvalues > self.rounding).sum())

    @property
    def negative(self) -> int:
        """How many eigenvalues are below -``rounding``."""
        return int((self.eigenvalues < -self.rounding).sum())

    @property
    def null(self) -> int:
        """How many eigenvalues can't be told from zero."""
        return len(self.eigenvalues) - self.positive - self.negative

    @property
    def symmetry_null(self) -> int:
        """How many null directions aren't explained by zero columns."""
        return self.null - self.zero_columns

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues."""
        return float(self.eigenvalues.sum())

    @property
    def frobenius(self) -> float:
        """The Frobenius norm, the root of the sum of their squares."""
        return float(np.linalg.norm(self.eigenvalues))


def full_spectrum(
    operator: SymmetricOperator | torch.Tensor | np.ndarray,
    *,
    eigenvectors: bool = False,
    scratch: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FullSpectrum:
    """All eigenvalues of an operator of up to 10,000 dimensions, by n products and a dense solver.

    The products are made in float64 where the operator has such ones, so that all eigenvalues have its digits. The
    columns go to a temporary file as they are made, so that beside the operator's own memory there is either one
    block of them or, at the end, one matrix of 8 n^2 bytes in which LAPACK works in place.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        eigenvectors: give them too, which takes three matrices of memory and several times the solver's time.
        scratch: the folder for the temporary file, of n^2 entries in float64; default: the system's, which
            on some machines is kept in memory.
        progress: called after every block of products and before the dense solver.

    Raises:
        InputError: n is too large, the folder can't hold the file, a product isn't finite, or the matrix is asymmetric
            by more of its norm than rounding explains.
    """
    operator = as_exact_operator(operator)
    refuse_large(operator.dim)
    folder = _folder(operator, scratch)
    tell = progress or (lambda _: None)
    before = operator.products
    with tempfile.TemporaryDirectory(dir=folder, prefix="landscape-") as temporary:
        path, columns = Path(temporary) / "columns", Columns(operator)
        zero_columns = _write_columns(columns, path, tell)
        products = operator.products - before
        matrix = _read(path, columns.operator)
    asymmetry, norm = _symmetrise(matrix)
    refuse_asymmetry(columns.operator, asymmetry, norm)
    tell(Progress("eigenvalues", products, np.array([]), 1.0))
    # All drivers reduce to tridiagonal form in place and take the same time; transposed, so that LAPACK copies nothing.
    in_place = {"overwrite_a": True, "check_finite": False}
    if eigenvectors:
        ascending, vectors = scipy.linalg.eigh(matrix.T, driver="evd", **in_place)
        vectors = vectors[:, ::-1]
    else:
        ascending, vectors = scipy.linalg.eigh(matrix.T, eigvals_only=True, driver="ev", **in_place), None
    solver_error = operator.dim * np.finfo(np.float64).eps * float(np.abs(ascending).max())
    rounding = max(asymmetry, columns.rounding) + solver_error
    of = arithmetic(operator, columns.reason)
    return FullSpectrum(ascending[::-1].copy(), asymmetry, rounding, zero_columns, products, vectors, of)


def refuse_large(dim: int) -> None:
    """Raise InputError where a matrix of so many dimensions is too large for `full_spectrum`."""
    if dim > MAX_DIM:
        raise InputError(
            f"a full spectrum is made of up to {MAX_DIM:,} parameters, here are {dim:,}; ask for the spectral density "
            "instead (--density), or restrict the parameters (--params)"
        )


def is_possible(operator: SymmetricOperator) -> bool:
    """Whether `full_spectrum` neither finds the operator too large nor the system's folder for temporary files full."""
    return operator.dim <= MAX_DIM and _needed(operator) <= _free(Path(tempfile.gettempdir()))


def _needed(operator: SymmetricOperator) -> int:
    """Bytes of the temporary file, of float64."""
    return operator.dim**2 * 8


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _folder(operator: SymmetricOperator, scratch: Path | None) -> Path:
    """Where the temporary file goes, once the folder is known to be large enough."""
    folder = Path(tempfile.gettempdir() if scratch is None else scratch)
    if not folder.is_dir():
        raise InputError(f"the scratch folder {folder} doesn't exist; create it or name another")
    needed, free = _needed(operator), _free(folder)
    if needed > free:
        raise InputError(
            f"the matrix takes {needed / 1e6:,.0f} MB in {folder}, where {free / 1e6:,.0f} MB are free; name another "
            "scratch folder"
        )
    return folder


def _write_columns(columns: Columns, path: Path, tell: Callable[[Progress], None]) -> int:
    """Write column after column to a file; how many are exactly zero."""
    dim, zero = columns.operator.dim, 0
    with path.open("wb", buffering=0) as file:
        for start, block in columns:
            zero += int((block == 0).all(0).sum())
            _write(file, block.T.contiguous().cpu().numpy())
            made = start + block.shape[1]
            tell(Progress("multiplying", made, np.array([]), made / dim))
    return zero


def _write(file: io.FileIO, rows: np.ndarray) -> None:
    try:
        rows.tofile(file)
    except OSError as error:
        folder = Path(file.name).parents[1]
        raise InputError(f"the matrix can't be written to {folder} ({error}); name another scratch folder") from error


def _read(path: Path, operator: SymmetricOperator) -> np.ndarray:
    """The matrix (n, n) in float64, its columns as rows."""
    matrix = np.empty((operator.dim, operator.dim))
    dtype = torch.empty(0, dtype=operator.dtype).numpy().dtype
    with path.open("rb") as file:
        for start in range(0, operator.dim, _TILE):
            rows = matrix[start : start + _TILE]
            rows[:] = np.fromfile(file, dtype, rows.size).reshape(rows.shape)
    return matrix


def _symmetrise(matrix: np.ndarray) -> tuple[float, float]:
    """Make a matrix A into (A + A^T) / 2 in its own place; ||A - A^T||_F / 2 and the Frobenius norm of the result."""
    asymmetry = norm = 0.0
    for i in range(0, len(matrix), _TILE):
        for j in range(0, i + 1, _TILE):
            lower, upper = matrix[i : i + _TILE, j : j + _TILE], matrix[j : j + _TILE, i : i + _TILE].T
            mean, difference = (lower + upper) / 2, (lower - upper) / 2
            lower[:], upper[:] = mean, mean
            times = 1 if i == j else 2
            asymmetry = float(np.hypot(asymmetry, np.sqrt(times) * np.linalg.norm(difference)))
            norm = float(np.hypot(norm, np.sqrt(times) * np.linalg.norm(mean)))
    return asymmetry, norm
