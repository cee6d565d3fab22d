"""The order in which a loader gives its samples.

Facts about samples (`Problem(..., about=...)`) belong to samples by position, so the order must be reproducible. A list
keeps its order. So does a `DataLoader` that takes its data set from the first sample to the last. The order of any
other iterable is tested where facts are given: its batches are read again and must be equal byte for byte.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)

from landscape.errors import InputError
from landscape.problem.batches import content, convert, digest, samples_in
from landscape.reporting.messages import counted

_SHUFFLING = {each.__iter__ for each in (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)}
_UNSEEN = 1e-6  # probability that a uniform shuffle isn't seen


def order_notes(
    batches: Iterable[Any], frozen: list[Any], point: tuple[torch.device, torch.dtype], labelled: bool
) -> tuple[str, ...]:
    """Note what the order of the samples means for a problem, in sentences.

    Args:
        batches: the list or loader that the problem was posed on.
        frozen: the batches as they were read.
        point: device and type of the frozen batches.
        labelled: whether facts about single samples are given, in the order of the batches.

    Raises:
        InputError: ``labelled``, and the loader shuffles or gives other batches when it is read again.
    """
    notes = _left_out(batches)
    shuffles = _shuffles(batches)
    if shuffles is False:
        return notes
    if not labelled:
        return (f"the loader {'shuffles' if shuffles else 'may shuffle'}: its batches were read once and kept", *notes)
    if shuffles:
        raise InputError("the loader shuffles, so its samples can't be matched to their attributes: give shuffle=False")
    with _random_states_kept(batches):
        for _ in range(_repetitions(frozen)):
            _refuse_other_batches(batches, frozen, point)
        return (*_order_notes(batches), *notes)


def _indexed(batches: Iterable[Any]) -> DataLoader[Any] | None:
    """The loader if it is a `DataLoader` that draws from a sampler; None for any other iterable."""
    if not isinstance(batches, DataLoader) or type(batches).__iter__ is not DataLoader.__iter__:
        return None
    return None if isinstance(batches.dataset, IterableDataset) else batches


def _shuffles(batches: Iterable[Any]) -> bool | None:
    """Whether the samples come in another order each time; None where only another reading can show it.

    A data set may transform its samples at random: the sample of an index still counts as one sample.
    """
    if type(batches) in (list, tuple):
        return False
    loader = _indexed(batches)
    if loader is None:
        return None
    if loader.num_workers and not loader.in_order:
        return True
    sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if type(sampler).__iter__ is BatchSampler.__iter__:
        sampler = sampler.sampler
    if type(sampler).__iter__ in _SHUFFLING:
        return True
    in_turn = type(sampler).__iter__ is SequentialSampler.__iter__
    return False if in_turn and loader.collate_fn in (default_collate, default_convert) else None


def _repetitions(frozen: list[Any]) -> int:
    """Number of further readings that together miss a uniform shuffle with a probability of at most 1e-6.

    A shuffle of k batches (of k samples in a single batch) repeats the first order with probability 1 / k!.
    """
    parts = len(frozen) if len(frozen) > 1 else samples_in(frozen[0])
    return math.ceil(-math.log(_UNSEEN) / math.lgamma(parts + 1)) if parts > 1 else 1


def _refuse_other_batches(batches: Iterable[Any], frozen: list[Any], point: tuple[torch.device, torch.dtype]) -> None:
    """Read the batches again, and compare their bytes with those of the first reading."""
    for place, (again, first) in enumerate(itertools.zip_longest(batches, frozen)):
        missing = again is None or first is None
        if missing or digest([convert(again, *point)]) != digest([content(first)]):
            fault = "gives no batch" if again is None else "gives another batch"
            raise InputError(
                f"the loader {fault} {place} when it is read again, so its samples can't be matched to their "
                "attributes: give a list of batches, or a loader that gives the same batches each time"
            )


def _order_notes(batches: Iterable[Any]) -> tuple[str, ...]:
    """Note that positions in the batches differ from positions in the data set, if they do."""
    loader = _indexed(batches)
    if loader is None:
        return ()
    sampler = loader.batch_sampler
    indices = loader.sampler if sampler is None else itertools.chain.from_iterable(sampler)
    if all(index == place for place, index in enumerate(indices)):
        return ()
    return ("the loader has an order of its own: the attributes of samples follow its batches, not its data set",)


def _left_out(batches: Iterable[Any]) -> tuple[str, ...]:
    """Note how many samples a loader leaves out because they fill no batch."""
    sampler = getattr(_indexed(batches), "batch_sampler", None)
    if not (isinstance(sampler, BatchSampler) and sampler.drop_last and isinstance(sampler.sampler, Sized)):
        return ()
    left = len(sampler.sampler) % sampler.batch_size
    return (f"the loader leaves out {counted(left, 'sample')} that fill no batch (drop_last)",) if left else ()


@contextlib.contextmanager
def _random_states_kept(batches: Iterable[Any]) -> Iterator[None]:
    """Restore all random generators that a reading may use: torch's, NumPy's, Python's and the loader's own."""
    holders = (batches, getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None))
    own = [each for holder in holders if isinstance(each := getattr(holder, "generator", None), torch.Generator)]
    states = [each.get_state() for each in own]
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for each, state in zip(own, states, strict=True):
            each.set_state(state)
