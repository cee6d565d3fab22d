"""Progress of an estimator while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Progress:
    """Present state of an estimator.

    Attributes:
        phase: name of the present phase; in a solve ``iterating``, ``verifying`` or ``searching`` (for missed copies).
        products: number of products so far, or of the units named by ``counted``.
        residuals: estimated relative residuals of the wanted Ritz pairs, (k,); (0,) outside a solve.
        fraction: estimated fraction of the work that is done, from 0 to 1.
        counted: name of the units in ``products``; default: products.
    """

    phase: str
    products: int
    residuals: np.ndarray
    fraction: float
    counted: str = "products"


def part(tell: Callable[[Progress], None], start: float, stop: float, name: str = "") -> Callable[[Progress], None]:
    """Callback for a part of the work from fraction ``start`` to ``stop``; ``name`` goes before its phases."""

    def tell_whole(at: Progress) -> None:
        phase = f"{name}: {at.phase}" if name else at.phase
        tell(replace(at, phase=phase, fraction=start + (stop - start) * at.fraction))

    return tell_whole
