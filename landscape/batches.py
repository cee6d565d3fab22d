"""The data a problem is posed on: read once, kept, split into micro-batches, and named by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.wording import without_addresses


def map_tensors(
    function: Callable[[Tensor], Any], batch: Any, other: Callable[[Any], Any] = lambda value: value
) -> Any:
    """The same nesting of tuples, lists and mappings, ``function`` applied to tensors and ``other`` to the rest."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value, other) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        items = [map_tensors(function, item, other) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)  # a namedtuple
    return other(batch)


def _told(value: Any) -> Any:
    """An array by its bytes, since it prints shortened; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Every tensor in a nesting of tuples, lists and mappings, depth first."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_in(value)
    elif isinstance(batch, tuple | list):
        for item in batch:
            yield from tensors_in(item)


def samples_in(batch: Any) -> int:
    """The number of samples of a batch: the leading dimension of its first tensor that has one."""
    return next(len(tensor) for tensor in tensors_in(batch) if tensor.ndim)


def shape_of(batch: Any) -> str:
    """What two batches have in common where tensors of one can take the places of the other's."""
    return repr(map_tensors(lambda each: f"{each.dtype} {tuple(each.shape)} {each.stride()}", batch, _told))


def refilled(batch: Any, tensors: Iterable[Tensor]) -> Any:
    """The same nesting with other tensors, in the order of `tensors_in`."""
    rest = iter(tensors)
    return map_tensors(lambda _: next(rest), batch)


def of_all_batches(batches: list[Any], count: int) -> int:
    """What was counted on the first batch, scaled to all by the number of samples."""
    return count * sum(map(samples_in, batches)) // samples_in(batches[0])


def freeze(batches: Iterable[Any], device: torch.device, dtype: torch.dtype) -> list[Any]:
    """Read the batches once, on ``device``, floating-point tensors as ``dtype``.

    Raises:
        InputError: not iterable, empty, a batch without samples, not finite, or larger than half the machine's memory.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise InputError(f"batches must be a list or loader of batches, not {type(batches).__name__}")
    limit = psutil.virtual_memory().total // 2
    frozen: list[Any] = []
    size = 0
    for index, batch in enumerate(batches):
        if not next((len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 0):
            raise InputError(f"batch {index} holds no samples: it needs a tensor with a leading sample dimension")
        if not all(bool(t.isfinite().all()) for t in tensors_in(batch) if t.dtype.is_floating_point):
            raise InputError(f"batch {index} of the data holds NaN or infinite values; clean the data first")
        size += sum(tensor.nbytes for tensor in tensors_in(batch))
        if size > limit:
            raise InputError(
                f"the batches need more than {limit / 1e9:.0f} GB, half this machine's memory, after {index} batches; "
                "pass a fixed subset"
            )
        frozen.append(convert(batch, device, dtype))
    if not frozen:
        raise InputError("there are no batches: the list or loader is empty (an iterator that was already used up?)")
    return frozen


def convert(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A copy of a batch on a device, floating-point tensors of a type: loaders may fill the same memory again."""

    def copy(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    return map_tensors(copy, batch)


def select(batch: Any, index: Tensor) -> Any:
    """The samples of a batch at some places; tensors without the sample dimension are shared."""
    samples = samples_in(batch)
    return map_tensors(lambda t: t[index.to(t.device)] if t.ndim and len(t) == samples else t, batch)


def split(batch: Any, size: int) -> list[Any]:
    """A batch as micro-batches of at most ``size`` samples; tensors without the sample dimension are shared.

    Raises:
        InputError: ``size`` isn't positive.
    """
    if size < 1:
        raise InputError(f"the batch size must be at least 1, not {size}")
    return [part(batch, start, start + size) for start in range(0, samples_in(batch), size)]


def part(batch: Any, start: int, stop: int) -> Any:
    """Some samples of a batch in a row, as views; tensors without the sample dimension are shared."""
    samples = samples_in(batch)
    return map_tensors(lambda t: t[start:stop] if t.ndim and len(t) == samples else t, batch)


def bounds(samples: int, rank: int, size: int) -> tuple[int, int]:
    """The first and the end of the samples of a batch that a process has; shares differ by at most one."""
    return samples * rank // size, samples * (rank + 1) // size


def digest(batches: list[Any]) -> str:
    """SHA-256 of everything in the batches, in order: tensors by type, shape and bytes, the rest as it prints.

    Addresses in what prints are left out: an object that prints its own has another each time.
    """
    sha = hashlib.sha256()
    for batch in batches:
        sha.update(without_addresses(repr(map_tensors(lambda _: "tensor", batch, _told))).encode())
        for tensor in tensors_in(batch):
            sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            sha.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
