"""The order of a run's checkpoints, and of their rows in a record."""

from __future__ import annotations

import math
import re
from pathlib import PurePath


def place_in_run(step: int | None, path: str | PurePath) -> tuple[float, list[int | str], str]:
    """Sort key of a checkpoint: its step, unknown steps last, then its path, with numbers compared as numbers.

    Between equal keys, as of w1.pt and w01.pt, the text of the path decides. The order thus doesn't depend on the order
    in which the checkpoints were named.
    """
    words = re.split(r"(\d+)", str(path))  # every second word is a number; isdigit would also take a text such as ²
    return (
        math.inf if step is None else step,
        [int(word) if place % 2 else word for place, word in enumerate(words)],
        str(path),
    )
