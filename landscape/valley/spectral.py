"""U and V by the spectrum: Definition 1 of Gong, Teng and Liu (2025, arXiv 2510.10089), and how far it goes.

With a threshold eps the valley is spanned by the eigenvectors of eigenvalues above eps, and kappa is the ratio of the
largest to the smallest of these: U for kappa <= 1 + delta, V for kappa much larger. Where a spectrum has no gap at eps
its smallest eigenvalue above eps is eps or little more, so kappa is lambda_max / eps whatever the landscape, and the
verdict restates the choice of eps. ``restates``, which is kappa eps / lambda_max, says how far: near 1 kappa is the
cut's and tells nothing; well below 1 there is a gap above eps, and kappa is the landscape's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.errors import InputError


@dataclass(frozen=True)
class KappaMap:
    """kappa over a range of thresholds.

    Attributes:
        eps: (e,) thresholds, in the unit of the eigenvalues.
        kappa: (e,) lambda_max by the smallest eigenvalue above eps; NaN where there is none.
        valley: (e,) how many eigenvalues lie above eps.
        river: (e,) how many have a magnitude of at most eps.
        restates: (e,) kappa eps / lambda_max, at most 1.
    """

    eps: np.ndarray
    kappa: np.ndarray
    valley: np.ndarray
    river: np.ndarray
    restates: np.ndarray

    def labels(self, delta: np.ndarray) -> np.ndarray:
        """(e, d) the verdict for every threshold and every delta (d,): ``U``, ``V``, or ``no valley``.

        V is everything that isn't U: how much larger than 1 kappa must be the definition leaves open.
        """
        shape = np.where(self.kappa[:, None] <= 1 + np.asarray(delta), "U", "V")
        return np.where(self.valley[:, None] > 0, shape, "no valley")


def kappa_map(eigenvalues: np.ndarray, eps: np.ndarray) -> KappaMap:
    """Definition 1 for every threshold.

    Args:
        eigenvalues: (n,) all of them, in any order.
        eps: (e,) positive thresholds.

    Raises:
        InputError: an eigenvalue isn't finite, or a threshold isn't positive and finite.
    """
    values, eps = np.sort(np.asarray(eigenvalues, dtype=np.float64)), np.asarray(eps, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise InputError("a spectrum has at least one eigenvalue, and all of them finite")
    if eps.ndim != 1 or not ((eps > 0) & np.isfinite(eps)).all():
        raise InputError("thresholds are positive finite numbers")
    first = np.searchsorted(values, eps, side="right")  # of the eigenvalues above
    below = np.searchsorted(values, -eps, side="left")
    smallest = np.append(values, np.nan)[first]
    kappa = values[-1] / smallest
    return KappaMap(eps, kappa, len(values) - first, first - below, eps / smallest)


def thresholds(eigenvalues: np.ndarray, floor: float, count: int = 41) -> np.ndarray:
    """Thresholds (count,) evenly spaced on a logarithmic scale, from a noise floor to just below the top eigenvalue.

    Raises:
        InputError: no eigenvalue is above the floor, or the floor isn't positive.
    """
    top = float(np.max(eigenvalues))
    if not 0 < floor < top:
        raise InputError(f"no eigenvalue lies above the noise floor {floor:.3g}: there is no valley to be cut out")
    return np.geomspace(floor, top * (1 - 1e-12), count)
