"""The request of a run: which measurements on which checkpoints, and a fingerprint that identifies the request."""

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
    """One line of JSON with sorted keys; NumPy values and paths are allowed.

    Equal values give equal text.

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
    """Measurements that are asked for, and the checkpoints of each.

    Attributes:
        settings: settings of each measurement, such as ``{"eigenpairs": {"k": 10, "which": "LM"}}``.
        checkpoints: sha256 of the checkpoints of each measurement, in the order of the record's rows.
        common: settings common to all measurements: problem, its arguments, sha256 of the data, dtype.
    """

    settings: Mapping[str, Mapping[str, Any]]
    checkpoints: Mapping[str, tuple[str, ...]]
    common: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse names and digests that could not name a group or a file."""
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
        """A request for every measurement on every checkpoint; a checkpoint that is named twice is measured once."""
        once = tuple(dict.fromkeys(checkpoints))
        return cls(settings, dict.fromkeys(settings, once), common)

    @classmethod
    def from_plain(cls, stored: Mapping[str, Any]) -> Request:
        """The request in the form that `plain` returns.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: ``stored`` is something else.
        """
        measurements = stored["measurements"]
        return cls(
            {name: each["settings"] for name, each in measurements.items()},
            {name: tuple(each["checkpoints"]) for name, each in measurements.items()},
            stored["common"],
        )

    def plain(self) -> dict[str, Any]:
        """The request as dictionaries and lists, the form in which records store it."""
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
        """All units of the request, one measurement after the other."""
        return [(name, sha) for name in self.settings for sha in self.checkpoints[name]]

    def covers(self, other: Request) -> bool:
        """Whether this request has every unit of the other, without conflicts."""
        return not self.conflicts(other) and set(other.units) <= set(self.units)

    def union(self, other: Request) -> Request:
        """Both requests together: the rows of this one first, then the new rows of the other.

        Raises:
            InputError: a measurement in both has different settings, or the common settings differ.
        """
        return Request.joint([self, other])

    @classmethod
    def joint(cls, requests: Iterable[Request]) -> Request:
        """All requests together: the rows of the first, then the new rows of the next, and so on.

        Raises:
            InputError: a measurement in two of them has different settings, or the common settings differ; or there is
                no request.
        """
        common: Mapping[str, Any] | None = None
        settings: dict[str, Mapping[str, Any]] = {}
        checkpoints: dict[str, dict[str, None]] = {}
        for request in requests:
            common = request.common if common is None else common
            if conflicts := cls(settings, dict.fromkeys(settings, ()), common).conflicts(request):
                raise InputError("; ".join(conflicts))
            for name in request.settings:
                settings.setdefault(name, request.settings[name])
                checkpoints.setdefault(name, {}).update(dict.fromkeys(request.checkpoints[name]))
        if common is None:
            raise InputError("there is no request")
        return cls(settings, {name: tuple(each) for name, each in checkpoints.items()}, common)

    def conflicts(self, other: Request) -> list[str]:
        """Differences that keep two requests from sharing a record, such as "hessian k is 5 there and 10 here".

        "There" is this request, and "here" is the other.
        """
        shared = [name for name in self.settings if name in other.settings]
        conflicts = _differences("", self.common, other.common)
        for name in shared:
            conflicts += _differences(name, self.settings[name], other.settings[name])
        return conflicts

    def only(self, units: Container[Unit]) -> Request:
        """The part of this request that asks for these units."""
        kept = {
            name: tuple(sha for sha in checkpoints if (name, sha) in units)
            for name, checkpoints in self.checkpoints.items()
        }
        kept = {name: checkpoints for name, checkpoints in kept.items() if checkpoints}
        return Request({name: self.settings[name] for name in kept}, kept, self.common)


def _differences(prefix: str, there: Any, here: Any) -> list[str]:
    """Differences leaf by leaf, as JSON: a tuple equals a list, and a NumPy number equals Python's."""
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
