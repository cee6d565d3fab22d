"""The vectors of a basis as rows of a table, stored on the operator's device, in host memory or in a file.

Every operation on a basis is a sum over columns or goes column by column. So a file is read in blocks of columns.
Processes that have no room for whole vectors share the columns, and sums over columns become sums over processes.
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

# Columns that are overwritten at a time in memory: all at once would take a second basis.
_COLUMNS = 1 << 16
_BYTES = 1 << 25  # bytes of a file's block
# Limits of `BasisStore.orthogonalise`: what the last pass of Gram-Schmidt may subtract, as a share of the length that
# it leaves; and the number of pairs of passes.
_SHARE = 0.01
_ROUNDS = 10


class _Store(Protocol):
    """Vectors as rows of a table, read and written in blocks of columns.

    Attributes:
        place: where the table is.
        device: device of the tensors that `read` returns.
        width: number of columns that are read at a time.
        piece: number of columns that are overwritten at a time.
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
        # Allocated at once, because growing would hold an old and a new basis. A CPU gives pages when they are written
        # to. On a GPU the capacity bounds the memory.
        self._rows = torch.empty((capacity, dim), device=device, dtype=dtype)
        self.place, self.device = place, device
        self.width, self.piece = dim, _COLUMNS

    def read(self, rows: slice, columns: slice) -> Tensor:
        return self._rows[rows, columns]

    def write(self, rows: slice, columns: slice, values: Tensor) -> None:
        self._rows[rows, columns] = values


@final
class _InFile:
    """A table in a temporary file, stored in blocks of columns, because the blocks are read one at a time.

    The file has no name, and the system deletes it when the process ends.

    Raises:
        InputError: the disk has no room for the file.
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
        """The blocks of a range of columns; the range begins where a block begins."""
        for start in range(columns.start, columns.stop, self.width):
            yield slice(start, min(start + self.width, columns.stop))

    def _seek(self, rows: slice, block: slice) -> int:
        """Move the file's position to the first of the rows within a block; returns the block's width."""
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
    """The folder that TMPDIR names, otherwise /var/tmp if it is writable: /tmp is often in memory."""
    usual = Path("/var/tmp")
    return usual if "TMPDIR" not in os.environ and os.access(usual, os.W_OK) else Path(tempfile.gettempdir())


def _reserve(file: int, size: int) -> None:
    """Reserve ``size`` bytes of the disk for a file, on systems that can."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)


def _store(
    capacity: int, dim: int, dtype: torch.dtype, device: torch.device, memory: int | None, largest: int
) -> _Store:
    """A store for ``capacity`` rows of ``dim`` columns, this process's share, in a place where ``largest`` columns fit.

    ``largest`` is the largest share of any process, so all processes choose alike if their memory is alike.
    """
    size = capacity * largest * dtype.itemsize
    if memory is None or size <= memory:
        return _InMemory(capacity, dim, dtype, device, "device")
    cpu = torch.device("cpu")
    if device != cpu and size <= half_of_memory(cpu):
        return _InMemory(capacity, dim, dtype, cpu, "host memory")
    return _InFile(capacity, dim, dtype)


def outside(vectors: Tensor, rows: Tensor) -> Tensor:
    """The part of vectors (..., n) outside the span of orthonormal rows (m, n).

    Two passes of Gram-Schmidt, because the first leaves rounding in the span.
    """
    for _ in range(2):
        vectors = vectors - (vectors @ rows.T) @ rows
    return vectors


def _subtract(rest: Tensor, block: Tensor, parts: Tensor) -> None:
    """Subtract a combination of a block's rows from vectors (width,) or (width, l), in place."""
    (rest.addmv_ if rest.ndim == 1 else rest.addmm_)(block.T, parts, alpha=-1)


class BasisStore:
    """Orthonormal vectors, stored on the device, in host memory or in a file, wherever there is room.

    Args:
        capacity: the most vectors.
        dim: length n of the vectors.
        dtype: type of all vectors.
        device: device of the vectors that go in and come out.
        memory: bytes that the vectors may take on ``device``; None for any number.
        processes: processes that make the same calls in the same order. If the vectors take more than ``memory``, the
            processes share the columns.

    Attributes:
        size: number of vectors.
        place: where the vectors are.
        shared: whether each process has a part of every vector.

    Raises:
        InputError: neither memory nor a file has room for the vectors.
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
        self._latest: tuple[int, Tensor] | None = None  # index and whole vector of the latest `append`
        largest = math.ceil(dim / self._processes.size)
        self._store = _store(capacity, self._length, dtype, device, memory, largest)
        self.place = self._store.place

    def __getitem__(self, index: int) -> Tensor:
        """One vector, (n,); the caller must not change it."""
        if self._latest is not None and self._latest[0] == index:
            return self._latest[1]
        return self._joined(self._read(index).to(self._device))

    def stacked(self, count: int | None = None) -> Tensor:
        """A copy of the first ``count`` vectors as columns, (n, count); by default of all vectors."""
        count = self.size if count is None else count
        copied = torch.empty((self._length, count), device=self._device, dtype=self._dtype)
        for columns, block in self._blocks(0, count):
            copied[columns] = block.T.to(self._device)
        return self._joined(copied)

    def append(self, vector: Tensor) -> int:
        """Add a vector (n,) and return its index."""
        self.extend(vector.unsqueeze(1))
        if self.shared:  # the next product needs this whole vector
            self._latest = self.size - 1, vector
        return self.size - 1

    def extend(self, vectors: Tensor) -> None:
        """Add the columns of a block (n, l)."""
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
        """Split vectors into a part in the span and a remainder, by two passes of Gram-Schmidt.

        The part of the remainder that is still in the span comes from rounding of the *vectors*. That part is small
        compared with the vectors. `orthogonalise` tests whether it is also small compared with the remainder.

        The first pass subtracts a block's rows and multiplies the block for the second pass in one reading. So a file
        is read three times instead of four.

        Args:
            vectors: the vectors to split, (n,) or (n, l).
            count: how many of the first basis vectors span the space; by default all.

        Returns:
            The coefficients, (count,) or (count, l) in float64; the remainder, of the shape of ``vectors``; and the
            second pass's contribution to the coefficients, of their shape.
        """
        count = self.size if count is None else count
        remainder = vectors[self._own].to(self._store.device, copy=True)
        dots = torch.zeros((count, *remainder.shape[1:]), dtype=torch.float64, device=self._store.device)
        second_dots = torch.zeros_like(dots)
        for columns, block in self._blocks(0, count):
            dots += block @ remainder[columns]
        first = self._total(dots).to(self._dtype)  # rounded as it is subtracted: the second pass corrects that
        for columns, block in self._blocks(0, count):
            _subtract(remainder[columns], block, first)
            second_dots += block @ remainder[columns]
        second = self._total(second_dots).to(self._dtype)
        for columns, block in self._blocks(0, count):
            _subtract(remainder[columns], block, second)
        correction = second.to(self._device, torch.float64)
        return first.to(correction) + correction, self._joined(remainder.to(self._device)), correction

    def orthogonalise(self, vector: Tensor) -> tuple[np.ndarray, Tensor | None, float]:
        """Write a vector v (n,) as Q c + l u, with u a unit vector that is orthogonal to Q at the level of rounding.

        Let D = Q^T Q - I. A pass of Gram-Schmidt subtracts Q d, with d = Q^T r, from a vector r and leaves r'. The part
        of r' in the span obeys

            Q^T r' = -D d + O(eps ||r||),    and    ||r||^2 = ||r'||^2 + ||d||^2

        up to rounding. Relative to ||r'|| that part is at most ||D|| share + O(eps), where share = ||d|| / ||r'||. So
        the pass itself shows how orthogonal its result is (the criterion of Daniel, Gragg, Kaufman and Stewart 1976).
        If share is at most 1/100, one vector more gives a Frobenius norm of D of at most

            ||D'||^2 <= ||D||^2 + 2 (||D|| / 100 + O(eps))^2.

        Over hundreds of vectors ||D|| then stays at O(eps) sqrt(m).

        "Twice is enough" (Giraud, Langou and Rozloznik 2005) holds for a vector that isn't nearly in the span. A
        product with a multiple of the identity is nearly in the span. The first pass then leaves a vector of length
        ||D|| ||A||. The second leaves ||D||^2 ||A|| in the span, beside a remainder of length 4 eps ||A||. Once ||D||
        exceeds 4 eps, every such step squares ||D||, and within ten steps ||D|| is about 1.

        So where the share is larger than 1/100, the remainder is normalised and split again. The remainder's part in
        the span is added to c. So v = Q c + l u holds to the rounding of v.

        Numbers below the smallest normal number are rounded by more than eps times their size. The test therefore adds
        that rounding to ||d||.

        Returns:
            c (size,), u (n,), and l. u is None if l is zero or not finite, or if every pass leaves rounding in span Q.
        """
        coefficients, length = np.zeros(self.size), 1.0
        tiny_rounding = math.sqrt(self._dim) * max(torch.finfo(self._dtype).tiny, LEAST_SQUARED)
        for _ in range(_ROUNDS):
            within, remainder, correction = self.split(vector)
            host = torch.cat([within, torch.stack([norm(remainder), norm(correction)])]).cpu().numpy()  # one transfer
            left, taken = float(host[-2]), float(host[-1])
            coefficients += length * host[:-2]
            length *= left
            if taken + tiny_rounding <= _SHARE * left:
                return coefficients, remainder / left, length
            if not 0 < left < math.inf:
                break
            vector = remainder / math.sqrt(left) / math.sqrt(left)  # 1 / left would overflow for the smallest numbers
        return coefficients, None, length

    def combine_in_float64(self, coordinates: np.ndarray) -> Tensor:
        """Linear combinations (n, l) of the first m vectors, with coordinates (m, l), computed in float64."""
        weights = torch.as_tensor(coordinates, device=self._store.device, dtype=torch.float64)
        combined = torch.zeros((self._length, weights.shape[1]), device=self._store.device, dtype=torch.float64)
        for columns, block in self._blocks(0, len(weights), self._store.piece):
            combined[columns] = block.T.to(torch.float64) @ weights
        return self._joined(combined.to(self._device))

    def combine(self, coordinates: np.ndarray, first: int = 0) -> Tensor:
        """Linear combinations (n, l) of the m vectors from index ``first`` on, with coordinates (m, l)."""
        weights = self._weights(coordinates)
        combined = torch.zeros((self._length, weights.shape[1]), device=self._store.device, dtype=self._dtype)
        for columns, block in self._blocks(first, first + len(weights)):
            combined[columns].addmm_(block.T, weights)  # in place: there may be no room for a copy
        return self._joined(combined.to(self._device))

    def replace(self, coordinates: np.ndarray) -> None:
        """Replace all vectors by l linear combinations of them, with coordinates (size, l), block by block."""
        weights, self._latest = self._weights(coordinates), None
        for columns, block in self._blocks(0, self.size, self._store.piece):
            self._store.write(slice(0, weights.shape[1]), columns, weights.T @ block)
        self.size = weights.shape[1]

    def defect(self) -> float:
        """The largest entry of |Q Q^T - I|, with the vectors as rows of Q."""
        gram = torch.zeros((self.size, self.size), dtype=torch.float64, device=self._store.device)
        for _, block in self._blocks(0, self.size):
            gram += block @ block.T
        return float(np.abs(self._total(gram).cpu().numpy() - np.eye(self.size)).max(initial=0.0))

    def _total(self, part: Tensor) -> Tensor:
        """The sum of all processes' tensors, on the store's device."""
        return self._processes.total(part.to(self._device)).to(self._store.device)

    def _joined(self, own: Tensor) -> Tensor:
        """Whole vectors, (n,) or (n, l), put together from the processes' shares."""
        if not self.shared:
            return own
        whole = own.new_zeros((self._dim, *own.shape[1:]))
        whole[self._own] = own
        return self._processes.total(whole)

    def _blocks(self, start: int, stop: int, width: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of this process's columns: each range of columns with the vectors' entries, (stop - start, width)."""
        width = width or self._store.width
        for begin in range(0, self._length, width):
            columns = slice(begin, min(begin + width, self._length))
            yield columns, self._store.read(slice(start, stop), columns)

    def _read(self, index: int) -> Tensor:
        """This process's share of a vector."""
        return self._store.read(slice(index, index + 1), slice(0, self._length))[0]

    def _write(self, index: int, own: Tensor) -> None:
        """Store this process's share (l, width) of the vectors from an index on."""
        self._store.write(slice(index, index + len(own)), slice(0, self._length), own)

    def _weights(self, coordinates: np.ndarray) -> Tensor:
        return torch.as_tensor(coordinates, device=self._store.device, dtype=self._dtype)
