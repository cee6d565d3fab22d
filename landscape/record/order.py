"""The order of a run's checkpoints, and of the rows that are theirs."""

from __future__ import annotations

import math
import re
from pathlib import PurePath


def place_in_run(step: int | None, path: str | PurePath) -> tuple[float, list[int | str], str]:
    """What checkpoints are ordered by: their stored step, unknown ones last, then their names, numbers as numbers.

    Where these are equal, as of w1.pt and w01.pt, the text decides, so that the order isn't that of being named.
    """
    words = re.split(r"(\d+)", str(path))  # every second one is a number; a text may be a digit that is none, such as ²
    return (
        math.inf if step is None else step,
        [int(word) if place % 2 else word for place, word in enumerate(words)],
        str(path),
    )
