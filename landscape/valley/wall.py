"""Least-squares fits of two walls to curves: c + a_left w(t0 - t) left of the centre t0, c + a_right w(t - t0) right.

The walls w are powers, w(d) = d^p, or bowls: round at the floor, w ~ d^2, and flatter further away. For a given centre
and wall the model is linear in c and in the heights a_left and a_right, which must not be negative. The model is solved
in closed form for every centre and wall of a grid and for all curves at once. So the fit needs no initial values and
can't end in a local minimum. A wall whose best height is negative is left out. That is the best allowed fit, because
the problem is convex.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Exponents in steps of 3 %, from cusps to almost rectangular floors. Centres are the positions and the midpoints
# between them, but no more than this number, because fits of all curves at once take memory.
EXPONENTS = np.geomspace(0.5, 10.0, 101)
_MOST_CENTRES = 121
# Radii of a bowl's floor in units of half the profile's length, from a hole to almost a parabola; one for each side.
_RADII = np.geomspace(0.1, 3.0, 8)
_BOWLS = (
    lambda x: 1 - np.exp(-(x**2)),
    lambda x: x**2 / (1 + x**2),
    lambda x: np.log1p(x**2),
)


@dataclass(frozen=True)
class Walls:
    """The best fit to each of b curves.

    Attributes:
        exponent: exponent p, (b,).
        centre: centre t0, (b,).
        left: rise to the first position, (b,): a_left times the left wall's length to the power p.
        right: rise to the last position, (b,): a_right times the right wall's length to the power p.
        floor: floor c, (b,).
        misfit: root mean square of the fit's residuals, (b,), in the unit of the curves.
        fitted: fitted values, (b, m).
    """

    exponent: np.ndarray
    centre: np.ndarray
    left: np.ndarray
    right: np.ndarray
    floor: np.ndarray
    misfit: np.ndarray
    fitted: np.ndarray


def fit_walls(t: np.ndarray, curves: np.ndarray, exponents: np.ndarray = EXPONENTS) -> Walls:
    """Fit two power walls to each curve by least squares.

    Args:
        t: ascending positions, (m,).
        curves: curves, (b, m).
        exponents: exponents of the grid, (e,); default `EXPONENTS`.
    """
    centres, powers, columns = _powers(t.tobytes(), exponents.tobytes())
    best, a_left, a_right = columns.solve(curves)
    exponent, centre, fitted = powers[best], centres[best], columns.at(best, a_left, a_right, curves)
    return Walls(
        exponent=exponent,
        centre=centre,
        left=a_left * (centre - t[0]) ** exponent,
        right=a_right * (t[-1] - centre) ** exponent,
        floor=curves.mean(axis=1) - a_left * columns.mean_left[best] - a_right * columns.mean_right[best],
        misfit=np.sqrt(((curves - fitted) ** 2).mean(axis=1)),
        fitted=fitted,
    )


def fit_bowls(t: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """The fitted values (b, m) of the best bowl for each curve.

    Bowls have one of three forms: 1 - exp(-x^2), x^2 / (1 + x^2), or log(1 + x^2), with x = |t - t0| / s. Each side has
    its own radius s. So one side may be a plateau while the other is not.

    Args:
        t: ascending positions from -1 to 1, (m,).
        curves: curves, (b, m).
    """
    columns = _bowls(t.tobytes())
    return columns.at(*columns.solve(curves), curves)


@dataclass(frozen=True)
class _Columns:
    """The two columns (g, m) of each of g linear models, centred, with their means (g,) and their products (g, 1)."""

    left: np.ndarray
    right: np.ndarray
    mean_left: np.ndarray
    mean_right: np.ndarray
    left_left: np.ndarray
    right_right: np.ndarray
    left_right: np.ndarray
    inverse_left: np.ndarray
    inverse_right: np.ndarray
    inverse_determinant: np.ndarray

    @classmethod
    def of(cls, left: np.ndarray, right: np.ndarray) -> _Columns:
        mean_left, mean_right = left.mean(axis=1), right.mean(axis=1)
        left, right = left - mean_left[:, None], right - mean_right[:, None]
        ll, rr, lr = (
            (one * other).sum(axis=1, keepdims=True) for one, other in ((left, left), (right, right), (left, right))
        )
        return cls(
            left, right, mean_left, mean_right, ll, rr, lr,
            _inverse(ll), _inverse(rr), _inverse(ll * rr - lr**2, 1e-12 * ll * rr),
        )  # fmt: skip

    def solve(self, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The index (b,) of the best model of each curve (b, m), and the heights (b,) of its two walls."""
        centred = curves - curves.mean(axis=1, keepdims=True)
        along_left, along_right = self.left @ centred.T, self.right @ centred.T  # (g, b)
        only_left = np.maximum(along_left, 0) ** 2 * self.inverse_left
        only_right = np.maximum(along_right, 0) ** 2 * self.inverse_right
        left = (self.right_right * along_left - self.left_right * along_right) * self.inverse_determinant
        right = (self.left_left * along_right - self.left_right * along_left) * self.inverse_determinant
        both = np.where((left >= 0) & (right >= 0), left * along_left + right * along_right, 0.0)
        explained = np.maximum(both, np.maximum(only_left, only_right))
        best, at = explained.argmax(axis=0), np.arange(len(curves))
        gained = explained[best, at]
        takes_both = both[best, at] >= gained
        takes_left = ~takes_both & (only_left[best, at] >= gained)
        a_left = np.where(takes_both, left[best, at], takes_left * (along_left * self.inverse_left)[best, at])
        a_right = np.where(
            takes_both, right[best, at], (~takes_both & ~takes_left) * (along_right * self.inverse_right)[best, at]
        )
        return best, np.maximum(a_left, 0), np.maximum(a_right, 0)

    def at(self, best: np.ndarray, a_left: np.ndarray, a_right: np.ndarray, curves: np.ndarray) -> np.ndarray:
        """The fitted values (b, m) of a solution of `solve`."""
        walls = a_left[:, None] * self.left[best] + a_right[:, None] * self.right[best]
        return np.asarray(curves.mean(axis=1, keepdims=True) + walls)


@lru_cache(maxsize=8)
def _powers(positions: bytes, exponents: bytes) -> tuple[np.ndarray, np.ndarray, _Columns]:
    t = np.frombuffer(positions)
    centre, exponent = (each.ravel() for each in np.meshgrid(_centres(t, _MOST_CENTRES), np.frombuffer(exponents)))
    offset = t - centre[:, None]
    left, right = (np.maximum(side, 0) ** exponent[:, None] for side in (-offset, offset))
    return centre, exponent, _Columns.of(left, right)


@lru_cache(maxsize=2)  # each entry has a model for every pair of radii, form and centre
def _bowls(positions: bytes) -> _Columns:
    t = np.frombuffer(positions)
    centres = _centres(t, _MOST_CENTRES // 2)
    before, after = np.maximum(centres[:, None] - t, 0), np.maximum(t - centres[:, None], 0)
    pairs = list(itertools.product(_RADII, _RADII))
    left = [bowl(before / radius) for bowl in _BOWLS for radius, _ in pairs]
    right = [bowl(after / radius) for bowl in _BOWLS for _, radius in pairs]
    return _Columns.of(np.concatenate(left), np.concatenate(right))


def _centres(t: np.ndarray, most: int) -> np.ndarray:
    places = np.sort(np.append(t, (t[1:] + t[:-1]) / 2))
    return np.asarray(places[np.linspace(0, len(places) - 1, min(len(places), most)).round().astype(int)])


def _inverse(values: np.ndarray, least: np.ndarray | float = 0.0) -> np.ndarray:
    """1 / x where x is above ``least``, else 0, because a column that is zero explains nothing."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > least)
