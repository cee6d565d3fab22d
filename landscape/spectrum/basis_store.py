"""The vectors of a basis as rows, where there is room for them: on the operator's device, in host memory or in a file.

Everything done with a basis is a sum over columns or goes column by column. So what is in a file is read in blocks of
columns, and processes that have no room for all share the columns: what is added up over columns is added up over them.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, final

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.machine.memory import half_of_memory
from landscape.machine.processes import SINGLE_PROCESS, Processes
from landscape.reporting.messages import amount
from landscape.spectrum.products import LEAST_SQUARED, norm

Place = Literal["device", "host memory", "file"]

# Columns that are overwritten at a time in memory, so that this takes no second basis; bytes of a block in a file.
_COLUMNS = 1 << 16
_BYTES = 1 << 25
# How much a last pass of Gram-Schmidt may still take away, by what it leaves, and how many pairs of passes there are at
# most; see `BasisStore.orthogonalise`.
_SHARE = 0.01
_ROUNDS = 10


class _Store(Protocol):
    """Vectors as rows of a table, read and written in blocks of columns.

    Attributes:
        place: where it is.
        device: where what is read is.
        width: columns that are read at a time.
        piece: columns that are overwritten at a time.
    """

    place: Place
    device: torch.device
    width: int
    piece: int

    def read(self, rows: slice, columns: slice) -> Tensor: ...

    def write(self, rows: slice, columns: slice, values: Tensor) -> None: ...


@final
class _InMemory:
    def __init__(self, capacity: int, dim: int, dtype: torch.dtype, device: torch.device, place: Place) -> None:
        # All at once, as growing would hold an old and a new basis: a CPU gives pages when they are written to, and
        # what a GPU gives is bounded by the capacity.
        self._rows = torch.empty((capacity, dim), device=device, dtype=dtype)
        self.place, self.device = place, device
        self.width, self.piece = dim, _COLUMNS

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
        self._folder, size = _folder_for_large_files(), capacity * dim * dtype.itemsize
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        try:
            _reserve(self._file.fileno(), size)
        except OSError as error:
            raise InputError(
                f"a basis of {capacity} vectors of {dim:,} numbers takes {amount(size)}; neither the memory that is "
                f"left for it nor {self._folder} has room ({error.strerror}): ask for less, allow more memory, or set "
                "TMPDIR to a larger disk"
            ) from None
        self._capacity, self._dim = capacity, dim
        self._numpy = torch.empty(0, dtype=dtype).numpy().dtype
        self.width = self.piece = max(1, _BYTES // (capacity * dtype.itemsize))

    def read(self, rows: slice, columns: slice) -> Tensor:
        parts = [self._part(rows, block) for block in self._blocks(columns)]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def write(self, rows: slice, columns: slice, values: Tensor) -> None:
        for block in self._blocks(columns):
            self._seek(rows, block)
            part = values[:, block.start - columns.start : block.stop - columns.start]
            view = part.to("cpu").contiguous().numpy().data.cast("B")
            try:
                while view:  # the system may take a part at a time
                    view = view[self._file.write(view) :]
            except OSError as error:
                raise InputError(f"the basis can't be written to {self._folder}: {error.strerror}") from None

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
        part = np.fromfile(self._file, self._numpy, count * width)
        if len(part) < count * width:
            raise InputError(f"the basis can't be read back from {self._folder}: the file is too short")
        return torch.from_numpy(part.reshape(count, width))


def _folder_for_large_files() -> Path:
    """Where TMPDIR says, or /var/tmp, as /tmp is often held in memory."""
    usual = Path("/var/tmp")
    return usual if "TMPDIR" not in os.environ and os.access(usual, os.W_OK) else Path(tempfile.gettempdir())


def _reserve(file: int, size: int) -> None:
    """Have a disk keep so much for a file, where it can be asked to."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)


def _store(
    capacity: int, dim: int, dtype: torch.dtype, device: torch.device, memory: int | None, largest: int
) -> _Store:
    """A store for vectors of a share's length, in a place that fits the largest share."""
    size = capacity * largest * dtype.itemsize
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


def _subtract(rest: Tensor, block: Tensor, parts: Tensor) -> None:
    """Take a combination of a block's rows from vectors (width,) or (width, l), in place."""
    (rest.addmv_ if rest.ndim == 1 else rest.addmm_)(block.T, parts, alpha=-1)


class BasisStore:
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
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.size = 0
        self._capacity, self._dim, self._dtype, self._device = capacity, dim, dtype, device
        too_large = memory is not None and capacity * dim * dtype.itemsize > memory
        self.shared = too_large and 1 < processes.size <= dim
        self._processes = processes if self.shared else SINGLE_PROCESS
        self._own = self._processes.share(dim)
        self._length = self._own.stop - self._own.start
        self._latest: tuple[int, Tensor] | None = None  # added last, whole
        largest = math.ceil(dim / self._processes.size)
        self._store = _store(capacity, self._length, dtype, device, memory, largest)
        self.place = self._store.place

    def __getitem__(self, index: int) -> Tensor:
        """(n,): one vector, not to be changed."""
        if self._latest is not None and self._latest[0] == index:
            return self._latest[1]
        return self._joined(self._read(index).to(self._device))

    def stacked(self, count: int | None = None) -> Tensor:
        """(n, count): a copy of the first ones as columns, by default of all."""
        count = self.size if count is None else count
        copied = torch.empty((self._length, count), device=self._device, dtype=self._dtype)
        for columns, block in self._blocks(0, count):
            copied[columns] = block.T.to(self._device)
        return self._joined(copied)

    def append(self, vector: Tensor) -> int:
        """Add a vector (n,) and return its index."""
        self.extend(vector.unsqueeze(1))
        if self.shared:  # it is what is multiplied next
            self._latest = self.size - 1, vector
        return self.size - 1

    def extend(self, vectors: Tensor) -> None:
        """Add vectors (n, l)."""
        assert self.size + vectors.shape[1] <= self._capacity, "no more than there is room for"
        self._write(self.size, vectors[self._own].T)
        self.size += vectors.shape[1]

    def swap(self, i: int, j: int) -> None:
        """Exchange two vectors."""
        self._latest = None
        one = self._read(i).clone()
        self._write(i, self._read(j).unsqueeze(0))
        self._write(j, one.unsqueeze(0))

    def split(self, vectors: Tensor, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Split vectors into their part in the span and the rest, by two passes of Gram-Schmidt.

        What the rest still has in the span is rounding of the *vectors*: little by their lengths, but by its own length
        only where `orthogonalise` says so. While a block is there, what the first pass leaves in its columns is
        multiplied with it for the second: a file is read three times, not four.

        Args:
            vectors: (n,) or (n, l).
            count: of the first so many vectors; by default of all.

        Returns:
            The coefficients (count,) or (count, l) in float64; the rest, of the shape of ``vectors``; and those of the
            coefficients that the second pass found, of the coefficients' shape.
        """
        count = self.size if count is None else count
        rest = vectors[self._own].to(self._store.device, copy=True)
        dots = torch.zeros((count, *rest.shape[1:]), dtype=torch.float64, device=self._store.device)
        again = torch.zeros_like(dots)
        for columns, block in self._blocks(0, count):
            dots += block @ rest[columns]
        first = self._total(dots).to(self._dtype)  # as it is subtracted, so that the second pass knows what is left
        for columns, block in self._blocks(0, count):
            _subtract(rest[columns], block, first)
            again += block @ rest[columns]
        second = self._total(again).to(self._dtype)
        for columns, block in self._blocks(0, count):
            _subtract(rest[columns], block, second)
        found = second.to(self._device, torch.float64)
        return first.to(found) + found, self._joined(rest.to(self._device)), found

    def orthogonalise(self, vector: Tensor) -> tuple[np.ndarray, Tensor | None, float]:
        """A vector v (n,) as Q c + l u, with u a unit vector that is orthogonal to Q at the level of rounding.

        Let D = Q^T Q - I, and let a pass of Gram-Schmidt take d = Q^T r from a vector r and leave r'. What r' still has
        in the span is

            Q^T r' = -D d + O(eps ||r||),    and    ||r||^2 = ||r'||^2 + ||d||^2,

        but for rounding. By the length of r' that is at most ||D|| share + O(eps), where share is ||d|| / ||r'||: what
        the pass found of what it left. So the pass itself tells how orthogonal its result is (the criterion of Daniel,
        Gragg, Kaufman and Stewart 1976). With share at most 1/100 a vector more makes a Frobenius norm of D at most

            ||D'||^2 <= ||D||^2 + 2 (||D|| / 100 + O(eps))^2:

        over hundreds of vectors it stays at O(eps) sqrt(m).

        "Twice is enough" (Giraud, Langou and Rozloznik 2005) holds for a vector that isn't nearly in the span. A
        product with a multiple of the identity is: the first pass leaves a vector of length ||D|| ||A||, and the
        second leaves ||D||^2 ||A|| in the span, beside a rest of length 4 eps ||A||. Once ||D|| exceeds 4 eps, every
        such step squares it, and within ten steps ||D|| is about 1. So where the share is larger, the rest is
        normalised and split again. Its part in the span goes to c, so that v = Q c + l u holds to the rounding of v.

        Numbers below the smallest normal one are rounded by more than their share, which counts as taken away too.

        Returns:
            c (size,), u (n,), and l. No u where l is zero or not finite, or every pass leaves rounding in the span.
        """
        coefficients, length = np.zeros(self.size), 1.0
        follow_noise = math.sqrt(self._dim) * max(torch.finfo(self._dtype).tiny, LEAST_SQUARED)
        for _ in range(_ROUNDS):
            within, rest, found = self.split(vector)
            host = torch.cat([within, torch.stack([norm(rest), norm(found)])]).cpu().numpy()  # one transfer a step
            left, taken = float(host[-2]), float(host[-1])
            coefficients += length * host[:-2]
            length *= left
            if taken + follow_noise <= _SHARE * left:
                return coefficients, rest / left, length
            if not 0 < left < math.inf:
                break
            vector = rest / math.sqrt(left) / math.sqrt(left)  # as the smallest numbers' reciprocals overflow
        return coefficients, None, length

    def combine_in_float64(self, coordinates: np.ndarray) -> Tensor:
        """The combinations (n, l) in float64 with coordinates (m, l) of the first m vectors."""
        weights = torch.as_tensor(coordinates, device=self._store.device, dtype=torch.float64)
        combined = torch.zeros((self._length, weights.shape[1]), device=self._store.device, dtype=torch.float64)
        for columns, block in self._blocks(0, len(weights), self._store.piece):
            combined[columns] = block.T.to(torch.float64) @ weights
        return self._joined(combined.to(self._device))

    def combine(self, coordinates: np.ndarray, first: int = 0) -> Tensor:
        """The combinations (n, l) with coordinates (m, l) of m vectors, from the one of index ``first`` on."""
        weights = self._weights(coordinates)
        combined = torch.zeros((self._length, weights.shape[1]), device=self._store.device, dtype=self._dtype)
        for columns, block in self._blocks(first, first + len(weights)):
            combined[columns].addmm_(block.T, weights)  # in place, as there may be no room for it twice
        return self._joined(combined.to(self._device))

    def replace(self, coordinates: np.ndarray) -> None:
        """Put l combinations, with coordinates (size, l), in the place of all vectors, block by block."""
        weights, self._latest = self._weights(coordinates), None
        for columns, block in self._blocks(0, self.size, self._store.piece):
            self._store.write(slice(0, weights.shape[1]), columns, weights.T @ block)
        self.size = weights.shape[1]

    def defect(self) -> float:
        """Max |Q Q^T - I| over all vectors."""
        gram = torch.zeros((self.size, self.size), dtype=torch.float64, device=self._store.device)
        for _, block in self._blocks(0, self.size):
            gram += block @ block.T
        return float(np.abs(self._total(gram).cpu().numpy() - np.eye(self.size)).max(initial=0.0))

    def _total(self, part: Tensor) -> Tensor:
        """What the processes have, added up, on the store's device."""
        return self._processes.total(part.to(self._device)).to(self._store.device)

    def _joined(self, own: Tensor) -> Tensor:
        """Whole vectors of the parts that the processes have."""
        if not self.shared:
            return own
        whole = own.new_zeros((self._dim, *own.shape[1:]))
        whole[self._own] = own
        return self._processes.total(whole)

    def _blocks(self, start: int, stop: int, width: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Columns of this process's, and these vectors' part in them, (stop - start, width)."""
        width = width or self._store.width
        for begin in range(0, self._length, width):
            columns = slice(begin, min(begin + width, self._length))
            yield columns, self._store.read(slice(start, stop), columns)

    def _read(self, index: int) -> Tensor:
        """This process's part of a vector."""
        return self._store.read(slice(index, index + 1), slice(0, self._length))[0]

    def _write(self, index: int, own: Tensor) -> None:
        """This process's part (l, width) of vectors from an index on."""
        self._store.write(slice(index, index + len(own)), slice(0, self._length), own)

    def _weights(self, coordinates: np.ndarray) -> Tensor:
        return torch.as_tensor(coordinates, device=self._store.device, dtype=self._dtype)
