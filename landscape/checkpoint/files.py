"""Find the files of a checkpoint, compute their digest, and notice when they change."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from landscape.errors import InputError
from landscape.reporting.messages import cause, listed

_LARGEST_INDEX = 2**26  # bytes


def shards_of(folder: Path, single: str = "model.safetensors") -> list[Path]:
    """Files in a folder that together hold a model's weights; empty if there are none.

    Args:
        folder: path of a folder in the layout of Hugging Face.
        single: name of the single weights file. If this file exists, it is taken, as transformers does. Otherwise the
            index ``{single}.index.json`` names the shards.

    Raises:
        InputError: the index is damaged, or names files that aren't in the folder.
    """
    if (folder / single).is_file():
        return [folder / single]
    index = folder / f"{single}.index.json"
    return shards_in(folder, index) if index.is_file() else []


def shards_in(folder: Path, index: Path) -> list[Path]:
    """The shards in a folder that an index names.

    Raises:
        InputError: the index is damaged, or names files that aren't in the folder.
    """
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise InputError(
                f"{index}: has {index.stat().st_size:,} bytes, too many for an index; save the model again"
            )
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{index}: can't be read as an index of files ({cause(error)}); save the model again"
        ) from error
    return files_in(folder, names, index)


def files_in(folder: Path, names: Sequence[object], named_in: Path) -> list[Path]:
    """Paths of the files in a folder or its subfolders that a settings file or an index names.

    Links are followed, because a Hugging Face cache consists of links. The digest covers the content of the linked
    file.

    Raises:
        InputError: a name isn't text, leads out of the folder, or is the name of no file.
    """
    if wrong := [name for name in names if not (_stays_inside(name) and os.path.isfile(folder / str(name)))]:
        raise InputError(f"{named_in}: names {listed(map(repr, wrong))}, not in {folder}; copy the whole folder again")
    return [folder / str(name) for name in names]


def _stays_inside(name: object) -> bool:
    return isinstance(name, str) and not (Path(name).is_absolute() or Path(name).drive or ".." in Path(name).parts)


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of one file, or of the names and digests of several files, in hexadecimal."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    lines = (f"{path.name}:{each}\n" for path, each in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def identity(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Inode, size in bytes and modification time in ns of each file; they change when somebody writes the file."""
    return [(status.st_ino, status.st_size, status.st_mtime_ns) for status in (path.stat() for path in files)]
