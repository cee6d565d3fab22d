"""The batches of a problem: read once, kept, split into micro-batches, and identified by a hash."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from landscape.errors import InputError
from landscape.reporting.messages import without_addresses

Count = Callable[[Any], int]
"""The number of samples of a batch."""


@dataclass(frozen=True)
class Counted:
    """A batch whose samples are counted by the user's function.

    Attributes:
        content: the batch as the user gave it.
        samples: number of samples in the batch.
    """

    content: Any
    samples: int


def content(batch: Any) -> Any:
    """The batch as the user gave it."""
    return batch.content if isinstance(batch, Counted) else batch


def _opened(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]] | None:
    """Open a container: its items, and a function that rebuilds the container from other items.

    Containers are tuples, lists, mappings, packed sequences, dataclasses, and objects with ``clone`` and ``apply``,
    such as those of torch_geometric. Any other value gives None.
    """
    if isinstance(value, Mapping):
        return list(value.values()), lambda items: dict(zip(value, items, strict=True))
    if isinstance(value, PackedSequence):  # batch sizes stay on the CPU
        return list(value), lambda items: PackedSequence(items[0], items[1].cpu(), *items[2:])
    if isinstance(value, tuple | list):
        kind: Any = type(value)
        return list(value), lambda items: kind(*items) if hasattr(value, "_fields") else kind(items)  # a namedtuple
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]

        def rebuilt(items: list[Any]) -> Any:
            other = copy.copy(value)
            for name, item in zip(names, items, strict=True):
                object.__setattr__(other, name, item)  # a frozen dataclass refuses setattr
            return other

        return [getattr(value, name) for name in names], rebuilt
    if not isinstance(value, type) and callable(getattr(value, "clone", None)) and hasattr(value, "apply"):
        tensors: list[Any] = []

        def collected(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor

        def refilled_with(items: list[Any]) -> Any:
            replacements = iter(items)
            return value.clone().apply(lambda _: next(replacements))

        value.clone().apply(collected)
        return tensors, refilled_with
    return None


def map_tensors(
    function: Callable[[Tensor], Any], batch: Any, other: Callable[[Any], Any] = lambda value: value
) -> Any:
    """Rebuild a nesting of containers with ``function`` applied to tensors and ``other`` to all other values."""
    if isinstance(batch, Tensor):
        return function(batch)
    opened = _opened(batch)
    if opened is None:
        return other(batch)
    items, rebuilt = opened
    return rebuilt([map_tensors(function, item, other) for item in items])


def outline(batch: Any, tensor: Callable[[Tensor], str] = lambda _: "tensor") -> str:
    """A nesting of containers as text: a word for each tensor, a hash for each array, ``repr`` for other values."""
    return repr(_outlined(batch, tensor))


def _outlined(batch: Any, tensor: Callable[[Tensor], str]) -> Any:
    if isinstance(batch, Tensor):
        return tensor(batch)
    if isinstance(batch, np.ndarray):  # the repr of a large array is shortened
        return f"{batch.dtype} {batch.shape} {hashlib.sha256(batch.tobytes()).hexdigest()}"
    opened = _opened(batch)
    if opened is None:
        return batch
    items, rebuilt = opened
    outlined = [_outlined(item, tensor) for item in items]
    plain = isinstance(batch, Mapping | tuple | list) and not isinstance(batch, PackedSequence)
    return rebuilt(outlined) if plain else (type(batch).__name__, *outlined)


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Every tensor in a nesting of containers, depth first."""
    if isinstance(batch, Tensor):
        yield batch
    elif (opened := _opened(batch)) is not None:
        for item in opened[0]:
            yield from tensors_in(item)


def strided(tensor: Tensor) -> tuple[Tensor, ...]:
    """Strided tensors with the indices and the values of a sparse tensor; the tensor itself if it is strided."""
    if tensor.layout is torch.strided:
        return (tensor,)
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def strided_in(batch: Any) -> Iterator[Tensor]:
    """The strided tensors of every tensor of a batch, see `strided`."""
    return (part for tensor in tensors_in(batch) for part in strided(tensor))


def _first_count(batch: Any) -> int | None:
    """Number of samples by the first item of a batch that has a number; None if no item has one."""
    if isinstance(batch, Counted):
        return batch.samples
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else None
    items = (_opened(batch) or ([], None))[0]
    return next((count for count in map(_first_count, items) if count is not None), None)


def samples_in(batch: Any) -> int:
    """Number of samples of a batch: the user's count, or the leading dimension of the first tensor that has one."""
    return _first_count(batch) or 0


def shape_of(batch: Any) -> str:
    """Outline of a batch with the `signature` of each tensor; batches of equal outline can exchange their tensors."""
    return outline(batch, signature)


def signature(tensor: Tensor) -> str:
    """Type, shape and strides (or sparse layout) of a tensor; tensors of equal signature can replace each other."""
    stride = tensor.stride() if tensor.layout is torch.strided else tensor.layout
    return f"{tensor.dtype} {tuple(tensor.shape)} {stride}"


def refilled(batch: Any, tensors: Iterable[Tensor]) -> Any:
    """Rebuild a nesting of containers with other tensors, in the order of `tensors_in`."""
    replacements = iter(tensors)
    return map_tensors(lambda _: next(replacements), batch)


def of_all_batches(batches: list[Any], count: int) -> int:
    """Scale a count on the first batch to all batches, by the number of samples."""
    return count * sum(map(samples_in, batches)) // samples_in(batches[0])


def freeze(batches: Iterable[Any], device: torch.device, dtype: torch.dtype, count: Count | None = None) -> list[Any]:
    """Read the batches once, and copy them to ``device`` with floating-point tensors as ``dtype``.

    Args:
        batches: a list or a loader.
        device: device of the copies.
        dtype: type of floating-point tensors.
        count: function that counts the samples of a batch; default: the leading dimension of its first tensor.

    Raises:
        InputError: the batches aren't iterable or are empty, a batch has no samples, the data aren't finite, or they
            need more than half the machine's memory.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise InputError(f"batches must be a list or loader of batches, not {type(batches).__name__}")
    limit = psutil.virtual_memory().total // 2
    frozen: list[Any] = []
    size = 0
    for index, raw in enumerate(batches):
        batch = _with_count(raw, index, count)
        if not samples_in(batch):
            raise InputError(
                f"batch {index} holds no samples: it needs a tensor with a leading sample dimension, or define the "
                "number of samples by Problem(..., count=function)"
            )
        if not all(bool(t.isfinite().all()) for t in strided_in(batch) if t.dtype.is_floating_point):
            raise InputError(f"batch {index} of the data holds NaN or infinite values; clean the data first")
        size += sum(tensor.nbytes for tensor in strided_in(batch))
        if size > limit:
            raise InputError(
                f"the batches need more than {limit / 1e9:.0f} GB, half this machine's memory, after {index} batches; "
                "pass a fixed subset"
            )
        frozen.append(convert(batch, device, dtype))
    if not frozen:
        raise InputError("there are no batches: the list or loader is empty (an iterator that was already used up?)")
    return frozen


def _with_count(batch: Any, index: int, count: Count | None) -> Any:
    if count is None:
        return batch
    samples = count(batch)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
        raise InputError(f"count(batch) gives {samples!r} for batch {index}; it must give the number of its samples")
    return Counted(batch, samples)


def convert(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Copy a batch to a device, with floating-point tensors as ``dtype``.

    Every tensor is copied, since a loader may reuse its memory for the next batch.
    """

    def copied(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        return _as_leaf(tensor, tensor.detach().to(device, kind, copy=True))

    return map_tensors(copied, batch)


def _as_leaf(given: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` as a leaf, which requires a gradient if ``given`` does: a loss may differentiate by its input."""
    return tensor.detach().requires_grad_() if given.requires_grad else tensor


def select(batch: Any, index: Tensor) -> Any:
    """Samples of a batch at the places in ``index``; tensors and lists that aren't by sample are shared.

    A tensor is by sample if its first dimension is the number of samples. Where the user's function counts samples, a
    list with as many items is by sample too.
    """
    return _taken(batch, samples_in(batch), index)


def _taken(batch: Any, samples: int, index: Tensor, counted: bool = False) -> Any:
    if isinstance(batch, Tensor):
        return _as_leaf(batch, _rows(batch, index)) if batch.ndim and len(batch) == samples else batch
    if isinstance(batch, Counted):
        return Counted(_taken(batch.content, samples, index, True), len(index))
    opened = None if isinstance(batch, PackedSequence) else _opened(batch)
    if opened is None:
        return batch
    items, rebuilt = opened
    if counted and isinstance(batch, list) and len(batch) == samples and not _by_sample(items, samples):
        return [items[place] for place in index.tolist()]
    return rebuilt([_taken(item, samples, index, counted) for item in items])


def _by_sample(items: list[Any], samples: int) -> bool:
    """Whether every item of a list is a tensor over all samples, and so no item stands for one sample."""
    return all(isinstance(each, Tensor) and each.ndim > 0 and len(each) == samples for each in items)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Rows of a tensor, as a view where the rows are consecutive."""
    if tensor.layout is torch.sparse_coo:
        return tensor.index_select(0, index.to(tensor.device))
    if tensor.layout is not torch.strided:
        return tensor
    start, stop = int(index[0]), int(index[-1]) + 1
    if len(index) == stop - start and bool((index == torch.arange(start, stop)).all()):
        return tensor[start:stop]
    return tensor[index.to(tensor.device)]


def split(batch: Any, size: int) -> list[Any]:
    """Split a batch into micro-batches of at most ``size`` samples; tensors that aren't by sample are shared.

    Raises:
        InputError: ``size`` isn't positive.
    """
    if size < 1:
        raise InputError(f"the batch size must be at least 1, not {size}")
    return [part(batch, start, start + size) for start in range(0, samples_in(batch), size)]


def part(batch: Any, start: int, stop: int) -> Any:
    """Samples ``start`` to ``stop`` of a batch, as views; see `select`."""
    return select(batch, torch.arange(start, min(stop, samples_in(batch))))


def bounds(samples: int, rank: int, size: int) -> tuple[int, int]:
    """Start and stop of a process's shard of ``samples`` samples; shards differ by at most one sample."""
    return samples * rank // size, samples * (rank + 1) // size


def digest(batches: list[Any]) -> str:
    """SHA-256 of the batches in order: tensors by type, shape and bytes, other values as `outline` prints them.

    Samples that the user's function counted are hashed too, since another count means other samples.

    Memory addresses in a ``repr`` are left out, since they differ in every process.
    """
    sha = hashlib.sha256()
    for batch in batches:
        sha.update(without_addresses(outline(content(batch))).encode())
        if isinstance(batch, Counted):
            sha.update(f"{batch.samples} samples".encode())
        for tensor in strided_in(batch):
            sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
