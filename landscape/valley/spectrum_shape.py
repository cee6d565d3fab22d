"""How unequal the valley's eigenvalues are, of those that can be told from noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.errors import InputError

# Below these shares of the largest magnitude an eigenvalue is rounding (of products in that precision).
NUMERICAL = {"float32": 1e-5, "float64": 1e-13}


@dataclass(frozen=True)
class Anisotropy:
    """The positive spectrum above a noise floor, and what lies outside it, counted apart.

    Attributes:
        floor: magnitudes at or below it are taken for zero.
        positive: how many eigenvalues are above the floor.
        null: how many are within it, exact zeros included.
        zeros: how many are exactly zero.
        negative: how many are below minus the floor.
        negative_mass: sum of the magnitudes of these, relative to that of all.
        participation: (sum lambda)^2 / sum lambda^2 of the positive ones: how many equal eigenvalues would be as
            concentrated; NaN where there is none.
        quantile_ratio: the 90 % quantile of the positive ones by the 10 % quantile; NaN where there is none.
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
    """Measures of a spectrum's anisotropy.

    Args:
        eigenvalues: (n,) all of them.
        floor: at least 0; see `noise_floor`.

    Raises:
        InputError: an eigenvalue isn't finite, or the floor is negative or isn't.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise InputError("a spectrum has at least one eigenvalue, and all of them finite")
    if not 0 <= floor < np.inf:
        raise InputError(f"a noise floor is at least 0 and finite, not {floor}")
    positive, negative = values[values > floor], values[values < -floor]
    some, total = len(positive) > 0, float(np.abs(values).sum())
    low, high = np.quantile(positive, [0.1, 0.9]) if some else (np.nan, np.nan)
    return Anisotropy(
        floor=floor,
        positive=len(positive),
        null=len(values) - len(positive) - len(negative),
        zeros=int((values == 0).sum()),
        negative=len(negative),
        negative_mass=float(np.abs(negative).sum()) / total if total else 0.0,
        participation=float(positive.sum() ** 2 / (positive**2).sum()) if some else np.nan,
        quantile_ratio=float(high / low) if some else np.nan,
    )


def noise_floor(eigenvalues: np.ndarray, precision: str, sampling: float = 0.0) -> float:
    """What an eigenvalue must exceed to be told from zero: the larger of the numerical floor and the sampling one.

    Args:
        eigenvalues: (n,).
        precision: of the products, ``float32`` or ``float64``.
        sampling: half the spectral norm of the difference of the Hessians on two halves of the data, which is what a
            Hessian on all of them is off by, as far as two halves can tell (by Weyl no eigenvalue moves by more).

    Raises:
        InputError: an unknown precision.
    """
    if precision not in NUMERICAL:
        raise InputError(f"the numerical floor is known in {' and '.join(NUMERICAL)}, not in {precision}")
    return max(NUMERICAL[precision] * float(np.abs(eigenvalues).max()), sampling)
