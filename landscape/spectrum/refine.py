"""Eigenpairs found by products in less precision, made anew from exact products with their vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.spectrum.ends import Which, select
from landscape.spectrum.products import norm, rounding_between
from landscape.spectrum.rounding import Float64Products

# Entries of vectors that are multiplied in float64 at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Refined:
    """Eigenpairs with their errors; see `landscape.Eigenpairs` for the fields."""

    values: np.ndarray
    intervals: np.ndarray
    residuals: np.ndarray
    vectors: Tensor


def refined(wide: Float64Products, vectors: Tensor, products: Tensor, which: Which) -> Refined:
    """The Ritz pairs of a subspace whose exact products are known, with their residuals, by one product more.

    Where products are off by E, the vectors are off by ||E|| over a gap, which is in these residuals; the Rayleigh
    quotients are off by the square of that (Parlett 1998, section 11.7).

    Args:
        wide: products with A in full precision.
        vectors: (n, k) V, orthonormal.
        products: (n, k) A V, made by these.
        which: the order of the pairs.
    """
    k = vectors.shape[1]
    pieces = zip(vectors.split(_PIECE), products.split(_PIECE), strict=True)
    small = sum(one.to(torch.float64).T @ other.to(torch.float64) for one, other in pieces).cpu().numpy()
    values, turns = np.linalg.eigh((small + small.T) / 2)
    order = select(values, k, which)
    values, turned = values[order], torch.as_tensor(turns[:, order]).to(vectors)
    vectors, products = vectors @ turned, products @ turned
    eps = torch.finfo(vectors.dtype).eps
    error = rounding_between(wide(vectors[:, :1] / 3).squeeze(1), products[:, 0].to(torch.float64), eps)
    rounding = math.sqrt(k) * (error + 4 * eps * float(np.abs(values).max()))
    residuals = np.array([float(norm(products[:, i] - float(values[i]) * vectors[:, i])) for i in range(k)])
    radius = residuals + rounding
    return Refined(values, np.stack([values - radius, values + radius], axis=1), residuals, vectors)
