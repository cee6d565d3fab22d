"""Read folders of ``torch.distributed.checkpoint``: pieces of tensors in several files, and a pickle that locates them.

torch's own reader unpickles whatever the folder names. Here each object that describes a tensor becomes a `_Described`,
which only holds values. Sizes and dtypes stay; every other object becomes a `LeftOut`, which does nothing.
"""

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.checkpoint.files import files_in
from landscape.checkpoint.scan import refuse_bombs
from landscape.checkpoint.stand_ins import LeftOut
from landscape.errors import InputError
from landscape.reporting.messages import cause, listed

_METADATA = ".metadata"
_AGAIN = "copy the whole folder again or take an earlier checkpoint"
_LARGEST = 2**28  # bytes of the pickle
_MOST_UNPACKED = 10  # times the bytes of a piece


class _Described:
    """Stand-in for an object of ``torch.distributed.checkpoint.metadata``: its attributes, or its pickled state."""

    state: Any = None

    def __init__(self, *_: object) -> None:
        """Ignore the arguments; ``__setstate__`` gets the values."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"its {_METADATA} doesn't say {name}")


class _Unpickler(pickle.Unpickler):
    """Unpickler that builds only sizes, dtypes and stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        known = getattr(torch, name, None) if module == "torch" else None
        if known is torch.Size or isinstance(known, torch.dtype):
            return known
        return _Described if module.startswith("torch.distributed.checkpoint.") else LeftOut


def is_sharded(path: Path) -> bool:
    """Whether a path is a folder that ``torch.distributed.checkpoint`` wrote."""
    return os.path.isfile(path / _METADATA)  # false for a too long name, where Path.is_file raises


class Sharded:
    """A folder that ``torch.distributed.checkpoint`` wrote.

    Attributes:
        path: path of the folder.
        files: paths of all files that are read.

    Raises:
        InputError: the folder's pickle is damaged, or names files that aren't in the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        described = self._described()
        try:
            self._kept = dict(described.state_dict_metadata)
            self._paths = described.planner_data
            self._places = {
                (index.fqn, _tuple(vars(index).get("offset"))): place for index, place in described.storage_data.items()
            }
            names = sorted({str(place.relative_path) for place in self._places.values()})
        except Exception as error:  # damaged bytes raise nearly every type there is
            raise self._damaged(error) from error
        self.files = [path / _METADATA, *files_in(path, names, path / _METADATA)]

    def load(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The saved dictionaries and lists, with every tensor assembled, and a note on objects left out.

        Raises:
            InputError: the folder is damaged, or its pieces are packed by extensions.
        """
        whole: dict[str, Any] = {}
        left: list[str] = []
        try:
            self._refuse_larger_than_its_files()
            for name, kept in self._kept.items():
                try:
                    whole[name] = self._tensor(name, kept) if "chunks" in vars(kept) else self._read(name, None)
                except pickle.UnpicklingError:  # an object that the safe loader doesn't build
                    left.append(name)
            content = _nested(whole, self._paths)
        except InputError:
            raise
        except Exception as error:
            raise self._damaged(error) from error
        note = f"left out other entries of the checkpoint, because reading them would run code: {listed(left)}"
        return content, (note,) if left else ()

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: is damaged as a distributed checkpoint ({cause(error)}); {_AGAIN}")

    def _described(self) -> Any:
        file = self.path / _METADATA
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file}: has {file.stat().st_size:,} bytes, too many for a list of tensors; {_AGAIN}")
        content = file.read_bytes()
        try:
            refuse_bombs(io.BytesIO(content))
            return _Unpickler(io.BytesIO(content)).load()
        except InputError as error:
            raise InputError(f"{file}: its pickle {error}, as no checkpoint's does; {_AGAIN}") from error
        except Exception as error:
            raise self._damaged(error) from error

    def _refuse_larger_than_its_files(self) -> None:
        sizes = [(each.size, each.properties.state[0]) for each in self._kept.values() if "chunks" in vars(each)]
        needed = sum(size.numel() * dtype.itemsize for size, dtype in sizes)
        stored = sum(file.stat().st_size for file in self.files)
        if needed > stored:
            raise ValueError(f"its tensors have {needed:,} bytes, its files {stored:,}")

    def _tensor(self, name: str, kept: Any) -> Tensor:
        """A tensor, assembled from its pieces."""
        whole = torch.empty(kept.size, dtype=kept.properties.state[0])
        covered = 0
        for chunk in kept.chunks:
            piece, place = self._read(name, tuple(chunk.offsets)), whole
            for dimension, (offset, length) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                place = place.narrow(dimension, offset, length)
            if piece.shape != place.shape:
                raise ValueError(f"a piece of {name} has the wrong shape")
            place.copy_(piece)
            covered += piece.numel()
        if covered != whole.numel():
            raise ValueError(f"the pieces of {name} have {covered:,} of its {whole.numel():,} numbers")
        return whole

    def _read(self, name: str, offset: tuple[int, ...] | None) -> Any:
        """One piece of a tensor, or an object that isn't a tensor."""
        place = self._places[name, offset]
        if vars(place).get("transform_descriptors"):
            raise InputError(
                f"{self.path}: has packed pieces, which landscape-probe doesn't read; save the "
                "checkpoint without extensions"
            )
        with (self.path / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            content = file.read(place.length)
        if len(content) != place.length:
            raise ValueError(f"{place.relative_path} is cut short")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(record.file_size for record in archive.infolist()) > _MOST_UNPACKED * len(content):
                raise ValueError(f"a piece of {name} would unpack to more than it should")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tuple(offset: torch.Size | None) -> tuple[int, ...] | None:
    return None if offset is None else tuple(offset)


def _nested(values: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]] | None) -> dict[str, Any]:
    """Nest values along their paths of keys; a dictionary with only integer keys becomes a list."""
    root: dict[Any, Any] = {}
    for name, value in values.items():
        *above, final_key = (paths or {}).get(name, (name,))
        place = root
        for key in above:
            place = place.setdefault(key, {})
        place[final_key] = value
    return {key: _with_lists(value) for key, value in root.items()}


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items = {key: _with_lists(each) for key, each in value.items()}
    numbered = bool(items) and all(isinstance(key, int) for key in items)
    return [items[key] for key in sorted(items)] if numbered else items
