"""Symmetric linear operators on flat vectors: what every solver takes and every kind of curvature is."""

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

    A subclass gives `_product`; everything else is final. ``products`` counts columns: a `matmat` with a
    (dim, m) block counts m. Operators of one dimension, device and dtype can be added and subtracted, and any can be
    scaled by a number: ``A + 2 * B``, ``-A / 3``; ``A @ v`` is a product. See also `shifted`.

    Attributes:
        dim: length of the vectors.
        device: where the vectors live.
        dtype: their floating-point type.
        products: products made so far.
        memory: bytes that the vectors of a solver may take beside it; None for any number.
        eps: the relative rounding of one operation in a product; that of ``dtype``, unless products are in less.
        error: what products are off by beyond rounding, as a share of their size; 0 where they are exact.
        processes: that make each product together, and call the same methods in the same order.
    """

    __array_ufunc__ = None  # so that a NumPy number times an operator is an operator
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
        """Whether products are made in less precision than vectors have."""
        return self.eps > torch.finfo(self.dtype).eps

    @property
    def in_float64(self) -> bool:
        """Whether vectors and products are in float64."""
        return self.dtype == torch.float64 and not self.reduced

    @property
    def float64_bytes(self) -> int:
        """Bytes that products of `full_precision` take beside vectors, more than the operator's own."""
        return 0

    def full_precision(self) -> SymmetricOperator:
        """The matrix that the products are meant to be of, by products in float64; itself where these are its own.

        What rounding does to products is measured against those of this operator. It is made anew at each call, and
        counts its products itself.

        Raises:
            NoFloat64Error: there are no products in float64; says why.
        """
        if self.in_float64:
            return self
        raise NoFloat64Error("the operator knows its products in float32 alone")

    @abstractmethod
    def _product(self, vectors: Tensor) -> Tensor:
        """The operator applied to each column of a (dim, m) block of its own device and dtype."""

    @final
    def matmat(self, vectors: Tensor) -> Tensor:
        """The products with each column of ``vectors``.

        Args:
            vectors: (dim, m), on the operator's device and of its dtype.

        Returns:
            (dim, m), same device and dtype.

        Raises:
            InputError: shape, device or dtype isn't the operator's.
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
        """The same operator for SciPy: NumPy vectors of the same dtype, products counted here."""

        def apply(block: np.ndarray) -> np.ndarray:
            columns = torch.as_tensor(block.reshape(self.dim, -1), device=self.device, dtype=self.dtype)
            return self.matmat(columns).cpu().numpy().reshape(block.shape)

        numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return scipy.sparse.linalg.LinearOperator(
            (self.dim, self.dim), matvec=apply, rmatvec=apply, matmat=apply, rmatmat=apply, dtype=numpy_dtype
        )

    @final
    def shifted(self, alpha: float) -> LinearCombination:
        """A + alpha I.

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
        """``A @ v`` and ``A @ V``: `matvec` of a vector, `matmat` of a block."""
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
        matrix: (n, n), torch or NumPy; float32 and float64 keep their type, anything else becomes float64.

    Raises:
        InputError: not square, not finite, or not symmetric to 10 units of rounding times its largest entry.
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
        """See `SymmetricOperator.full_precision`: the symmetric part of the matrix as it is."""
        if self.dtype == torch.float64:
            return self
        wide = self.matrix.to(torch.float64)
        return MatrixOperator((wide + wide.T) / 2)

    def _product(self, vectors: Tensor) -> Tensor:
        return self.matrix @ vectors


@final
class LinearCombination(SymmetricOperator):
    """sum_i c_i A_i + alpha I. Its products are counted here and in every A_i.

    Args:
        terms: pairs (c_i, A_i), at least one.
        shift: alpha.

    Raises:
        InputError: an A_i is no operator, they differ in dimension, device or dtype, or a number isn't finite.
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
    except (TypeError, ValueError, RuntimeError):  # torch raises the last for a tensor of several numbers
        value = math.nan
    if not math.isfinite(value) or (nonzero and not value):
        raise InputError(f"an operator can be scaled and shifted by a finite number, not {one_line(repr(number), 60)}")
    return value


def as_exact_operator(operator_or_matrix: SymmetricOperator | Tensor | np.ndarray) -> SymmetricOperator:
    """The same as `as_operator`, for numbers that have no error of a kind to cover products in less precision.

    Raises:
        InputError: it is neither an operator nor a matrix, or its products are rounded to fewer digits than its dtype.
    """
    operator = as_operator(operator_or_matrix)
    if operator.reduced:
        raise InputError(
            "products in less precision are for eigenpairs to a residual and for densities, whose errors cover it: "
            "give the Hessian itself"
        )
    return operator


def as_operator(operator_or_matrix: SymmetricOperator | Tensor | np.ndarray) -> SymmetricOperator:
    """The operator itself, or a dense symmetric matrix as one.

    Raises:
        InputError: it is neither.
    """
    if isinstance(operator_or_matrix, SymmetricOperator):
        return operator_or_matrix
    if isinstance(operator_or_matrix, Tensor | np.ndarray):
        return MatrixOperator(operator_or_matrix)
    raise InputError(
        f"expected a SymmetricOperator or a symmetric matrix (torch or NumPy), not {type(operator_or_matrix).__name__}"
    )
