"""The files that a checkpoint is made of, by which it is known, and whether they stay what they are."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from landscape.errors import InputError
from landscape.reporting.messages import cause, listed

_LARGEST_INDEX = 2**26


def shards_of(folder: Path, single: str = "model.safetensors") -> list[Path]:
    """The files in a folder that together hold a model's weights; none where there are no such files.

    Args:
        folder: as Hugging Face has it.
        single: the name of the one file, which is taken where it is there, as transformers takes it; else the name of
            the index of several begins with it.

    Raises:
        InputError: the index that names them is damaged, or names files that aren't in the folder.
    """
    if (folder / single).is_file():
        return [folder / single]
    index = folder / f"{single}.index.json"
    return shards_in(folder, index) if index.is_file() else []


def shards_in(folder: Path, index: Path) -> list[Path]:
    """The files in a folder that an index names.

    Raises:
        InputError: the index is damaged, or names files that aren't in the folder.
    """
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise InputError(f"{index}: has {index.stat().st_size:,} bytes, which is no index")
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index}: can't be read as an index of files ({cause(error)}); save the model again"
        ) from error
    return files_in(folder, names, index)


def files_in(folder: Path, names: Sequence[object], named_in: Path) -> list[Path]:
    """The files in a folder, or in folders of it, that a file of settings or an index names.

    Links are followed, since a cache of Hugging Face consists of them: what counts is the content, which is in the
    digest.

    Raises:
        InputError: a name is none, leads out of the folder, or is of no file.
    """
    if wrong := [name for name in names if not (_stays_inside(name) and os.path.isfile(folder / str(name)))]:
        raise InputError(f"{named_in}: names {listed(map(repr, wrong))}, not in {folder}; copy the whole folder again")
    return [folder / str(name) for name in names]


def _stays_inside(name: object) -> bool:
    return isinstance(name, str) and not (Path(name).is_absolute() or Path(name).drive or ".." in Path(name).parts)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several that of their names and digests."""
    found = []
    for path in files:
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(found) == 1:
        return found[0]
    lines = (f"{path.name}:{each}\n" for path, each in zip(files, found, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def identity(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    """What changes when somebody writes one of the files."""
    return [(status.st_ino, status.st_size, status.st_mtime_ns) for status in (path.stat() for path in files)]
