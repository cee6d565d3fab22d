"""The anisotropy of a spectrum: how unequal its positive eigenvalues above a noise floor are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.errors import InputError

# An eigenvalue below this share of the largest magnitude is rounding, for products in the given precision.
NUMERICAL = {"float32": 1e-5, "float64": 1e-13}


@dataclass(frozen=True)
class Anisotropy:
    """The anisotropy of the positive spectrum above a noise floor, with counts of all other eigenvalues.

    Attributes:
        floor: noise floor; a magnitude of at most the floor counts as zero.
        positive: number of eigenvalues above the floor.
        null: number of eigenvalues within the floor, with the exact zeros.
        zeros: number of eigenvalues that are exactly zero.
        negative: number of eigenvalues below minus the floor.
        negative_mass: sum of the magnitudes of the negative eigenvalues, as a share of the sum over all eigenvalues.
        participation: (sum lambda)^2 / sum lambda^2 over the positive eigenvalues: the number of equal eigenvalues that
            would be as concentrated; NaN if there is no positive one.
        quantile_ratio: 90 % quantile of the positive eigenvalues divided by the 10 % quantile; NaN if there is no
            positive one.
    """

    floor: float
    positive: int
    null: int
    zeros: int
    negative: int
    negative_mass: float
    participation: float
    quantile_ratio: float


def anisotropy(eigenvalues: np.ndarray, floor: float) -> Anisotropy:
    """Measure a spectrum's anisotropy.

    Args:
        eigenvalues: all eigenvalues, (n,).
        floor: noise floor, at least 0; see `noise_floor`.

    Raises:
        InputError: there is no eigenvalue, an eigenvalue isn't finite, or the floor is negative or not finite.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise InputError("a spectrum has at least one eigenvalue, and all of them finite")
    if not 0 <= floor < np.inf:
        raise InputError(f"a noise floor is at least 0 and finite, not {floor}")
    positive, negative = values[values > floor], values[values < -floor]
    has_positive, total = len(positive) > 0, float(np.abs(values).sum())
    low, high = np.quantile(positive, [0.1, 0.9]) if has_positive else (np.nan, np.nan)
    return Anisotropy(
        floor=floor,
        positive=len(positive),
        null=len(values) - len(positive) - len(negative),
        zeros=int((values == 0).sum()),
        negative=len(negative),
        negative_mass=float(np.abs(negative).sum()) / total if total else 0.0,
        participation=float(positive.sum() ** 2 / (positive**2).sum()) if has_positive else np.nan,
        quantile_ratio=float(high / low) if has_positive else np.nan,
    )


def noise_floor(eigenvalues: np.ndarray, precision: str, sampling: float = 0.0) -> float:
    """The noise floor of a spectrum: the larger of the numerical floor and the sampling floor.

    An eigenvalue of at most this magnitude can't be distinguished from zero.

    Args:
        eigenvalues: eigenvalues, (n,).
        precision: precision of the products, ``float32`` or ``float64``.
        sampling: sampling floor, default 0. Give half the spectral norm of the difference of the Hessians on two halves
            of the data. That estimates the error of the Hessian on all data, and by Weyl's inequality no eigenvalue
            moves by more.

    Raises:
        InputError: ``precision`` is unknown.
    """
    if precision not in NUMERICAL:
        raise InputError(f"the numerical floor is known in {' and '.join(NUMERICAL)}, not in {precision}")
    return max(NUMERICAL[precision] * float(np.abs(eigenvalues).max()), sampling)
