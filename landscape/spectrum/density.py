"""The spectral density of a symmetric operator by stochastic Lanczos quadrature, with the outliers exact.

The method is Ubaru, Chen and Saad's (2017; for deep networks Ghorbani, Krishnan and Xiao 2019). Here the converged
outliers are deflated first: each is an eigenvalue of weight 1/n, known with its residual, and the random probes see
only the operator compressed to their complement, whose spectrum they sample with the weight (n - k)/n. A probe then
spends none of its variance, and none of its nodes, on the outliers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError, refuse_fractions
from landscape.operator import SymmetricOperator, as_operator
from landscape.reporting.progress import Progress, part
from landscape.spectrum.deflation import Deflated, Deflation
from landscape.spectrum.distribution import SpectralDensity, tables
from landscape.spectrum.eigenpairs import Eigenpairs
from landscape.spectrum.eigenpairs import check_arguments as check_search
from landscape.spectrum.probes import probe
from landscape.spectrum.products import finite_products, measured_rounding
from landscape.spectrum.quadrature import Chain, run_chain
from landscape.spectrum.rounding import distance

PROBES = 10
TOL = 1e-4


def spectral_density(
    operator: SymmetricOperator | Tensor | np.ndarray,
    probes: int = PROBES,
    steps: int = 100,
    k: int = 10,
    seed: int = 0,
    tol: float = TOL,
    *,
    known: Eigenpairs | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SpectralDensity:
    """The spectral density by stochastic Lanczos quadrature with deflated outliers.

    Memory: k + steps + 1 vectors, beside what the search for the outliers takes.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        probes: random vectors; the standard errors fall with its root, and need at least 2.
        steps: of each chain. Fewer are made where the Krylov space ends before, at the latest after n - k.
        k: outliers of largest magnitude to deflate, 0 for plain quadrature; n where there are fewer. Those that don't
            converge are not deflated.
        seed: of the probes and of the outliers' search; probe i of a seed is the same whatever the number of probes.
        tol: relative residual of the outliers. What it leaves is of second order (see `SpectralDensity.residuals`), and
            with the default far below the sampling error.
        known: eigenpairs of largest magnitude that were solved for before, at least k: the first k, as far as they
            converged, are deflated in place of a search, at the price of one product that holds them to the operator.
            ``tol`` is then what they were solved to.
        progress: called after every product of the search and every chain.

    Raises:
        InputError: an argument is out of range, or a product isn't finite; known eigenpairs of another operator.
    """
    operator = as_operator(operator)
    check_arguments(operator.dim, probes, steps, k, seed, tol)
    tell = progress or (lambda _: None)
    before, asked = operator.products, min(k, operator.dim)
    searching = 10 * asked / (10 * asked + probes * steps)  # the part of the work that it seems to be
    measured = distance(operator, seed)
    at_first = operator.products

    if known is None:
        deflation = Deflation.of_outliers(operator, asked, tol, seed, part(tell, 0.0, searching))
    else:
        deflation, searching = Deflation.of_known(operator, known, asked, seed), 0.0
    products_outliers = operator.products - at_first
    chains: list[Chain] = []
    for index in range(probes):
        chains.append(run_chain(operator, deflation, steps, seed, index))
        fraction = searching + (1 - searching) * len(chains) / probes
        tell(Progress("sampling", operator.products - before, np.array([]), fraction))
    found = tables([(chain.alpha, chain.beta) for chain in chains], steps)
    largest = float(np.nanmax(np.abs(np.append(deflation.values, found["nodes"]))))
    return SpectralDensity(
        outliers=deflation.values,
        residuals=deflation.residuals,
        **found,
        dim=operator.dim,
        rounding=_rounding(operator, deflation, seed, steps, largest) + measured.spectral,
        orthogonality=max(chain.orthogonality for chain in chains),
        undeflated=asked - len(deflation.values),
        products=operator.products - before,
        products_outliers=products_outliers,
        arithmetic=measured.arithmetic(operator),
    )


def check_arguments(dim: int, probes: int, steps: int, k: int, seed: int, tol: float = TOL) -> None:
    """Refuse what `spectral_density` can't be asked of an operator of dimension ``dim``.

    Raises:
        InputError: one of them is out of range.
    """
    refuse_fractions(probes=probes, steps=steps, k=k)
    if probes < 1:
        raise InputError(f"probes must be at least 1, and at least 2 for standard errors, not {probes}")
    if steps < 2:
        raise InputError(f"steps must be at least 2, or a probe sees no more than a mean, not {steps}")
    if k < 0:
        raise InputError(f"k must not be negative, and {k} is; 0 deflates nothing")
    check_search(dim, max(1, min(k, dim)), "LM", tol, seed, None)


def _rounding(operator: SymmetricOperator, deflation: Deflation, seed: int, steps: int, largest: float) -> float:
    """How far rounding may move a Ritz value of m steps: sqrt(m) (e + 4 eps ||A||).

    Each of the m columns of A Q is off by e, and by the passes of orthogonalisation; together their Frobenius norm
    bounds what a Ritz value moves (Weyl). Products along large eigenvalues have the larger errors, so e is measured on
    the image of a random vector under the compressed operator. Three products.

    Args:
        operator: A.
        deflation: the outliers, which the chains don't see.
        seed: of the vector.
        steps: m.
        largest: magnitude of all Ritz values, which stands for ||A||.
    """
    compressed = Deflated(operator, deflation.vectors)
    start = compressed.project(_unit(probe(operator.dim, seed, 0, "gaussian").unsqueeze(1)).to(deflation.vectors))
    image = finite_products(compressed, start)
    vector = _unit(image if image.any() else start)
    product = finite_products(operator, vector).squeeze(1).to(torch.float64)
    error = measured_rounding(operator, vector.squeeze(1), product)
    return math.sqrt(min(steps, operator.dim)) * (error + 4 * torch.finfo(operator.dtype).eps * largest)


def _unit(vector: Tensor) -> Tensor:
    """A vector normalised, unless it is zero."""
    return vector / (float(torch.linalg.vector_norm(vector, dtype=torch.float64)) or 1.0)
