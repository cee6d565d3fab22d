"""Mutual information between the spectra of two successive checkpoints, in two readings, each beside its null.

The paper (Gong, Teng and Liu 2025, arXiv 2510.10089) follows it over training; how it estimates it isn't public. Two
readings suggest themselves:

- *rank-paired*: the i-th eigenvalue before and the i-th one after are taken for n draws of a pair. As both are sorted,
  the pairs lie on a monotone curve whatever the spectra have to do with each other: two unrelated matrices with these
  spectra have exactly this value. The null, of two independent spectra of one shape (the eigenvalues of both, dealt at
  random to either), says what is there without any relation; beyond it two spectra are more alike than that.
- *joint law*: p_i <v_i, v'_j>^2 with p_i = |lambda_i| / sum_j |lambda_j| is a law of pairs of eigenvectors, the squared
  amplitudes of one basis in the other. It is large where eigenvectors stay what they are and small where they mix; its
  null are bases turned at random.

All in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from landscape.dynamics.spectra import checked_spectrum
from landscape.errors import InputError

_LEVELS = (0.025, 0.975)
_ROUNDING = 1e-4  # by which shares may miss being a law: overlaps are of eigenvectors in single precision


@dataclass(frozen=True)
class Information:
    """A mutual information with its null.

    Attributes:
        value: in nats, at least 0.
        most: the entropy of the law after, which the value can't exceed.
        null: its mean where there is no relation.
        null_interval: 95 % of the draws of the null.
        edges: of the bins, in the units of the eigenvalues; empty for the joint law, which has none.
    """

    value: float
    most: float
    null: float
    null_interval: tuple[float, float]
    edges: np.ndarray


def rank_paired_information(
    before: np.ndarray, after: np.ndarray, floor: float, *, bins: int = 32, draws: int = 200, seed: int = 0
) -> Information:
    """Mutual information of the eigenvalues of two spectra, paired by rank, on bins that both share.

    The bins are equally wide in asinh(lambda / floor): logarithmic for either sign above the floor, and linear within
    it, where eigenvalues can't be told from zero. They span both spectra.

    Args:
        before: (n,) eigenvalues.
        after: (n,) eigenvalues.
        floor: positive, what an eigenvalue must exceed to be told from zero, in their units.
        bins: how many.
        draws: of the null: all eigenvalues dealt at random to two spectra, which is exact for spectra of one shape.
        seed: of the draws.

    Raises:
        InputError: the spectra are of different lengths or aren't finite, or the floor isn't positive.
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

    All eigenvectors but the leading ones are one outcome on either side, so that the value is at most that of the
    whole law (the data-processing inequality); with all eigenvectors leading it is that value.

    Args:
        shares: (n,) p_i, adding up to 1, those of the k leading eigenvectors first.
        squared_overlaps: (k, l) <v_i, v'_j>^2 with the l leading eigenvectors of the checkpoint before.
        mass_on_previous: (l,) sum_i p_i <v_i, v'_j>^2 over all n.
        draws: of the null: the l vectors turned at random in the whole space.
        seed: of the draws.

    Raises:
        InputError: the arguments are no law.
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
    """The law (k + 1, l + 1) of the leading vectors and the rest."""
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
    some = law[law > 0]
    return -float(some @ np.log(some))
