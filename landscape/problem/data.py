"""The data of a problem: batches that were read once, facts about their samples, and the shard of each process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch

from landscape.errors import InputError
from landscape.machine.processes import SINGLE_PROCESS, Processes
from landscape.problem.batches import Count, bounds, convert, digest, freeze, part, samples_in, select, split
from landscape.problem.samples import SampleSums, about_samples


@dataclass(frozen=True, eq=False)
class Data:
    """Batches, on one device and of one floating-point type.

    Attributes:
        batches: batches with the sample's dimension first in every tensor that is by sample.
        about: facts about the samples by name: arrays (samples,) of text or numbers.
        sha256: digest of the batches as they were read, and of ``about``.
        processes: processes that share the evaluation.
    """

    batches: list[Any]
    about: dict[str, np.ndarray] = field(default_factory=dict)
    sha256: str = ""
    processes: Processes = SINGLE_PROCESS

    @classmethod
    def read(cls, batches: Iterable[Any], device: torch.device, dtype: torch.dtype, count: Count | None = None) -> Self:
        """Read batches once; see `landscape.problem.batches.freeze`."""
        return cls(freeze(batches, device, dtype, count))

    def described(self, about: Mapping[str, Sequence[Any] | np.ndarray] | None) -> Self:
        """These data with facts about the samples, and with their digest.

        Raises:
            InputError: see `landscape.problem.samples.about_samples`.
        """
        checked = about_samples(about, self.samples)
        facts = {name: values.tolist() for name, values in checked.items()}
        return replace(self, about=checked, sha256=digest([*self.batches, facts] if facts else self.batches))

    @property
    def sizes(self) -> list[int]:
        """Number of samples of each batch."""
        return [samples_in(batch) for batch in self.batches]

    @property
    def samples(self) -> int:
        """Number of samples of all batches."""
        return sum(self.sizes)

    @property
    def largest(self) -> Any:
        """The batch with the most samples."""
        return max(self.batches, key=samples_in)

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """These data on another device, or of another floating-point type."""
        return replace(self, batches=[convert(batch, device, dtype) for batch in self.batches])

    def cut(self, size: int) -> Self:
        """These data in batches of at most ``size`` samples."""
        return replace(self, batches=[piece for batch in self.batches for piece in split(batch, size)])

    def alone(self, batches: list[Any]) -> Self:
        """Other batches, for this process only and without facts about their samples."""
        return replace(self, batches=batches, about={}, processes=SINGLE_PROCESS)

    def first(self, samples: int) -> list[Any]:
        """The first ``samples`` samples of the first batch, as one batch."""
        return [part(self.batches[0], 0, samples)]

    def halves(self) -> tuple[Self, Self]:
        """Split the data into two halves, each with half of every batch.

        Raises:
            InputError: there is only one sample, or a process would have no sample of a half.
        """
        halved = [split(batch, math.ceil(samples_in(batch) / 2)) for batch in self.batches]
        # The larger half of a batch of odd size goes to either side in turn, and so does a batch of one sample.
        parts: tuple[list[Any], list[Any]] = ([], [])
        for index, pieces in enumerate(halved):
            for place, piece in enumerate(pieces):
                parts[(index + place) % 2].append(piece)
        if not (parts[0] and parts[1]):
            raise InputError("a single sample has no two halves")
        one, other = (replace(self, batches=batches, about={}).shared(self.processes) for batches in parts)
        return one, other

    def on_samples(self, chosen: np.ndarray) -> Self:
        """The samples at these places, ascending, from as many batches as before or fewer.

        Raises:
            InputError: a process would have no sample.
        """
        sizes = self.sizes
        starts = np.cumsum([0, *sizes])
        places = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in itertools.pairwise(starts)]
        kept = [(batch, place) for batch, place in zip(self.batches, places, strict=True) if len(place)]
        batches = [select(batch, torch.as_tensor(place)) for batch, place in kept]
        about = {name: values[chosen] for name, values in self.about.items()}
        return replace(self, batches=batches, about=about).shared(self.processes)

    # ------------------------------------------------------------------ several processes

    def shared(self, processes: Processes) -> Self:
        """Share these data between processes: each process evaluates a shard of every batch.

        Raises:
            InputError: a process would have no sample.
        """
        other = replace(self, processes=processes)
        if not all(other._parts(self.sizes, rank) for rank in range(processes.size)):
            raise InputError(
                f"some of {processes.size} processes would have none of the {self.samples} samples in "
                f"{len(self.batches)} batches: start fewer processes, or give larger batches"
            )
        return other

    def local_shard(self) -> Self:
        """The shard of this process."""
        return self if self.processes.size == 1 else replace(self, batches=self.local_parts(self.batches))

    def local_parts(self, batches: list[Any]) -> list[Any]:
        """This process's shard of any batches that have as many samples as these; empty parts are left out."""
        parts = self._parts([samples_in(batch) for batch in batches], self.processes.rank)
        return [part(batches[index], start, stop) for index, start, stop in parts]

    def gathered(self, sums: SampleSums) -> SampleSums:
        """Sums of all samples, gathered from the shards of all processes."""
        if self.processes.size == 1:
            return sums
        starts = np.cumsum([0, *self.sizes])
        parts = self._parts(self.sizes, self.processes.rank)
        places = torch.cat([starts[index] + torch.arange(start, stop) for index, start, stop in parts])
        return sums.among(places, self.samples, self.processes.total)

    def _parts(self, sizes: list[int], rank: int) -> list[tuple[int, int, int]]:
        """Shard of a process: (index, start, stop) of its samples in each batch of which it has any."""
        size = self.processes.size
        # Each batch begins with another process. Otherwise one process would get the remainder of every division.
        parts = [(index, *bounds(samples, (rank + index) % size, size)) for index, samples in enumerate(sizes)]
        return [(index, start, stop) for index, start, stop in parts if stop > start]
