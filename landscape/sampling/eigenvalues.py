"""The bias and the spread of the largest eigenvalues of a matrix that is a mean over samples.

Let H be the mean over g groups of samples, with eigenpairs (l_i, v_i), and D_g = w_g (H_g - H) the part of group g in
the error of H. To first order the error of l_i is v_i^T sum_g D_g v_i. To second order the eigenvalues of a mean over
samples lie too far apart, by sum_j |v_j^T sum_g D_g v_i|^2 / (l_i - l_j) (Kato 1995, section II.2). That series fails
where eigenvalues are as close as their errors. So two parts are treated separately:

- Within the leading K eigenvectors V: the K x K matrices V^T D_g V are known. Normal random matrices E with the
  covariance of sum_g V^T D_g V are drawn, and the eigenvalues of diag(m) + E are computed exactly. The numbers m are
  those for which the mean of these eigenvalues is l. They are the eigenvalues without their bias, whatever the gaps.
- Outside of V: the eigenvalues are pushed up by n_i / (l_i - x), averaged over the spectral measure of the errors
  outside of V, with n_i = sum_g |(I - V V^T) D_g v_i|^2.
"""

from __future__ import annotations

import numpy as np

DRAWS = 500  # a standard deviation from 500 draws is known to 3 %
_CORRECTIONS = 10
_CLOSE = 0.02  # share of a standard deviation by which a further correction may change m
_REPEATS, _FEW = 60, 50  # of the correction, for its variance, and draws of each


def pushed(norms: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """By how much errors outside of V push the eigenvalues up, (K,), in the mean.

    For two levels at the distance ``gap`` with a coupling of mean square ``norm`` the push is (sqrt(gap^2 + 4 norm) -
    gap) / 2. For large gaps this is norm / gap, the term of second order, and for equal levels sqrt(norm).

    Args:
        norms: n_i, (K,).
        gaps: harmonic means of l_i - x over the spectral measure of the errors, (K,), at least 0.
    """
    return np.asarray(2 * norms / np.maximum(gaps + np.sqrt(gaps**2 + 4 * norms), np.finfo(np.float64).tiny))


def debiased(eigenvalues: np.ndarray, parts: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues without the bias of their repulsion, and two variances over sets of samples.

    In a cluster the bias itself is known badly. So the variance of the eigenvalues without bias is larger than that of
    the eigenvalues. The former is found by repeating the whole correction on drawn matrices.

    Args:
        eigenvalues: eigenvalues of the mean matrix, (K,), descending, without the push from outside of V.
        parts: V^T D_g V, (g, K, K), symmetric.
        seed: seed of the random matrices.

    Returns:
        The eigenvalues m, (K,); the variances of the eigenvalues, (K,); and the variances of m, (K,).
    """
    groups = len(parts)
    centred = (parts - parts.mean(0)) * np.sqrt(groups / (groups - 1))
    noise = np.random.default_rng(seed).standard_normal((DRAWS, groups))
    noise -= noise.mean(0)
    best, drawn = _corrected(eigenvalues, centred, noise)
    again = []
    for weights in noise[:_REPEATS]:
        values, vectors = np.linalg.eigh(np.tensordot(weights, centred, axes=1) + np.diag(best))
        rotated = np.einsum("ia,gij,jb->gab", vectors[:, ::-1], centred, vectors[:, ::-1], optimize=True)
        again.append(_corrected(values[::-1], rotated, noise[-_FEW:])[0])
    return best, drawn.var(0), np.var(again, axis=0, ddof=1)


def _corrected(eigenvalues: np.ndarray, centred: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers m (K,) for which the mean eigenvalues of diag(m) + E are the given ones, and the drawn eigenvalues."""
    errors = np.tensordot(noise - noise.mean(0), centred, axes=1)
    best = eigenvalues
    for _ in range(_CORRECTIONS):
        drawn = np.linalg.eigvalsh(errors + np.diag(best))[:, ::-1]
        before, best = best, _descending(best - (drawn.mean(0) - eigenvalues))
        if np.abs(best - before).max() <= _CLOSE * drawn.std(0).max():  # of a cluster no m may give its mean exactly
            break
    return best, drawn


def _descending(values: np.ndarray) -> np.ndarray:
    """The nearest numbers in descending order: neighbours in the wrong order are replaced by their mean."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([value])
        while len(pools) > 1 and np.mean(pools[-2]) < np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    return np.array([np.mean(pool) for pool in pools for _ in pool])
