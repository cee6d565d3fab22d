"""The vectors of a basis as rows, where there is room for them: on the operator's device, in host memory or in a file.

What a solver does with a basis reads all of it, so everything here goes over blocks of columns: a block is in a cache,
or has been read from the file, when it is used for the second time. Several processes share the columns where one has
no room for all: what is added up over columns is added up over processes too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, final

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.memory import half_of_memory
from landscape.parallel import ALONE, Processes
from landscape.spectrum.products import norm
from landscape.wording import amount

Place = Literal["device", "host memory", "file"]

# Columns of a block: of ten vectors it is in a core's cache, or keeps a GPU busy for longer than it takes to start.
_COLUMNS = {"cpu": 1 << 16}
_COLUMNS_ON_GPU = 1 << 20
# Bytes of a block in a file.
_BYTES = 1 << 25


class _Store(Protocol):
    """Vectors as rows of a table, read and written in blocks of columns.

    Attributes:
        place: where it is.
        device: where what is read is.
        width: columns of a block.
    """

    place: Place
    device: torch.device
    width: int

    def read(self, rows: slice, columns: slice) -> Tensor: ...

    def write(self, rows: slice, columns: slice, values: Tensor) -> None: ...


@final
class _InMemory:
    def __init__(self, capacity: int, dim: int, dtype: torch.dtype, device: torch.device, place: Place) -> None:
        # All at once, as growing would hold an old and a new basis: a CPU gives pages when they are written to, and
        # what a GPU gives is bounded by the capacity.
        self._rows = torch.empty((capacity, dim), device=device, dtype=dtype)
        self.place, self.device = place, device
        self.width = _COLUMNS.get(device.type, _COLUMNS_ON_GPU)

    def read(self, rows: slice, columns: slice) -> Tensor:
        return self._rows[rows, columns]

    def write(self, rows: slice, columns: slice, values: Tensor) -> None:
        self._rows[rows, columns] = values


@final
class _InFile:
    """Block by block, so that what is read together lies together; the file has no name and ends with the process.

    Raises:
        InputError: the disk has no room for it.
    """

    place: Place = "file"
    device = torch.device("cpu")

    def __init__(self, capacity: int, dim: int, dtype: torch.dtype) -> None:
        folder, size = _folder_for_large_files(), capacity * dim * dtype.itemsize
        free = shutil.disk_usage(folder).free
        if size > free:
            raise InputError(
                f"a basis of {capacity} vectors of {dim:,} parameters takes {amount(size)}; neither the memory that is "
                f"left for it nor {folder}, with {amount(free)}, has room: ask for less, allow more memory, or set "
                "TMPDIR to a larger disk"
            )
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._capacity, self._dim = capacity, dim
        self._numpy = torch.empty(0, dtype=dtype).numpy().dtype
        self.width = max(1, _BYTES // (capacity * dtype.itemsize))

    def read(self, rows: slice, columns: slice) -> Tensor:
        parts = [self._part(rows, block) for block in self._blocks(columns)]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def write(self, rows: slice, columns: slice, values: Tensor) -> None:
        for block in self._blocks(columns):
            self._seek(rows, block)
            part = values[..., block.start - columns.start : block.stop - columns.start]
            try:
                self._file.write(part.to("cpu").contiguous().numpy().data)
            except OSError as error:
                raise InputError(f"the basis doesn't fit on the disk of {_folder_for_large_files()}: {error}") from None

    def _blocks(self, columns: slice) -> Iterator[slice]:
        """The columns, which begin with a block, block by block."""
        for start in range(columns.start, columns.stop, self.width):
            yield slice(start, min(start + self.width, columns.stop))

    def _seek(self, rows: slice, block: slice) -> int:
        """Go to the block's part of the first of the rows; returns its length."""
        width = min(self.width, self._dim - block.start)
        assert block.stop - block.start == width, "whole blocks alone lie together"
        self._file.seek((block.start * self._capacity + rows.start * width) * self._numpy.itemsize)
        return width

    def _part(self, rows: slice, block: slice) -> Tensor:
        width, count = self._seek(rows, block), rows.stop - rows.start
        return torch.from_numpy(np.fromfile(self._file, self._numpy, count * width).reshape(count, width))


def _folder_for_large_files() -> Path:
    """Where TMPDIR says, or /var/tmp, as /tmp is often held in memory."""
    usual = Path("/var/tmp")
    return usual if "TMPDIR" not in os.environ and os.access(usual, os.W_OK) else Path(tempfile.gettempdir())


def _store(capacity: int, dim: int, dtype: torch.dtype, device: torch.device, memory: int | None) -> _Store:
    size = capacity * dim * dtype.itemsize
    if memory is None or size <= memory:
        return _InMemory(capacity, dim, dtype, device, "device")
    cpu = torch.device("cpu")
    if device != cpu and size <= half_of_memory(cpu):
        return _InMemory(capacity, dim, dtype, cpu, "host memory")
    return _InFile(capacity, dim, dtype)


def outside(vectors: Tensor, rows: Tensor) -> Tensor:
    """The part of vectors (..., n) outside the span of orthonormal rows (m, n), in two passes: one leaves rounding."""
    for _ in range(2):
        vectors = vectors - (vectors @ rows.T) @ rows
    return vectors


class Rows:
    """Orthonormal vectors, kept where there is room for them.

    Args:
        capacity: the most there may be.
        dim: n.
        dtype: of all vectors.
        device: where what comes in is, and what goes out.
        memory: bytes that they may take there; None for any number.
        processes: that make the same calls in the same order, and share the vectors where these take more memory.

    Attributes:
        size: how many there are.
        place: where they are.
        shared: whether each process has a part of every vector.

    Raises:
        InputError: there is no room for them, not in a file either.
    """

    def __init__(
        self,
        capacity: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
        memory: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.size = 0
        self._dim, self._dtype, self._device = dim, dtype, device
        self.shared = processes.size > 1 and memory is not None and capacity * dim * dtype.itemsize > memory
        self._processes = processes if self.shared else ALONE
        self._own = self._processes.share(dim)
        self._store = _store(capacity, self._own.stop - self._own.start, dtype, device, memory)
        self.place = self._store.place

    def __getitem__(self, index: int) -> Tensor:
        """(n,): one vector, not to be changed."""
        own = self._store.read(slice(index, index + 1), slice(0, self._own.stop - self._own.start))[0]
        return self._joined(own.to(self._device))

    def stacked(self, count: int | None = None) -> Tensor:
        """(count, n): a copy of the first ones, by default of all."""
        blocks = [block.to(self._device) for _, block in self._blocks(count)]
        return self._joined(torch.cat(blocks, 1).T).T

    def append(self, vector: Tensor) -> int:
        """Add a vector (n,) and return its index."""
        self.size += 1
        self._put(self.size - 1, vector)
        return self.size - 1

    def swap(self, i: int, j: int) -> None:
        """Exchange two vectors."""
        one, other = self[i].clone(), self[j]
        self._put(i, other)
        self._put(j, one)

    def split(self, vectors: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Split vectors into their part in the span and the rest, by two passes of Gram-Schmidt.

        "Twice is enough" (Giraud, Langou and Rozloznik 2005) for orthogonality at the level of rounding. While a block
        is there, what the first pass leaves in its columns is multiplied with it for the second: three readings, not
        four.

        Args:
            vectors: (n,) or (n, l).
            count: of the first so many vectors; by default of all.

        Returns:
            The coefficients (count,) or (count, l) in float64, and the rest, of the shape of ``vectors``.
        """
        rest = vectors[self._own].to(self._store.device, copy=True)
        first = self._dots(rest, count)
        parts, second = first.to(self._dtype), torch.zeros_like(first)
        for columns, block in self._blocks(count):
            rest[columns] -= block.T @ parts
            second += block @ rest[columns]
        parts = self._processes.total(second).to(self._dtype)
        for columns, block in self._blocks(count):
            rest[columns] -= block.T @ parts
        return (first + second).to(self._device), self._joined(rest.to(self._device))

    def orthogonalise(self, vector: Tensor) -> tuple[np.ndarray, Tensor, float]:
        """`split` a vector (n,).

        Returns:
            The coefficients (size,), the rest (n,), and its norm.
        """
        coefficients, rest = self.split(vector)
        host = torch.cat([coefficients, norm(rest).unsqueeze(0)]).cpu().numpy()  # one transfer a step
        return host[:-1], rest, float(host[-1])

    def combine(self, coordinates: np.ndarray) -> Tensor:
        """The combinations (n, l) of the first m vectors with coordinates (m, l)."""
        weights = self._weights(coordinates)
        shape = self._own.stop - self._own.start, weights.shape[1]
        combined = torch.empty(shape, device=self._device, dtype=self._dtype)
        for columns, block in self._blocks(len(weights)):
            combined[columns] = (block.T @ weights).to(self._device)
        return self._joined(combined)

    def replace(self, coordinates: np.ndarray) -> None:
        """Put l combinations, with coordinates (size, l), in the place of all vectors, block by block."""
        weights = self._weights(coordinates)
        for columns, block in self._blocks():
            self._store.write(slice(0, weights.shape[1]), columns, weights.T @ block)
        self.size = weights.shape[1]

    def defect(self) -> float:
        """Max |Q Q^T - I| over all vectors."""
        gram = torch.zeros((self.size, self.size), dtype=torch.float64, device=self._store.device)
        for _, block in self._blocks():
            gram += block @ block.T
        return float((self._processes.total(gram) - torch.eye(self.size).to(gram)).abs().max())

    def _dots(self, vectors: Tensor, count: int | None) -> Tensor:
        """Inner products in float64 with this process's part of vectors, on the store's device."""
        shape = (self.size if count is None else count, *vectors.shape[1:])
        dots = torch.zeros(shape, dtype=torch.float64, device=self._store.device)
        for columns, block in self._blocks(count):
            dots += block @ vectors[columns]
        return self._processes.total(dots)

    def _joined(self, own: Tensor) -> Tensor:
        """Whole vectors of the parts that the processes have."""
        if not self.shared:
            return own
        whole = own.new_zeros((self._dim, *own.shape[1:]))
        whole[self._own] = own
        return self._processes.total(whole)

    def _blocks(self, count: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Columns of this process's and the first vectors' part in them, (count, width)."""
        dim = self._own.stop - self._own.start
        for start in range(0, dim, self._store.width):
            columns = slice(start, min(start + self._store.width, dim))
            yield columns, self._store.read(slice(0, self.size if count is None else count), columns)

    def _put(self, index: int, vector: Tensor) -> None:
        own = vector[self._own]
        self._store.write(slice(index, index + 1), slice(0, len(own)), own.unsqueeze(0))

    def _weights(self, coordinates: np.ndarray) -> Tensor:
        return torch.as_tensor(coordinates, device=self._store.device, dtype=self._dtype)
