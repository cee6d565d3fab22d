"""U and V by the spectrum: Definition 1 of Gong, Teng and Liu (2025, arXiv 2510.10089), and its dependence on eps.

For a threshold eps, the eigenvectors of eigenvalues above eps span the valley. kappa is the ratio of the largest to the
smallest of these eigenvalues. The valley is a U for kappa <= 1 + delta, and a V for kappa much larger.

If a spectrum has no gap at eps, its smallest eigenvalue above eps is eps or little more. Then kappa is lambda_max / eps
for any landscape, and the verdict restates the choice of eps. ``restates`` = kappa eps / lambda_max measures this. Near
1, kappa follows from eps and shows nothing about the landscape. Well below 1, there is a gap above eps, and kappa is a
property of the landscape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.errors import InputError


@dataclass(frozen=True)
class KappaMap:
    """The ratio kappa over a range of thresholds.

    Attributes:
        eps: thresholds, (e,), in the unit of the eigenvalues.
        kappa: lambda_max divided by the smallest eigenvalue above eps, (e,); NaN if no eigenvalue is above eps.
        valley: number of eigenvalues above eps, (e,).
        river: number of eigenvalues of a magnitude of at most eps, (e,).
        restates: kappa eps / lambda_max, (e,), at most 1.
    """

    eps: np.ndarray
    kappa: np.ndarray
    valley: np.ndarray
    river: np.ndarray
    restates: np.ndarray

    def labels(self, delta: np.ndarray) -> np.ndarray:
        """The verdict for every threshold and every delta (d,), (e, d): ``U``, ``V`` or ``no valley``.

        Every valley that isn't a U is a V, because the definition leaves open how much larger than 1 kappa must be.
        """
        shape = np.where(self.kappa[:, None] <= 1 + np.asarray(delta), "U", "V")
        return np.where(self.valley[:, None] > 0, shape, "no valley")


def kappa_map(eigenvalues: np.ndarray, eps: np.ndarray) -> KappaMap:
    """Apply Definition 1 at every threshold.

    Args:
        eigenvalues: all eigenvalues, (n,), in any order.
        eps: positive thresholds, (e,).

    Raises:
        InputError: an eigenvalue isn't finite, or a threshold isn't positive and finite.
    """
    values, eps = np.sort(np.asarray(eigenvalues, dtype=np.float64)), np.asarray(eps, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise InputError("a spectrum has at least one eigenvalue, and all of them finite")
    if eps.ndim != 1 or not ((eps > 0) & np.isfinite(eps)).all():
        raise InputError("thresholds are positive finite numbers")
    first_above = np.searchsorted(values, eps, side="right")  # index of the smallest eigenvalue above eps
    below = np.searchsorted(values, -eps, side="left")
    smallest = np.append(values, np.nan)[first_above]
    kappa = values[-1] / smallest
    return KappaMap(eps, kappa, len(values) - first_above, first_above - below, eps / smallest)


def thresholds(eigenvalues: np.ndarray, floor: float, count: int = 41) -> np.ndarray:
    """Thresholds (count,) evenly spaced on a logarithmic scale, from a noise floor to just below the top eigenvalue.

    Raises:
        InputError: no eigenvalue is above the floor, or the floor isn't positive.
    """
    top = float(np.max(eigenvalues))
    if not 0 < floor < top:
        raise InputError(f"no eigenvalue lies above the noise floor {floor:.3g}: there is no valley")
    return np.geomspace(floor, top * (1 - 1e-12), count)
