"""Products with blocks of vectors, held to be finite and of a symmetric matrix, and how much rounding is in them."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator

# Columns multiplied at a time: enough for matrix products to be fast, few enough for progress to be seen.
_COLUMNS = 64
_BLOCK_BYTES = 1 << 26
# Squares of what is smaller lose digits, or are zero.
LEAST_SQUARED = 1e-150
NOT_FINITE = (
    "a product of the operator has entries that are NaN or infinite: the loss isn't twice differentiable here, or "
    "overflows"
)


def block_size(operator: SymmetricOperator, most: int = _COLUMNS) -> int:
    """How many columns a block holds: ``most``, or what fits in 64 MB of float64, but at least one."""
    return max(1, min(most, _BLOCK_BYTES // (8 * operator.dim)))


# Numbers summed at a time in float64: torch would make a copy of a whole vector for that.
_PIECE = 1 << 20


def norm(vector: Tensor) -> Tensor:
    """||v|| of a vector (n,), a number in float64."""
    pieces = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in vector.split(_PIECE)]
    return torch.linalg.vector_norm(torch.stack(pieces))


def refuse_underflow(largest: float) -> None:
    """Raise InputError where the largest of some products, by a norm, isn't zero and yet its square is."""
    if 0 < largest < LEAST_SQUARED:
        raise InputError(
            f"the products of the operator are of size {largest:.1e}, and their squares are lost below the smallest "
            "number: scale the loss up"
        )


def finite_products(operator: SymmetricOperator, vectors: Tensor) -> Tensor:
    """The products (n, m) with the columns of a block (n, m).

    Raises:
        InputError: one of them isn't finite.
    """
    products = operator.matmat(vectors)
    if not products.isfinite().all():
        raise InputError(NOT_FINITE)
    return products


def measured_rounding(operator: SymmetricOperator, vector: Tensor, product: Tensor) -> float:
    """The rounding in A v, ||3 A (v/3) - A v|| + eps ||A v||, by one product more.

    At another scale that is no power of two every operation on the vector is rounded differently, so the difference is
    the error that two products don't share; the second term is for the operations that happen to be exact at both
    scales. What is kept of the forward pass is rounded alike in both: see `landscape.spectrum.rounding`.

    Args:
        operator: A.
        vector: (n,) v.
        product: (n,) float64, A v, however it was obtained.
    """
    third = finite_products(operator, vector.unsqueeze(1) / 3).squeeze(1)
    return rounding_between(third, product, torch.finfo(operator.dtype).eps)


def rounding_between(third: Tensor, product: Tensor, eps: float) -> float:
    """See `measured_rounding`: from A (v/3) and A v, (n,) each, made with operations of relative rounding ``eps``."""
    again = 3 * third.to(torch.float64)
    return float(torch.linalg.vector_norm(again - product) + eps * torch.linalg.vector_norm(product))


# Products that differ by more than so many of their stated errors contradict one another.
_TIMES = 10


def allowed_asymmetry(operator: SymmetricOperator) -> float:
    """By how much |u^T A v - v^T A u| may exceed zero, as a share of the larger of ||A u|| ||v|| and ||A v|| ||u||.

    Rounding takes half of the digits at most in float64: more would leave no product worth having. In float32 it takes
    percents of hard cases, such as loops of many passes.
    """
    rounding = torch.finfo(torch.float64).eps ** 0.5 if operator.dtype == torch.float64 else 0.01
    return max(rounding, _TIMES * operator.eps, _TIMES * operator.error)


def refuse_asymmetry(operator: SymmetricOperator, asymmetry: float, scale: float) -> None:
    """Raise InputError where products contradict one another by more of their ``scale`` than rounding explains."""
    if asymmetry <= allowed_asymmetry(operator) * scale:
        return
    found = (
        "the operator isn't symmetric, or isn't the same at every product: products contradict one another by "
        f"{asymmetry:.2g} of {scale:.2g}"
    )
    if operator.error:
        raise InputError(
            f"{found}, and they are off by {operator.error:.1g} of a product where that was measured: compute in "
            "float64 (--dtype float64)"
        )
    raise InputError(
        f"{found}; some layer's second derivative is wrong (in PyTorch 2.13 that of weight_norm): use another layer, "
        "or the Hessian by differences of the gradient (--matrix differences)"
    )


def refuse_asymmetric(
    operator: SymmetricOperator, vectors: Tensor, products: Tensor, others: tuple[Tensor, Tensor] | None = None
) -> None:
    """Refuse products A v with vectors v that no symmetric matrix A has: u^T A v is v^T A u.

    Rounding makes the two differ, by less in float64 than in float32; a wrong second derivative makes them differ as
    much in either.

    Args:
        operator: A.
        vectors: (n, m) v.
        products: (n, m) A v.
        others: (n, l) u and (n, l) A u; default: the same as v.

    Raises:
        InputError: see `refuse_asymmetry`; the products are so small that their squares underflow.
    """
    (u, of_u), (v, of_v) = (
        (one.to(torch.float64), other.to(torch.float64))
        for one, other in (others or (vectors, products), (vectors, products))
    )
    refuse_underflow(float(of_v.abs().max()) if of_v.numel() else 0.0)
    asymmetries = (u.T @ of_v - of_u.T @ v).abs().flatten()
    scales = torch.maximum(torch.outer(_norms(u), _norms(of_v)), torch.outer(_norms(of_u), _norms(v))).flatten()
    worst = int((asymmetries - allowed_asymmetry(operator) * scales).argmax())
    refuse_asymmetry(operator, float(asymmetries[worst]), float(scales[worst]))


def _norms(block: Tensor) -> Tensor:
    return torch.stack([norm(each) for each in block.unbind(1)])
