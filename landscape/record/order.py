"""The order of a run's checkpoints, and of the rows that are theirs."""

from __future__ import annotations

import math
import re
from pathlib import PurePath


def place_in_run(step: int | None, path: str | PurePath) -> tuple[float, list[int | str]]:
    """What checkpoints are ordered by: their stored step, unknown ones last, then their names, numbers as numbers."""
    words = re.split(r"(\d+)", str(path))
    return math.inf if step is None else step, [int(word) if word.isdigit() else word for word in words]
