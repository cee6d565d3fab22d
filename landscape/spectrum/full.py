"""All eigenvalues of an operator whose dense matrix fits into memory, with an error measured on that matrix."""

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

    The eigenvalues are those of S = (A + A^T) / 2, where the columns of A are the products that were made. An
    eigenvalue is null if it is zero up to rounding, |lambda| <= ``rounding``. Causes of null eigenvalues are:

    * *zero columns*: the objective doesn't depend on some parameters at all, such as the weights into a dead ReLU unit
      or the embedding of a token that doesn't occur. The columns of A for these parameters are exactly zero.
    * *symmetries*: the objective is constant along some directions, such as a shift of all logits of a softmax. A
      linear symmetry leaves the objective constant on a whole straight line through theta. Its direction is null at
      every theta. A curved symmetry rescales one layer against the next, or a weight in front of a normalisation. Along
      the curve H x' = -g . x'', so its direction is null only where the gradient is zero. Away from a minimum such a
      direction counts as positive or negative.
    * *few samples*: there are too few samples for the number of parameters.

    Attributes:
        eigenvalues: all eigenvalues, (n,) float64, descending.
        asymmetry: ||A - A^T||_F / 2. The lower triangle of A defines a symmetric matrix, and so does the upper one.
            Each differs from their mean S by the asymmetry in Frobenius norm, and by at most that in spectral norm. By
            Weyl's inequality no eigenvalue of S differs by more from theirs.
        rounding: bound on the rounding error of an eigenvalue: the norm ||E||_F of the errors of A, plus n 2^-52 ||A||
            for the dense solver (LAPACK Users' Guide, 1999, section 4.7). ||E||_F is the larger of two measurements:
            ``asymmetry``, and the product with one vector made at two scales.
        zero_columns: number of exactly zero columns of A.
        products: number of products: n, and one to measure their rounding.
        eigenvectors: orthonormal columns in the order of the eigenvalues, (n, n) float64; None if not requested.
        arithmetic: the matrix of the eigenvalues, see `landscape.Eigenpairs`.
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
        high, low = (to_error(self.eigenvalues[place], self.rounding) for place in (0, -1))
        return [
            f"all {counted(len(self.eigenvalues), 'eigenvalue')} from {high} to {low}, each ± {self.rounding:.1e}",
            f"{self.positive:,} positive, {self.negative:,} negative, {self.null:,} null to rounding "
            f"({counted(self.zero_columns, 'zero column')}, {counted(self.symmetry_null, 'other direction')})",
            f"asymmetry ||A - A^T||/2 {self.asymmetry:.1e}; trace {self.trace:.6g}, Frobenius norm "
            f"{self.frobenius:.6g}",
            *arithmetic_note(self.arithmetic),
        ]

    @property
    def positive(self) -> int:
        """The number of eigenvalues above ``rounding``."""
        return int((self.eigenvalues > self.rounding).sum())

    @property
    def negative(self) -> int:
        """The number of eigenvalues below -``rounding``."""
        return int((self.eigenvalues < -self.rounding).sum())

    @property
    def null(self) -> int:
        """The number of eigenvalues that are zero up to ``rounding``."""
        return len(self.eigenvalues) - self.positive - self.negative

    @property
    def symmetry_null(self) -> int:
        """The number of null directions beyond those of the zero columns."""
        return self.null - self.zero_columns

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues."""
        return float(self.eigenvalues.sum())

    @property
    def frobenius(self) -> float:
        """The Frobenius norm: the root of the sum of the squared eigenvalues."""
        return float(np.linalg.norm(self.eigenvalues))


def full_spectrum(
    operator: SymmetricOperator | torch.Tensor | np.ndarray,
    *,
    eigenvectors: bool = False,
    scratch: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FullSpectrum:
    """All eigenvalues of an operator of up to 10,000 dimensions, by n products and a dense solver.

    If the operator has products in float64, the products are made in float64. The columns go to a temporary file as
    they are made. So beside the operator's own memory there is one block of columns. At the end there is one matrix of
    8 n^2 bytes, in which LAPACK works in place.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        eigenvectors: whether to compute eigenvectors, default no. They take the memory of three matrices and several
            times the solver's time.
        scratch: folder for the temporary file of n^2 entries in float64. Default: the system's folder for temporary
            files, which some machines keep in memory.
        progress: function called after every block of products and before the dense solver.

    Raises:
        InputError: n is too large, the folder can't hold the file, a product isn't finite, or the matrix's asymmetry is
            a larger share of its norm than rounding explains.
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
    # All drivers reduce to tridiagonal form in place and take equal time. LAPACK copies nothing of a transposed matrix.
    in_place = {"overwrite_a": True, "check_finite": False}
    if eigenvectors:
        ascending, vectors = scipy.linalg.eigh(matrix.T, driver="evd", **in_place)
        vectors = vectors[:, ::-1]
    else:
        ascending, vectors = scipy.linalg.eigh(matrix.T, eigvals_only=True, driver="ev", **in_place), None
    solver_error = operator.dim * np.finfo(np.float64).eps * float(np.abs(ascending).max())
    rounding = max(asymmetry, columns.rounding) + solver_error
    arithmetic_of = arithmetic(operator, columns.reason)
    return FullSpectrum(ascending[::-1].copy(), asymmetry, rounding, zero_columns, products, vectors, arithmetic_of)


def refuse_large(dim: int) -> None:
    """Raise InputError if a matrix of dimension ``dim`` is too large for `full_spectrum`."""
    if dim > MAX_DIM:
        raise InputError(
            f"a full spectrum is made of up to {MAX_DIM:,} parameters, here are {dim:,}; ask for the spectral density "
            "instead (--density), or restrict the parameters (--params)"
        )


def is_possible(operator: SymmetricOperator) -> bool:
    """Whether `full_spectrum` accepts the operator's dimension and the system's temporary folder has room."""
    return operator.dim <= MAX_DIM and _needed(operator) <= _free(Path(tempfile.gettempdir()))


def _needed(operator: SymmetricOperator) -> int:
    """Bytes of the temporary file, if its entries are float64."""
    return operator.dim**2 * 8


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _folder(operator: SymmetricOperator, scratch: Path | None) -> Path:
    """The folder of the temporary file, checked for existence and for room."""
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
    """Write column after column to a file; returns the number of exactly zero columns."""
    dim, zero = columns.operator.dim, 0
    with path.open("wb", buffering=0) as file:
        for start, block in columns:
            zero += int((block == 0).all(0).sum())
            _write(file, block.T.contiguous().cpu().numpy())
            columns_written = start + block.shape[1]
            tell(Progress("multiplying", columns_written, np.array([]), columns_written / dim))
    return zero


def _write(file: io.FileIO, rows: np.ndarray) -> None:
    try:
        rows.tofile(file)
    except OSError as error:
        folder = Path(file.name).parents[1]
        raise InputError(f"the matrix can't be written to {folder} ({error}); name another scratch folder") from error


def _read(path: Path, operator: SymmetricOperator) -> np.ndarray:
    """Read the matrix (n, n) into float64; its columns are the array's rows."""
    matrix = np.empty((operator.dim, operator.dim))
    dtype = torch.empty(0, dtype=operator.dtype).numpy().dtype
    with path.open("rb") as file:
        for start in range(0, operator.dim, _TILE):
            rows = matrix[start : start + _TILE]
            rows[:] = np.fromfile(file, dtype, rows.size).reshape(rows.shape)
    return matrix


def _symmetrise(matrix: np.ndarray) -> tuple[float, float]:
    """Replace a matrix A by (A + A^T) / 2 in place; returns ||A - A^T||_F / 2 and the Frobenius norm of the mean."""
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
