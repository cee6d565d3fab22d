"""How far an estimator has come, told as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Progress:
    """Where an estimator stands.

    Attributes:
        phase: what it is doing: of a solve ``iterating``, ``verifying`` or ``searching`` (for missed copies).
        products: made so far, or whatever else is ``counted``.
        residuals: (k,) estimated relative residuals of the wanted Ritz pairs; (0,) where nothing is solved for.
        fraction: of the work that is done, as far as it can be judged.
        counted: what ``products`` are, where they are something else.
    """

    phase: str
    products: int
    residuals: np.ndarray
    fraction: float
    counted: str = "products"


def part(tell: Callable[[Progress], None], start: float, stop: float, name: str = "") -> Callable[[Progress], None]:
    """What a part of the work calls, which is all from one fraction to another; its name goes before its phases."""

    def tell_whole(at: Progress) -> None:
        phase = f"{name}: {at.phase}" if name else at.phase
        tell(replace(at, phase=phase, fraction=start + (stop - start) * at.fraction))

    return tell_whole
