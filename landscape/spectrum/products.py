"""Products with blocks of vectors: checks that they are finite and symmetric, and measurement of their rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator

# Columns multiplied at a time: enough for matrix products to be fast, few enough for progress to be seen.
_COLUMNS = 64
_BLOCK_BYTES = 1 << 26
# Squares of smaller numbers lose digits or are zero.
LEAST_SQUARED = 1e-150
NOT_FINITE = (
    "a product of the operator has entries that are NaN or infinite: the loss isn't twice differentiable here, or "
    "overflows"
)


def block_size(operator: SymmetricOperator, most: int = _COLUMNS) -> int:
    """Number of columns of a block: ``most``, or as many as fit in 64 MB of float64, but at least one."""
    return max(1, min(most, _BLOCK_BYTES // (8 * operator.dim)))


# Numbers that are summed at a time in float64. For a whole vector at once torch would make a copy of the vector.
_PIECE = 1 << 20


def norm(vector: Tensor) -> Tensor:
    """The norm ||v|| of a vector (n,), a scalar in float64."""
    pieces = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in vector.split(_PIECE)]
    return torch.linalg.vector_norm(torch.stack(pieces))


def refuse_underflow(largest: float) -> None:
    """Raise InputError if the largest of some products isn't zero but its square loses digits or is zero."""
    if 0 < largest < LEAST_SQUARED:
        raise InputError(
            f"the products of the operator are of size {largest:.1e}, and their squares are lost below the smallest "
            "number: scale the loss up"
        )


def finite_products(operator: SymmetricOperator, vectors: Tensor) -> Tensor:
    """The products (n, m) with the columns of a block (n, m).

    Raises:
        InputError: a product isn't finite.
    """
    products = operator.matmat(vectors)
    if not products.isfinite().all():
        raise InputError(NOT_FINITE)
    return products


def measured_rounding(operator: SymmetricOperator, vector: Tensor, product: Tensor) -> float:
    """The norm of the rounding in A v, ||3 A (v/3) - A v|| + eps ||A v||, measured by one more product.

    The factor 3 is no power of two, so every operation on v/3 is rounded differently. The difference is therefore the
    error that the two products don't share. The second term is for operations that are exact at both scales. Both
    products share the rounding of the forward pass. The norm doesn't contain that: see `landscape.spectrum.rounding`.

    Args:
        operator: A.
        vector: v, (n,).
        product: A v, (n,) float64, from any source.
    """
    third = finite_products(operator, vector.unsqueeze(1) / 3).squeeze(1)
    return rounding_between(third, product, torch.finfo(operator.dtype).eps)


def rounding_between(third: Tensor, product: Tensor, eps: float) -> float:
    """The formula of `measured_rounding`, from A (v/3) and A v, (n,) each, and the relative rounding ``eps``."""
    tripled = 3 * third.to(torch.float64)
    return float(torch.linalg.vector_norm(tripled - product) + eps * torch.linalg.vector_norm(product))


# Products contradict one another if they differ by more than this many of their stated errors.
_TIMES = 10


def allowed_asymmetry(operator: SymmetricOperator) -> float:
    """The largest |u^T A v - v^T A u| allowed, as a share of the larger of ||A u|| ||v|| and ||A v|| ||u||.

    In float64 rounding may take half of the digits: with fewer digits a product is useless. In float32 rounding may
    take one per cent, because it does so in hard cases such as loops of many passes.
    """
    rounding = torch.finfo(torch.float64).eps ** 0.5 if operator.dtype == torch.float64 else 0.01
    return max(rounding, _TIMES * operator.eps, _TIMES * operator.error)


def refuse_asymmetry(operator: SymmetricOperator, asymmetry: float, scale: float) -> None:
    """Raise InputError if the products' asymmetry is a larger share of ``scale`` than rounding explains."""
    if asymmetry <= allowed_asymmetry(operator) * scale:
        return
    problem = (
        "the operator isn't symmetric, or isn't the same at every product: products contradict one another by "
        f"{asymmetry:.2g} of {scale:.2g}"
    )
    if operator.error:
        raise InputError(
            f"{problem}, and the measured error of products is {operator.error:.1g} of a product: compute in "
            "float64 (--dtype float64)"
        )
    raise InputError(
        f"{problem}; some layer's second derivative is wrong (in PyTorch 2.13 that of weight_norm): use another layer, "
        "or the Hessian by differences of the gradient (--matrix differences)"
    )


def refuse_asymmetric(
    operator: SymmetricOperator, vectors: Tensor, products: Tensor, others: tuple[Tensor, Tensor] | None = None
) -> None:
    """Refuse products of a matrix that isn't symmetric: for a symmetric A, u^T A v = v^T A u.

    Rounding makes the two numbers differ, by less in float64 than in float32. A wrong second derivative makes them
    differ equally in both.

    Args:
        operator: A.
        vectors: vectors v, (n, m).
        products: products A v, (n, m).
        others: vectors u and products A u, (n, l) each; default: v and A v.

    Raises:
        InputError: see `refuse_asymmetry`; or the products are so small that their squares underflow.
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
