"""The files of each group of runs: patterns of a shell, and the numbers in names by which runs are paired."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from landscape.errors import InputError
from landscape.reporting.messages import listed

Patterns = str | Path | Sequence[str | Path]
_ENDINGS = re.compile(r"(\.landscape)?(\.(h5|hdf5|nc))?(\.parts)?$")
_SEED = re.compile(r"seed[^0-9a-z]?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")


def files_of_groups(groups: Mapping[str, Patterns]) -> dict[str, list[Path]]:
    """The files of each group, in the order of their names, with the numbers in names compared as numbers.

    Args:
        groups: for each group a path, a pattern of a shell (``runs/looped-*.h5``), or a sequence of them.

    Raises:
        InputError: there is no group, a group has no name, a pattern matches no file, or a file is named twice.
    """
    if not groups:
        raise InputError("no group given: name at least one, such as looped='runs/looped-*.h5'")
    found: dict[str, list[Path]] = {}
    owner: dict[str, str] = {}
    for name, patterns in groups.items():
        if not name.strip():
            raise InputError("a group needs a name, such as looped='runs/looped-*.h5'")
        found[name] = []
        for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
            for path in _matching(name, str(pattern)):
                real = os.path.realpath(path)
                if real in owner:
                    where = f"in the groups {owner[real]} and {name}" if owner[real] != name else f"twice in {name}"
                    raise InputError(f"{path} is {where}: name each record once")
                owner[real] = name
                found[name].append(path)
        if not found[name]:
            raise InputError(f"the group {name} has no record: name its files, or a pattern that matches them")
    return found


def _matching(name: str, pattern: str) -> list[Path]:
    if os.path.lexists(pattern):  # a file whose name has brackets
        return [Path(pattern)]
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)), key=_in_order)
    if not paths:
        kind = "pattern matches no file" if glob.has_magic(pattern) else "file is not there"
        raise InputError(f"{pattern} of the group {name}: this {kind}; check the folder and the name")
    return paths


def _in_order(path: Path) -> list[tuple[int, int | str]]:
    words = re.split(r"(\d+)", str(path))
    return [(1, int(word)) if place % 2 else (0, word) for place, word in enumerate(words)]


def seed_of(path: Path) -> int | None:
    """The seed that a record's name gives: the number after ``seed``, else the last whole number; None without one."""
    name = _ENDINGS.sub("", path.name)
    if after := _SEED.search(name):
        return int(after[1])
    numbers = _NUMBER.findall(name)
    return int(numbers[-1]) if numbers else None


def pairing(one: Sequence[Path], other: Sequence[Path]) -> tuple[list[int], str]:
    """How the runs of two groups are paired: by the seeds in their names.

    Returns:
        For each run of the first group the position of its partner in the second group, and an empty text; or no
        positions, and the reason why the runs aren't pairs.
    """
    seeds = [[seed_of(path) for path in paths] for paths in (one, other)]
    for paths, own in zip((one, other), seeds, strict=True):
        if None in own:
            return [], f"{paths[own.index(None)].name} has no number in its name"
        if len(set(own)) < len(own):
            return [], f"{listed(path.name for path in paths)} don't have distinct numbers in their names"
    if set(seeds[0]) != set(seeds[1]):
        alone = sorted(set(seeds[0]) ^ set(seeds[1]), key=lambda seed: seed or 0)
        return [], f"seeds of one group alone: {listed(alone)}"
    if len(one) < 2:
        return [], "each group has one run"
    return [seeds[1].index(seed) for seed in seeds[0]], ""
