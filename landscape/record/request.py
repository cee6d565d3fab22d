"""What a run was asked to measure, and the fingerprint that tells one request from another."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from landscape.errors import InputError

Unit = tuple[str, str]
"""One measurement on one checkpoint: (name of the measurement, sha256 of the checkpoint)."""

_MEASUREMENT = re.compile(r"[a-z][a-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def to_json(value: Any) -> str:
    """One line of JSON with sorted keys, so that equal values give equal text; NumPy values and paths are allowed.

    Raises:
        TypeError: the value holds something that JSON has no form for.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be stored as JSON")


@dataclass(frozen=True)
class Request:
    """Which measurements are asked for, on which checkpoints.

    Attributes:
        settings: for each measurement its settings, such as ``{"eigenpairs": {"k": 10, "which": "LM"}}``.
        checkpoints: for each measurement the sha256 of its checkpoints, in the order of the record's rows.
        common: what holds for all of them: problem, its arguments, sha256 of the data, dtype.
    """

    settings: Mapping[str, Mapping[str, Any]]
    checkpoints: Mapping[str, tuple[str, ...]]
    common: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse names that could not name a group or a file."""
        if self.settings.keys() != self.checkpoints.keys():
            raise ValueError("settings and checkpoints must name the same measurements")
        if bad := [name for name in self.settings if not _MEASUREMENT.fullmatch(name)]:
            raise ValueError(f"{bad[0]!r} is no name for a measurement: use lower-case letters, digits and _")
        if bad := [sha for _, sha in self.units if not _SHA256.fullmatch(sha)]:
            raise ValueError(f"{bad[0]!r} is no sha256: 64 lower-case hexadecimal digits")

    @classmethod
    def every(
        cls, settings: Mapping[str, Mapping[str, Any]], checkpoints: Iterable[str], common: Mapping[str, Any]
    ) -> Request:
        """Every measurement on every checkpoint; a checkpoint that is named twice is measured once."""
        once = tuple(dict.fromkeys(checkpoints))
        return cls(settings, dict.fromkeys(settings, once), common)

    @classmethod
    def from_plain(cls, stored: Mapping[str, Any]) -> Request:
        """The request that ``plain`` gave.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is something else.
        """
        measurements = stored["measurements"]
        return cls(
            {name: each["settings"] for name, each in measurements.items()},
            {name: tuple(each["checkpoints"]) for name, each in measurements.items()},
            stored["common"],
        )

    def plain(self) -> dict[str, Any]:
        """As dictionaries and lists, the form in which it is stored."""
        return {
            "common": self.common,
            "measurements": {
                name: {"settings": self.settings[name], "checkpoints": self.checkpoints[name]} for name in self.settings
            },
        }

    @property
    def fingerprint(self) -> str:
        """The sha256 of the canonical JSON: equal for equal requests, whatever the order of their dictionaries."""
        return hashlib.sha256(to_json(self.plain()).encode()).hexdigest()

    @property
    def units(self) -> list[Unit]:
        """Everything that has to be measured, one measurement after the other."""
        return [(name, sha) for name in self.settings for sha in self.checkpoints[name]]

    def covers(self, other: Request) -> bool:
        """Whether nothing that the other asks for is missing here."""
        return not self.conflicts(other) and set(other.units) <= set(self.units)

    def union(self, other: Request) -> Request:
        """Both together: the rows of this one first, then the other's new ones.

        Raises:
            InputError: a measurement of both has other settings there, or what is common to all differs.
        """
        if conflicts := self.conflicts(other):
            raise InputError("; ".join(conflicts))
        names = dict.fromkeys([*self.settings, *other.settings])
        return Request(
            {name: self.settings.get(name, other.settings.get(name, {})) for name in names},
            {
                name: tuple(dict.fromkeys([*self.checkpoints.get(name, ()), *other.checkpoints.get(name, ())]))
                for name in names
            },
            self.common,
        )

    def conflicts(self, other: Request) -> list[str]:
        """What keeps the two from sharing a record: "hessian k is 5 there and 10 here", this one being there."""
        shared = [name for name in self.settings if name in other.settings]
        found = _differences("", self.common, other.common)
        for name in shared:
            found += _differences(name, self.settings[name], other.settings[name])
        return found

    def only(self, units: Container[Unit]) -> Request:
        """The part of this request that asks for these units."""
        kept = {
            name: tuple(sha for sha in checkpoints if (name, sha) in units)
            for name, checkpoints in self.checkpoints.items()
        }
        kept = {name: checkpoints for name, checkpoints in kept.items() if checkpoints}
        return Request({name: self.settings[name] for name in kept}, kept, self.common)


def _differences(prefix: str, there: Any, here: Any) -> list[str]:
    """Leaf by leaf, as JSON: a tuple and a list, or a NumPy number and Python's, are not different."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = dict.fromkeys([*there, *here])
        return [
            line
            for key in keys
            for line in _differences(f"{prefix} {key}".strip(), there.get(key, _ABSENT), here.get(key, _ABSENT))
        ]
    texts = [each if each is _ABSENT else to_json(each).strip('"') for each in (there, here)]
    return [] if texts[0] == texts[1] else [f"{prefix} is {texts[0]} there and {texts[1]} here"]


_ABSENT = "not given"
