"""The files that a checkpoint is made of, by which it is known, and whether they stay what they are."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from landscape.errors import InputError
from landscape.wording import cause, listed

_LARGEST_INDEX = 2**26


def shards_of(folder: Path, single: str = "model.safetensors") -> list[Path]:
    """The files in a folder that together hold a model's weights; none where there are no such files.

    Args:
        folder: as Hugging Face has it.
        single: the file's name where there is one; that of the index of several begins with it.

    Raises:
        InputError: the index that names them is damaged, or names files that aren't in the folder.
    """
    index = folder / f"{single}.index.json"
    if not index.is_file():
        return [folder / single] if (folder / single).is_file() else []
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise InputError(f"{index}: has {index.stat().st_size:,} bytes, which is no index")
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index}: can't be read as an index of files ({cause(error)}); save the model again"
        ) from error
    if wrong := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
        raise InputError(f"{index}: names {listed(map(repr, wrong))}, not in {folder}; copy the whole folder again")
    return [folder / name for name in names]


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
