"""The part files of a record that grows: a sequence of records whose rows follow one another by their steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from landscape.errors import InputError
from landscape.record.hdf5 import Contents, RowPlace, contents_of, members_of, opened, readable, survey
from landscape.record.merge import merge, size_of_merged
from landscape.record.parts import REQUEST, replacing, sync_folder, writing
from landscape.record.request import Request, Unit
from landscape.record.rows import GroupRows, size_of_rows, write_rows

_MOST_PARTS = 32


@dataclass(frozen=True)
class Part:
    """A record of many rows.

    Attributes:
        path: path of the file.
        request: the request for its rows alone.
        rows: place of each row.
        steps: training step of each row.
    """

    path: Path
    request: Request
    rows: dict[Unit, RowPlace]
    steps: dict[Unit, int]

    @classmethod
    def read(cls, path: Path) -> Part:
        """Read the request, the rows and the steps of a record.

        Raises:
            InputError: the file is no record or damaged.
        """
        request, rows = survey(path)
        contents, steps = {}, {}
        with opened(path) as file, readable(path):
            for name in file:
                contents[name] = contents_of(members_of(file[name]))
                steps[name] = file[name]["step"][:].tolist()
        return cls(
            path,
            request.only(rows),
            {unit: replace(row, contents=contents[unit[0]]) for unit, row in rows.items()},
            {unit: steps[unit[0]][row.position] for unit, row in rows.items()},
        )

    def contents(self) -> dict[str, Contents]:
        """Layout and lengths of each group."""
        return {name: row.contents for (name, _), row in self.rows.items() if row.contents is not None}


class PartSequence:
    """The parts of a growing record, in the order of their rows.

    A part is written under a temporary name and renamed. Each method therefore leaves, wherever its process ends, a
    folder from which `Parts` reads every row that was on disk. A row may be there twice with equal values.

    Attributes:
        parts: the parts.
    """

    def __init__(self, folder: Path) -> None:
        """Store the path; nothing is read yet."""
        self.folder = folder
        self.parts: list[Part] = []
        self._next = 0

    def read(self) -> None:
        """Read the parts that are in the folder.

        Raises:
            InputError: a part is damaged, or the folder has files of another kind of run.
        """
        self.parts = [Part.read(path) for path in self._files()]
        self._next = 1 + max((_number(part.path) for part in self.parts), default=-1)

    def _files(self) -> list[Path]:
        files = sorted(self.folder.glob("*.h5"))
        if others := [each for each in [*files, *self.folder.glob(REQUEST)] if _number(each) < 0]:
            raise InputError(f"{others[0]} is of a run of landscape-probe; finish or remove that record")
        return files

    @property
    def rows(self) -> dict[Unit, RowPlace]:
        """Place of each row."""
        return {unit: row for part in self.parts for unit, row in part.rows.items()}

    @property
    def request(self) -> Request:
        """The request for the rows of all parts; there must be a part."""
        return Request.joint([part.request for part in self.parts])

    def append(self, request: Request, groups: Mapping[str, GroupRows]) -> None:
        """Write rows as a new part, complete and on disk or not at all.

        Raises:
            InputError: the disk does not take the part.
        """
        path = self.folder / f"{_PREFIX}{self._next:08}.h5"
        with replacing(path, self.folder, size_of_rows(request, groups)) as temporary:
            write_rows(temporary, request, groups)
        rows, steps = {}, {}
        for name, group in groups.items():
            contents = group.contents
            for position, row in enumerate(group.rows):
                unit = name, row.values["sha256"]
                rows[unit], steps[unit] = RowPlace(path, position, contents), int(row.values["step"])
        self.parts.append(Part(path, request, rows, steps))
        self._next += 1
        if len(self.parts) > _MOST_PARTS:
            with suppress(InputError):  # a full disk: the rows are stored already, and the next flush tries again
                self._merge_small()

    def _merge_small(self) -> None:
        """Merge the newest parts into one, from the first part that is smaller than all after it together.

        Each part that stays has at least as many rows as those after it. A row is therefore copied as often as the
        number of rows doubles, not once for each flush.
        """
        sizes = [len(part.rows) for part in self.parts]
        after = [*accumulate(sizes[:0:-1])][::-1]  # rows after each part but the last
        first = next((place for place, later in enumerate(after) if sizes[place] < later), len(after) - 1)
        merged = self.parts[first:]
        request = Request.joint([part.request for part in merged])
        self._write_merged(merged[0].path, request, {unit: row for part in merged for unit, row in part.rows.items()})
        self.parts[first:] = [Part.read(merged[0].path)]
        for part in merged[1:]:
            part.path.unlink(missing_ok=True)

    def _write_merged(self, path: Path, request: Request, rows: Mapping[Unit, RowPlace]) -> None:
        with replacing(path, self.folder, size_of_merged(rows)) as temporary:
            merge(temporary, request, rows)

    def take(self, record: Path) -> None:
        """Make a finished record the only part; parts that it has already are removed.

        Raises:
            InputError: the folder cannot be written.
        """
        with writing(self.folder):
            for path in reversed(self._files()):
                path.unlink()
            sync_folder(self.folder)
            record.replace(self.folder / f"{_PREFIX}{0:08}.h5")
            sync_folder(self.folder)
            sync_folder(record.parent)

    def keep_before(self, step: int) -> None:
        """Drop rows at this step and later ones, and rows that an ended run left twice.

        Raises:
            InputError: the disk does not take a part that has to be written again.
        """
        first: dict[Unit, Part] = {}
        for part in self.parts:
            for unit in part.rows:
                first.setdefault(unit, part)
        kept: list[Part] = []
        for part in reversed(self.parts):
            units = {unit for unit, at in part.steps.items() if at < step and first[unit] is part}
            if len(units) == len(part.rows):
                kept.append(part)
            elif units:
                self._write_merged(part.path, part.request.only(units), {unit: part.rows[unit] for unit in units})
                kept.append(Part.read(part.path))
            else:
                with writing(self.folder):
                    part.path.unlink()
                    sync_folder(self.folder)
        self.parts = kept[::-1]
        self._next = 1 + max((_number(part.path) for part in self.parts), default=-1)


_PREFIX = "rows-"


def _number(path: Path) -> int:
    """Number of a part; -1 for another file."""
    text = path.stem.removeprefix(_PREFIX)
    return int(text) if path.stem.startswith(_PREFIX) and text.isdecimal() else -1
