"""Refinement of eigenpairs from products in less precision, by products in full precision with their vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.spectrum.ends import Which, select
from landscape.spectrum.products import norm, rounding_between
from landscape.spectrum.rounding import Float64Products

# Entries of vectors that enter dot products in float64 at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Refined:
    """Eigenpairs with their errors; see `landscape.Eigenpairs` for the fields."""

    values: np.ndarray
    intervals: np.ndarray
    residuals: np.ndarray
    vectors: Tensor


def refined(wide: Float64Products, vectors: Tensor, products: Tensor, which: Which) -> Refined:
    """Ritz pairs, residual norms and intervals of a subspace from its products in full precision.

    One more product measures the rounding. If the solve's products had an error E, its vectors are off by ||E|| divided
    by a gap. The residual norms show that error. The Rayleigh quotients are off by the square of that error (Parlett
    1998, section 11.7).

    Args:
        wide: products with A in full precision.
        vectors: orthonormal vectors V, (n, k).
        products: products A V made by ``wide``, (n, k).
        which: order of the pairs.
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
