"""The spectral density of a symmetric operator by stochastic Lanczos quadrature, with deflation of the outliers.

The method is Ubaru, Chen and Saad's (2017; for deep networks Ghorbani, Krishnan and Xiao 2019). Here the k converged
outliers are deflated first. Each outlier is an eigenvalue of weight 1/n with a known residual norm. The random probes
see only the operator compressed to the complement, and sample its spectrum with the weight (n - k)/n. So the outliers
cost a probe neither variance nor nodes.
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

PROBES = 4
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

    Memory: k + steps + 1 vectors, beside the vectors of the solve for the outliers.

    Args:
        operator: a symmetric operator or dense symmetric matrix of dimension n.
        probes: number of random probe vectors, default 4; standard errors need at least 2 and fall with the root.
        steps: steps of each Lanczos chain, default 100. A chain ends early where its Krylov space is exhausted, at the
            latest after n - k steps.
        k: number of outliers of largest magnitude to deflate, at most n; default 10; 0 is plain quadrature. Outliers
            that don't converge are not deflated.
        seed: seed of the probes and of the solve for the outliers, default 0. Probe i of a seed doesn't depend on the
            number of probes.
        tol: relative residual norm of the outliers, default 1e-4. The error that it leaves is of second order (see
            `SpectralDensity.residuals`). With the default that error is far below the sampling error.
        known: at least k eigenpairs of largest magnitude from an earlier solve. The converged pairs among the first k
            are deflated without a solve. One product checks them against the operator. ``tol`` is then the earlier
            solve's tolerance.
        progress: function called after every product of the solve and after every chain.

    Raises:
        InputError: an argument is out of range, or a product isn't finite; known eigenpairs of another operator.
    """
    operator = as_operator(operator)
    check_arguments(operator.dim, probes, steps, k, seed, tol)
    tell = progress or (lambda _: None)
    before, asked = operator.products, min(k, operator.dim)
    searching = 10 * asked / (10 * asked + probes * steps)  # the solve's estimated share of the work
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
    columns = tables([(chain.alpha, chain.beta) for chain in chains], steps)
    largest = float(np.nanmax(np.abs(np.append(deflation.values, columns["nodes"]))))
    return SpectralDensity(
        outliers=deflation.values,
        residuals=deflation.residuals,
        **columns,
        dim=operator.dim,
        rounding=_rounding(operator, deflation, seed, steps, largest) + measured.spectral,
        orthogonality=max(chain.orthogonality for chain in chains),
        undeflated=asked - len(deflation.values),
        products=operator.products - before,
        products_outliers=products_outliers,
        arithmetic=measured.arithmetic(operator),
    )


def check_arguments(dim: int, probes: int, steps: int, k: int, seed: int, tol: float = TOL) -> None:
    """Refuse arguments of `spectral_density` that are out of range for an operator of dimension ``dim``.

    Raises:
        InputError: an argument is out of range.
    """
    refuse_fractions(probes=probes, steps=steps, k=k)
    if probes < 1:
        raise InputError(f"probes must be at least 1, and at least 2 for standard errors, not {probes}")
    if steps < 2:
        raise InputError(f"steps must be at least 2, because one step gives only a mean, not {steps}")
    if k < 0:
        raise InputError(f"k must not be negative, and {k} is; 0 deflates nothing")
    check_search(dim, max(1, min(k, dim)), "LM", tol, seed, None)


def _rounding(operator: SymmetricOperator, deflation: Deflation, seed: int, steps: int, largest: float) -> float:
    """How far rounding may move a Ritz value of a chain of m steps: sqrt(m) (e + 4 eps ||A||).

    Each of the m columns of A Q has an error e from its product and an error from the passes of orthogonalisation. By
    Weyl's inequality the Frobenius norm of all these errors bounds how far a Ritz value moves. Products along large
    eigenvalues have the larger errors. So e is measured on the image of a random vector under the compressed operator.
    This takes three products.

    Args:
        operator: A.
        deflation: the deflated outliers.
        seed: seed of the random vector.
        steps: number m of steps.
        largest: largest magnitude of outliers and Ritz values, an estimate of ||A||.
    """
    compressed = Deflated(operator, deflation.vectors)
    start = compressed.project(_unit(probe(operator.dim, seed, 0, "gaussian").unsqueeze(1)).to(deflation.vectors))
    image = finite_products(compressed, start)
    vector = _unit(image if image.any() else start)
    product = finite_products(operator, vector).squeeze(1).to(torch.float64)
    error = measured_rounding(operator, vector.squeeze(1), product)
    return math.sqrt(min(steps, operator.dim)) * (error + 4 * torch.finfo(operator.dtype).eps * largest)


def _unit(vector: Tensor) -> Tensor:
    """The normalised vector; a zero vector stays zero."""
    return vector / (float(torch.linalg.vector_norm(vector, dtype=torch.float64)) or 1.0)
