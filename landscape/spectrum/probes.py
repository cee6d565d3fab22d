"""Random probe vectors of stochastic estimators; each depends only on its seed and its index.

Probe i of a seed doesn't depend on the number of probes, on the block size or on the device. So all checkpoints
measured with one seed share their probes ("common random numbers"). Differences between them come from the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError, refuse_fractions
from landscape.operator import SymmetricOperator

Kind = Literal["rademacher", "gaussian"]


def probe(dim: int, seed: int, index: int, kind: Kind = "rademacher") -> Tensor:
    """Probe number ``index`` of a seed: independent entries of mean 0 and variance 1.

    The entries come from the counter-based generator Philox with the key (seed, index) (Salmon, Moraes, Dror and Shaw
    2011). So no two probes share random numbers. Krylov sequences start from torch's Mersenne Twister. So they are
    independent of the probes, even of one seed.

    Args:
        dim: length n of the probe.
        seed: seed, 0 to 2^63 - 1.
        index: number of the probe, 0, 1, 2, ...
        kind: distribution of the entries: ``rademacher`` (+1 or -1 with equal chance, the default) or ``gaussian``.

    Returns:
        (n,) float64, on the CPU.

    Raises:
        InputError: an argument is out of range.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2^63 - 1, not {seed}")
    if index < 0:
        raise InputError(f"probes are numbered from 0, there is none with number {index}")
    if kind not in get_args(Kind):
        raise InputError(f"probes are {' or '.join(get_args(Kind))}, not {kind!r}")
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    if kind == "gaussian":
        return torch.from_numpy(generator.standard_normal(dim))
    return torch.from_numpy(2 * generator.integers(0, 2, dim, dtype=np.int8) - 1).to(torch.float64)


def probe_block(operator: SymmetricOperator, seed: int, indices: Iterable[int], kind: Kind = "rademacher") -> Tensor:
    """Probes as the columns of an (n, m) block on the operator's device and of its dtype; see `probe`."""
    return torch.stack([probe(operator.dim, seed, i, kind).to(operator.device, operator.dtype) for i in indices], dim=1)


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Standard error of the mean of independent samples (p, ...) along the first axis; NaN for a single sample.

    The samples are scaled to a size near 1 first. Squares of numbers below 1e-162 are zero, so different samples would
    seem to agree.
    """
    if len(samples) < 2:
        return np.full(samples.shape[1:], np.nan)
    exponent = np.frexp(np.abs(samples).max(initial=0.0))[1]
    scaled = np.ldexp(samples, -exponent)
    return np.asarray(np.ldexp(scaled.std(axis=0, ddof=1) / math.sqrt(len(samples)), exponent))


def check_goal(what: str, tol: float | None, probes: int | None, seed: int, max_products: int | None) -> None:
    """Refuse an invalid goal of an estimator: a tolerance with a limit on products, or else a number of probes.

    Raises:
        InputError: a number is out of range, or there are two goals.
    """
    refuse_fractions(probes=probes, seed=seed, max_products=max_products)
    if tol is not None and not 0 < tol < 1:
        raise InputError(f"the tolerance of a {what} must lie between 0 and 1, not {tol}")
    if probes is not None and probes < 2:
        raise InputError(f"probes must be at least 2, because one probe shows no spread, not {probes}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2^63 - 1, not {seed}")
    if probes is not None and (tol is not None or max_products is not None):
        raise InputError(
            "a number of probes takes the place of a goal: leave out probes, or leave out tolerance and max_products"
        )
