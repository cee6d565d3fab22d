"""Two walls about a centre, c + a_left |t - t0|^p to its left, c + a_right |t - t0|^p to its right, fitted to curves.

For given centre and exponent the model is linear in c and the walls, which are never negative. It is solved in closed
form for every centre and exponent of a grid and for all curves at once, so that there is no start to choose and no
local minimum to be caught in. A wall that would be negative is left out, which is then the best that is allowed, as the
problem is convex.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Exponents at a ratio of 3 %, from cusps to all but rectangular floors; centres at the positions and between them, as
# far as these are no more than so many, for the fits of all curves together take memory.
EXPONENTS = np.geomspace(0.5, 10.0, 101)
_MOST_CENTRES = 121


@dataclass(frozen=True)
class Walls:
    """The best fit to each of b curves.

    Attributes:
        exponent: (b,) p.
        centre: (b,) t0.
        left: (b,) a_left times its length to the power p: the rise to the first position.
        right: (b,) the rise to the last position.
        floor: (b,) c.
        misfit: (b,) root mean square of what is left, in the unit of the curves.
    """

    exponent: np.ndarray
    centre: np.ndarray
    left: np.ndarray
    right: np.ndarray
    floor: np.ndarray
    misfit: np.ndarray


def fit_walls(t: np.ndarray, curves: np.ndarray) -> Walls:
    """Fit the two walls to curves by least squares.

    Args:
        t: (m,) ascending positions.
        curves: (b, m).
    """
    grid = _grid(t.tobytes())
    centred = curves - curves.mean(axis=1, keepdims=True)
    along_left, along_right = grid.left @ centred.T, grid.right @ centred.T  # (g, b)
    only_left = np.maximum(along_left, 0) ** 2 * grid.inverse_left
    only_right = np.maximum(along_right, 0) ** 2 * grid.inverse_right
    left = (grid.right_right * along_left - grid.left_right * along_right) * grid.inverse_determinant
    right = (grid.left_left * along_right - grid.left_right * along_left) * grid.inverse_determinant
    both = np.where((left >= 0) & (right >= 0), left * along_left + right * along_right, 0.0)
    explained = np.maximum(both, np.maximum(only_left, only_right))
    best, at = explained.argmax(axis=0), np.arange(len(curves))
    gained = explained[best, at]
    takes_both = both[best, at] >= gained
    takes_left = ~takes_both & (only_left[best, at] >= gained)
    a_left = np.where(takes_both, left[best, at], takes_left * (along_left * grid.inverse_left)[best, at])
    a_right = np.where(
        takes_both, right[best, at], (~takes_both & ~takes_left) * (along_right * grid.inverse_right)[best, at]
    )
    a_left, a_right = np.maximum(a_left, 0), np.maximum(a_right, 0)
    exponent, centre = grid.exponent[best], grid.centre[best]
    remaining = np.maximum((centred**2).sum(axis=1) - gained, 0)
    return Walls(
        exponent=exponent,
        centre=centre,
        left=a_left * (centre - t[0]) ** exponent,
        right=a_right * (t[-1] - centre) ** exponent,
        floor=curves.mean(axis=1) - a_left * grid.mean_left[best] - a_right * grid.mean_right[best],
        misfit=np.sqrt(remaining / len(t)),
    )


@dataclass(frozen=True)
class _Grid:
    """The two columns of the model, less their means, for every centre and exponent, and their products (g, 1)."""

    exponent: np.ndarray
    centre: np.ndarray
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


@lru_cache(maxsize=8)
def _grid(positions: bytes) -> _Grid:
    t = np.frombuffer(positions)
    between = (t[1:] + t[:-1]) / 2
    places = np.sort(np.append(t, between))
    places = places[np.linspace(0, len(places) - 1, min(len(places), _MOST_CENTRES)).round().astype(int)]
    centre, exponent = (each.ravel() for each in np.meshgrid(places, EXPONENTS))
    offset = t - centre[:, None]
    left, right = (np.maximum(side, 0) ** exponent[:, None] for side in (-offset, offset))
    mean_left, mean_right = left.mean(axis=1), right.mean(axis=1)
    left, right = left - mean_left[:, None], right - mean_right[:, None]
    ll, rr, lr = (
        (one * other).sum(axis=1, keepdims=True) for one, other in ((left, left), (right, right), (left, right))
    )
    return _Grid(
        exponent, centre, left, right, mean_left, mean_right, ll, rr, lr,
        _inverse(ll), _inverse(rr), _inverse(ll * rr - lr**2, 1e-12 * ll * rr),
    )  # fmt: skip


def _inverse(values: np.ndarray, least: np.ndarray | float = 0.0) -> np.ndarray:
    """1 / x where x is above ``least``, else 0: a column that isn't there explains nothing."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > least)
