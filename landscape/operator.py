"""Symmetric linear operators on flat vectors: the input of every solver, and the base of every kind of curvature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.machine.processes import SINGLE_PROCESS, Processes
from landscape.machine.widened import NoFloat64Error
from landscape.reporting.messages import one_line


class SymmetricOperator(ABC):
    """A symmetric linear map on flat vectors that counts the products made with it.

    A subclass implements `_product`, and may override `full_precision` and `float64_bytes`. ``products`` counts
    columns: a `matmat` with a (dim, m) block counts m. Operators of one dimension, device and dtype can be added and
    subtracted. Every operator can be multiplied and divided by a number: ``A + 2 * B``, ``-A / 3``. ``A @ v`` is a
    product. See also `shifted`.

    Attributes:
        dim: length of the vectors.
        device: device of the vectors.
        dtype: floating-point type of the vectors.
        products: number of products made so far.
        memory: bytes that a solver's vectors may take beside the operator; None for no limit.
        eps: relative rounding of one operation in a product: that of ``dtype``, or a larger one for reduced precision.
        error: error of a product beyond rounding, relative to the product's norm; 0 for exact products.
        processes: processes that make each product together, each by an identical sequence of calls.
    """

    __array_ufunc__ = None  # NumPy numbers then leave ``*`` to `__rmul__`
    error: float = 0.0

    def __init__(
        self,
        dim: int,
        device: torch.device,
        dtype: torch.dtype,
        memory: int | None = None,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        if dim < 1:
            raise InputError(f"an operator needs at least one dimension, not {dim}")
        self.dim = dim
        self.device = device
        self.dtype = dtype
        self.products = 0
        self.memory = memory
        self.eps = torch.finfo(dtype).eps
        self.processes = processes

    @property
    def reduced(self) -> bool:
        """Whether products are made in lower precision than the vectors have."""
        return self.eps > torch.finfo(self.dtype).eps

    @property
    def in_float64(self) -> bool:
        """Whether vectors and products are in float64."""
        return self.dtype == torch.float64 and not self.reduced

    @property
    def float64_bytes(self) -> int:
        """Bytes, beside vectors, that products of `full_precision` take beyond those of the operator's own products."""
        return 0

    def full_precision(self) -> SymmetricOperator:
        """The operator with products in float64, the reference against which rounding is measured.

        An operator whose products are in float64 already returns itself. Otherwise each call makes a new operator,
        which counts its own products.

        Raises:
            NoFloat64Error: there are no products in float64; the message gives the reason.
        """
        if self.in_float64:
            return self
        raise NoFloat64Error("the operator has products in float32 alone")

    @abstractmethod
    def _product(self, vectors: Tensor) -> Tensor:
        """The operator applied to each column of a (dim, m) block, which has the operator's device and dtype."""

    @final
    def matmat(self, vectors: Tensor) -> Tensor:
        """The products A V with the columns of ``vectors``.

        Args:
            vectors: block V, (dim, m), of the operator's device and dtype.

        Returns:
            Products, (dim, m), of the operator's device and dtype.

        Raises:
            InputError: the shape, device or dtype of ``vectors`` isn't the operator's.
        """
        self._check(vectors)
        products = self._product(vectors)
        self.products += vectors.shape[1]
        return products

    @final
    def matvec(self, vector: Tensor) -> Tensor:
        """The product with one vector of shape (dim,); see `matmat`."""
        self._check_kind(vector)
        if vector.ndim != 1:
            raise InputError(f"matvec takes a vector of shape ({self.dim},), not {tuple(vector.shape)}; see matmat")
        return self.matmat(vector.unsqueeze(1)).squeeze(1)

    @final
    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """The operator for SciPy, on NumPy vectors of the operator's dtype; its products are counted here."""

        def apply(block: np.ndarray) -> np.ndarray:
            columns = torch.as_tensor(block.reshape(self.dim, -1), device=self.device, dtype=self.dtype)
            return self.matmat(columns).cpu().numpy().reshape(block.shape)

        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return scipy.sparse.linalg.LinearOperator(
            (self.dim, self.dim), matvec=apply, rmatvec=apply, matmat=apply, rmatmat=apply, dtype=numpy_dtype
        )

    @final
    def shifted(self, alpha: float) -> LinearCombination:
        """The shifted operator A + alpha I.

        Raises:
            InputError: ``alpha`` isn't a finite number.
        """
        return LinearCombination([(1.0, self)], alpha)

    @final
    def __add__(self, other: SymmetricOperator) -> LinearCombination:
        return LinearCombination([(1.0, self), (1.0, other)])

    @final
    def __sub__(self, other: SymmetricOperator) -> LinearCombination:
        return LinearCombination([(1.0, self), (-1.0, other)])

    @final
    def __rmul__(self, factor: float) -> LinearCombination:
        return LinearCombination([(factor, self)])

    __mul__ = __rmul__

    @final
    def __truediv__(self, divisor: float) -> LinearCombination:
        return LinearCombination([(1 / _finite(divisor, nonzero=True), self)])

    @final
    def __matmul__(self, vectors: Tensor) -> Tensor:
        """``A @ v`` and ``A @ V``: `matvec` for a vector, `matmat` for a block."""
        return self.matvec(vectors) if isinstance(vectors, Tensor) and vectors.ndim == 1 else self.matmat(vectors)

    @final
    def __neg__(self) -> LinearCombination:
        return LinearCombination([(-1.0, self)])

    def _check_kind(self, vectors: Any) -> None:
        if not isinstance(vectors, Tensor):
            raise InputError(f"an operator takes torch tensors, not {type(vectors).__name__}; see torch.as_tensor")

    def _check(self, vectors: Tensor) -> None:
        self._check_kind(vectors)
        if vectors.ndim != 2 or vectors.shape[0] != self.dim:
            raise InputError(f"the operator takes vectors of shape ({self.dim}, m), not {tuple(vectors.shape)}")
        if vectors.dtype != self.dtype or vectors.device != self.device:
            raise InputError(
                f"the operator works in {self.dtype} on {self.device}, the vectors are {vectors.dtype} on "
                f"{vectors.device}; convert them first"
            )


@final
class MatrixOperator(SymmetricOperator):
    """A dense symmetric matrix as an operator.

    Args:
        matrix: (n, n), torch or NumPy; float32 and float64 stay as they are, any other dtype becomes float64.

    Raises:
        InputError: the matrix isn't square or isn't finite, or max |A - A^T| is above 10 eps max |A|.
    """

    def __init__(self, matrix: Tensor | np.ndarray) -> None:
        matrix = torch.as_tensor(matrix).detach()
        if matrix.dtype not in (torch.float32, torch.float64):
            matrix = matrix.to(torch.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"a symmetric matrix is square, this one has shape {tuple(matrix.shape)}")
        if not matrix.isfinite().all():
            raise InputError("the matrix has entries that are NaN or infinite")
        rounding = 10 * torch.finfo(matrix.dtype).eps * float(matrix.abs().max()) if matrix.numel() else 0.0
        asymmetry = float((matrix - matrix.T).abs().max()) if matrix.numel() else 0.0
        if asymmetry > rounding:
            raise InputError(f"the matrix isn't symmetric: max |A - A^T| is {asymmetry:.3g}; pass (A + A^T)/2")
        super().__init__(matrix.shape[0], matrix.device, matrix.dtype)
        self.matrix = matrix

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`: the symmetric part (A + A^T) / 2 of a float32 matrix, in float64."""
        if self.dtype == torch.float64:
            return self
        float64_matrix = self.matrix.to(torch.float64)
        return MatrixOperator((float64_matrix + float64_matrix.T) / 2)

    def _product(self, vectors: Tensor) -> Tensor:
        return self.matrix @ vectors


@final
class LinearCombination(SymmetricOperator):
    """The operator sum_i c_i A_i + alpha I, whose products are counted here and in every A_i.

    Args:
        terms: pairs (c_i, A_i), at least one.
        shift: the shift alpha; default: 0.

    Raises:
        InputError: an A_i isn't an operator, two A_i differ in dimension, device or dtype, or a number isn't finite.
    """

    def __init__(self, terms: Sequence[tuple[float, SymmetricOperator]], shift: float = 0.0) -> None:
        first = terms[0][1]
        for _, operator in terms:
            _refuse_unlike(first, operator)
        limits = [operator.memory for _, operator in terms if operator.memory is not None]
        processes = max((operator.processes for _, operator in terms), key=lambda each: each.size)
        super().__init__(first.dim, first.device, first.dtype, min(limits, default=None), processes)
        self.eps = max(operator.eps for _, operator in terms)
        self.error = max(operator.error for _, operator in terms)
        self._terms = [(_finite(factor), operator) for factor, operator in terms]
        self._shift = _finite(shift)

    @property
    def float64_bytes(self) -> int:
        """See `SymmetricOperator.float64_bytes`."""
        return sum(operator.float64_bytes for _, operator in self._terms)

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`."""
        return LinearCombination([(factor, each.full_precision()) for factor, each in self._terms], self._shift)

    def _product(self, vectors: Tensor) -> Tensor:
        products = self._shift * vectors
        for factor, operator in self._terms:
            products = products + factor * operator.matmat(vectors)
        return products


def _refuse_unlike(first: SymmetricOperator, other: Any) -> None:
    if not isinstance(other, SymmetricOperator):
        raise InputError(
            f"only an operator can be added to an operator, not {type(other).__name__}: as_operator makes one of a "
            "matrix, and A.shifted(alpha) is A + alpha I"
        )
    if (first.dim, first.device, first.dtype) != (other.dim, other.device, other.dtype):
        raise InputError(
            f"operators of dimension {first.dim} in {first.dtype} on {first.device} and of dimension {other.dim} in "
            f"{other.dtype} on {other.device} have no sum; pose both on one problem"
        )


def _finite(number: Any, nonzero: bool = False) -> float:
    try:
        value = float(number)
    except (TypeError, ValueError, RuntimeError):  # torch raises RuntimeError for a tensor of several numbers
        value = math.nan
    if not math.isfinite(value) or (nonzero and not value):
        raise InputError(f"an operator can be scaled and shifted by a finite number, not {one_line(repr(number), 60)}")
    return value


def as_exact_operator(operator_or_matrix: SymmetricOperator | Tensor | np.ndarray) -> SymmetricOperator:
    """The operator of `as_operator`, unless its products are in reduced precision.

    It serves results without an error estimate that covers the rounding of such products.

    Raises:
        InputError: the argument is neither an operator nor a matrix, or its products have fewer digits than its dtype.
    """
    operator = as_operator(operator_or_matrix)
    if operator.reduced:
        raise InputError(
            "products in less precision are for eigenpairs to a residual and for densities, whose errors cover it: "
            "give the Hessian itself"
        )
    return operator


def as_operator(operator_or_matrix: SymmetricOperator | Tensor | np.ndarray) -> SymmetricOperator:
    """The operator itself, or a dense symmetric matrix as an operator.

    Raises:
        InputError: the argument is neither an operator nor a matrix that `MatrixOperator` takes.
    """
    if isinstance(operator_or_matrix, SymmetricOperator):
        return operator_or_matrix
    if isinstance(operator_or_matrix, Tensor | np.ndarray):
        return MatrixOperator(operator_or_matrix)
    raise InputError(
        f"expected a SymmetricOperator or a symmetric matrix (torch or NumPy), not {type(operator_or_matrix).__name__}"
    )
