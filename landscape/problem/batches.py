"""The data a problem is posed on: read once, kept, split into micro-batches, and named by a hash."""

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
    """A batch whose samples are counted by a function of the user's.

    Attributes:
        content: the batch as the user gave it.
        samples: how many there are.
    """

    content: Any
    samples: int


def content(batch: Any) -> Any:
    """The batch as the user gave it."""
    return batch.content if isinstance(batch, Counted) else batch


def _opened(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]] | None:
    """What a container holds, and what makes one like it of other contents; None for what isn't a container.

    Containers are tuples, lists, mappings, packed sequences, dataclasses, and objects with ``clone`` and ``apply``,
    as torch_geometric's are.
    """
    if isinstance(value, Mapping):
        return list(value.values()), lambda items: dict(zip(value, items, strict=True))
    if isinstance(value, PackedSequence):  # whose sizes stay on the CPU
        return list(value), lambda items: PackedSequence(items[0], items[1].cpu(), *items[2:])
    if isinstance(value, tuple | list):
        kind: Any = type(value)
        return list(value), lambda items: kind(*items) if hasattr(value, "_fields") else kind(items)  # a namedtuple
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]

        def rebuilt(items: list[Any]) -> Any:
            other = copy.copy(value)
            for name, item in zip(names, items, strict=True):
                object.__setattr__(other, name, item)  # of a frozen one too
            return other

        return [getattr(value, name) for name in names], rebuilt
    if not isinstance(value, type) and callable(getattr(value, "clone", None)) and hasattr(value, "apply"):
        held: list[Any] = []

        def collected(tensor: Tensor) -> Tensor:
            held.append(tensor)
            return tensor

        def refilled_with(items: list[Any]) -> Any:
            rest = iter(items)
            return value.clone().apply(lambda _: next(rest))

        value.clone().apply(collected)
        return held, refilled_with
    return None


def map_tensors(
    function: Callable[[Tensor], Any], batch: Any, other: Callable[[Any], Any] = lambda value: value
) -> Any:
    """The same nesting of containers, ``function`` applied to tensors and ``other`` to the rest."""
    if isinstance(batch, Tensor):
        return function(batch)
    opened = _opened(batch)
    if opened is None:
        return other(batch)
    items, rebuilt = opened
    return rebuilt([map_tensors(function, item, other) for item in items])


def outline(batch: Any, tensor: Callable[[Tensor], str] = lambda _: "tensor") -> str:
    """A nesting of containers as text, with a word for each tensor; arrays go by their bytes, the rest as it prints."""
    return repr(_outlined(batch, tensor))


def _outlined(batch: Any, tensor: Callable[[Tensor], str]) -> Any:
    if isinstance(batch, Tensor):
        return tensor(batch)
    if isinstance(batch, np.ndarray):  # which prints shortened
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
    """The tensors that hold a tensor's numbers and their places: itself, unless it is sparse."""
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
    """See `strided`, of every tensor of a batch."""
    return (part for tensor in tensors_in(batch) for part in strided(tensor))


def _first_count(batch: Any) -> int | None:
    """The samples of the first thing in a batch that has a number of them."""
    if isinstance(batch, Counted):
        return batch.samples
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    items = (_opened(batch) or ([], None))[0]
    return next((count for count in map(_first_count, items) if count is not None), None)


def samples_in(batch: Any) -> int:
    """The number of samples of a batch: by the user's count, or the leading dimension of the first tensor with one."""
    return _first_count(batch) or 0


def shape_of(batch: Any) -> str:
    """What two batches have in common where tensors of one can take the places of the other's."""
    return outline(batch, signature)


def signature(tensor: Tensor) -> str:
    """What two tensors have in common where one can take the other's place."""
    stride = tensor.stride() if tensor.layout is torch.strided else tensor.layout
    return f"{tensor.dtype} {tuple(tensor.shape)} {stride}"


def refilled(batch: Any, tensors: Iterable[Tensor]) -> Any:
    """The same nesting with other tensors, in the order of `tensors_in`."""
    rest = iter(tensors)
    return map_tensors(lambda _: next(rest), batch)


def of_all_batches(batches: list[Any], count: int) -> int:
    """What was counted on the first batch, scaled to all by the number of samples."""
    return count * sum(map(samples_in, batches)) // samples_in(batches[0])


def freeze(batches: Iterable[Any], device: torch.device, dtype: torch.dtype, count: Count | None = None) -> list[Any]:
    """Read the batches once, on ``device``, floating-point tensors as ``dtype``.

    Args:
        batches: a list or a loader.
        device: where they are wanted.
        dtype: of floating-point tensors.
        count: of the samples of a batch; default: the leading dimension of its first tensor.

    Raises:
        InputError: not iterable, empty, a batch without samples, not finite, or larger than half the machine's memory.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise InputError(f"batches must be a list or loader of batches, not {type(batches).__name__}")
    limit = psutil.virtual_memory().total // 2
    frozen: list[Any] = []
    size = 0
    for index, given in enumerate(batches):
        batch = _with_count(given, index, count)
        if not samples_in(batch):
            raise InputError(
                f"batch {index} holds no samples: it needs a tensor with a leading sample dimension, or say what a "
                "sample is by Problem(..., count=function)"
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
    """A copy of a batch on a device, floating-point tensors of a type: loaders may fill the same memory again."""

    def copied(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        return _as_leaf(tensor, tensor.detach().to(device, kind, copy=True))

    return map_tensors(copied, batch)


def _as_leaf(given: Tensor, tensor: Tensor) -> Tensor:
    """A tensor made of a given one; a loss may differentiate by it where the given one said so."""
    return tensor.detach().requires_grad_() if given.requires_grad else tensor


def select(batch: Any, index: Tensor) -> Any:
    """The samples of a batch at some places; what isn't by sample is shared.

    By sample are tensors with as many entries in their first dimension as there are samples, and where samples are
    counted by a function, lists of as many items too.
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
    """Whether a list is of things that each have all samples, rather than of a thing for each sample."""
    return all(isinstance(each, Tensor) and each.ndim > 0 and len(each) == samples for each in items)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Some rows: as a view where they are one after the other."""
    if tensor.layout is torch.sparse_coo:
        return tensor.index_select(0, index.to(tensor.device))
    if tensor.layout is not torch.strided:
        return tensor
    start, stop = int(index[0]), int(index[-1]) + 1
    if len(index) == stop - start and bool((index == torch.arange(start, stop)).all()):
        return tensor[start:stop]
    return tensor[index.to(tensor.device)]


def split(batch: Any, size: int) -> list[Any]:
    """A batch as micro-batches of at most ``size`` samples; what isn't by sample is shared.

    Raises:
        InputError: ``size`` isn't positive.
    """
    if size < 1:
        raise InputError(f"the batch size must be at least 1, not {size}")
    return [part(batch, start, start + size) for start in range(0, samples_in(batch), size)]


def part(batch: Any, start: int, stop: int) -> Any:
    """Some samples of a batch in a row, as views; see `select`."""
    return select(batch, torch.arange(start, min(stop, samples_in(batch))))


def bounds(samples: int, rank: int, size: int) -> tuple[int, int]:
    """The first and the end of the samples of a batch that a process has; shares differ by at most one."""
    return samples * rank // size, samples * (rank + 1) // size


def digest(batches: list[Any]) -> str:
    """SHA-256 of everything in the batches, in order: tensors by type, shape and bytes, the rest as it prints.

    Numbers of samples that a user's function counted are in it too: with others, samples are other things.

    Addresses in what prints are left out: an object that prints its own has another each time.
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
