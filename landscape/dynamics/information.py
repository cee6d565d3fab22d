"""Mutual information between the spectra of two successive checkpoints, in two readings, each beside its null.

The paper (Gong, Teng and Liu 2025, arXiv 2510.10089) follows the mutual information over training. The paper's
estimator isn't public. Two readings suggest themselves:

- *rank-paired*: the i-th eigenvalue before and the i-th eigenvalue after count as one of n draws of a pair. Both
  spectra are sorted, so the pairs lie on a monotone curve, however the spectra are related: two unrelated matrices with
  these spectra have exactly this value. The null is two independent spectra of one shape: the eigenvalues of both,
  dealt at random to either. It shows the value without any relation. Two spectra with a value beyond the null are more
  alike than two independent spectra.
- *joint law*: p_i <v_i, v'_j>^2 with p_i = |lambda_i| / sum_j |lambda_j| is a law of pairs of eigenvectors, the squared
  amplitudes of one basis in the other. Its mutual information is large where eigenvectors stay unchanged, and small
  where they mix. The null is a basis turned at random.

All values are in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from landscape.dynamics.spectra import checked_spectrum
from landscape.errors import InputError

_LEVELS = (0.025, 0.975)
_ROUNDING = 1e-4  # error allowed of a law: overlaps come from eigenvectors in single precision


@dataclass(frozen=True)
class Information:
    """A mutual information with its null.

    Attributes:
        value: mutual information in nats, at least 0.
        most: upper bound of the value in nats: the entropy of the binned eigenvalues before (rank-paired), or of the
            coarse-grained shares (joint law).
        null: mean value in nats where there is no relation.
        null_interval: 95 % interval of the draws of the null, in nats.
        edges: edges of the bins, in the units of the eigenvalues; empty for the joint law, which has no bins.
    """

    value: float
    most: float
    null: float
    null_interval: tuple[float, float]
    edges: np.ndarray


def rank_paired_information(
    before: np.ndarray, after: np.ndarray, floor: float, *, bins: int = 32, draws: int = 200, seed: int = 0
) -> Information:
    """Mutual information of the eigenvalues of two spectra, paired by rank, on bins shared by both.

    The bins are equally wide in asinh(lambda / floor): logarithmic for either sign above the floor, and linear within
    the floor, where eigenvalues can't be distinguished from zero. The bins span both spectra.

    Args:
        before: eigenvalues of the checkpoint before, (n,).
        after: eigenvalues of the checkpoint after, (n,).
        floor: magnitude above which an eigenvalue can be distinguished from zero, positive, in the units of the
            eigenvalues.
        bins: number of bins for each spectrum; default: 32.
        draws: number of draws of the null; default: 200. Each draw deals all eigenvalues at random to two spectra,
            which is exact for spectra of one shape.
        seed: seed of the draws; default: 0.

    Raises:
        InputError: the spectra are of different lengths or aren't finite, the floor isn't positive, or there are fewer
            than two bins.
    """
    before, after = checked_spectrum(before), checked_spectrum(after)
    if before.shape != after.shape:
        raise InputError(f"spectra are paired by rank, and one has {len(before)} eigenvalues, the other {len(after)}")
    if not 0 < floor < np.inf or bins < 2:
        raise InputError(f"bins need a positive floor and at least 2 of them, not a floor of {floor:g} and {bins}")
    both = np.arcsinh(np.concatenate([before, after]) / floor)
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    places = [
        np.clip(np.searchsorted(edges, np.arcsinh(each / floor), "right") - 1, 0, bins - 1) for each in (before, after)
    ]

    def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        table = np.zeros((bins, bins))
        np.add.at(table, (np.sort(first), np.sort(second)), 1 / len(first))
        return table

    together = np.concatenate(places)

    def drawn(generator: Generator) -> np.ndarray:
        return paired(*np.split(generator.permutation(together), 2))

    return _information(paired(*places), drawn, draws, seed, floor * np.sinh(edges))


def joint_information(
    shares: np.ndarray,
    squared_overlaps: np.ndarray,
    mass_on_previous: np.ndarray,
    *,
    draws: int = 100,
    seed: int = 0,
) -> Information:
    """Mutual information of the joint law p_i <v_i, v'_j>^2 of two eigenbases, coarse-grained to the leading vectors.

    All eigenvectors except the leading ones are one outcome on either side. So the value is at most that of the whole
    law (the data-processing inequality), and equals that value if all eigenvectors are leading.

    Args:
        shares: shares p_i, which add up to 1, (n,), with the k leading eigenvectors first.
        squared_overlaps: <v_i, v'_j>^2 with the l leading eigenvectors of the checkpoint before, (k, l).
        mass_on_previous: sum_i p_i <v_i, v'_j>^2 over all n eigenvectors, (l,).
        draws: number of draws of the null; default: 100. Each draw turns the l vectors at random in the whole space.
        seed: seed of the draws; default: 0.

    Raises:
        InputError: the arguments don't form a law.
    """
    shares, overlaps, mass = (
        np.asarray(each, dtype=np.float64) for each in (shares, squared_overlaps, mass_on_previous)
    )
    if overlaps.ndim != 2 or shares.ndim != 1 or mass.shape != overlaps.shape[1:] or len(overlaps) > len(shares):
        raise InputError(
            f"a joint law has shares (n,), squared overlaps (k, l) with k <= n, and masses (l,), not {shares.shape}, "
            f"{overlaps.shape} and {mass.shape}"
        )
    if (
        abs(shares.sum() - 1) > _ROUNDING
        or min(shares.min(), overlaps.min(initial=0), mass.min(initial=0)) < -_ROUNDING
    ):
        raise InputError("shares are at least 0 and add up to 1, and overlaps and masses are at least 0")
    k, (n, l) = len(overlaps), (len(shares), len(mass))  # noqa: E741

    def drawn(generator: Generator) -> np.ndarray:
        turned = np.linalg.qr(generator.standard_normal((n, l)))[0] ** 2
        return _coarse(shares, turned[:k], shares @ turned)

    return _information(_coarse(shares, overlaps, mass), drawn, draws, seed, np.empty(0))


def _coarse(shares: np.ndarray, overlaps: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Coarse-grained law (k + 1, l + 1): the leading vectors, and one outcome for all other vectors on each side."""
    k, known = len(overlaps), shares[: len(overlaps), None] * overlaps
    table = np.zeros((k + 1, overlaps.shape[1] + 1))
    table[:k, :-1] = known
    table[:k, -1] = shares[:k] - known.sum(1)
    table[k, :-1] = mass - known.sum(0)
    table[k, -1] = shares[k:].sum() - table[k, :-1].sum()
    if table.min() < -_ROUNDING:
        raise InputError("the overlaps and masses are of no two orthonormal bases: a share of the rest is negative")
    table = np.maximum(table, 0)
    return np.asarray(table / table.sum())


def _information(
    table: np.ndarray, drawn: Callable[[Generator], np.ndarray], draws: int, seed: int, edges: np.ndarray
) -> Information:
    generator = np.random.default_rng(seed)
    null = [_mutual(drawn(generator)) for _ in range(draws)]
    low, high = np.quantile(null, _LEVELS)
    return Information(_mutual(table), _entropy(table.sum(1)), float(np.mean(null)), (float(low), float(high)), edges)


def _mutual(table: np.ndarray) -> float:
    return max(0.0, _entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(table.ravel()))


def _entropy(law: np.ndarray) -> float:
    positive = law[law > 0]
    return -float(positive @ np.log(positive))
