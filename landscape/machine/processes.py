"""Several processes that work as one: each has a shard of the data, and sums over the data are added up.

    torchrun --nproc-per-node 4 -m landscape CHECKPOINT --hessian

All processes run one program. Only products and losses are computed on shards. Each added-up sum is equal in all
processes to the last bit. So only these sums are exchanged, as long as the machines compute alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from landscape.errors import PeerError
from landscape.machine.memory import ran_out
from landscape.reporting.messages import cause

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that work together; by default, a single process.

    Attributes:
        rank: number of this process, from 0; default: 0.
        size: number of processes; default: 1.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def present(cls) -> Processes:
        """The processes of the training that runs now, if torch's process group is there; else a single process."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return SINGLE_PROCESS
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints for all."""
        return self.rank == 0

    def total(self, part: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place.

        Raises:
            PeerError: another process has ended.
        """
        if self.size > 1:
            with _peers():
                distributed.all_reduce(part)
        return part

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers.

        Raises:
            PeerError: another process has ended.
        """
        numbers = torch.zeros(self.size, dtype=torch.int64)
        numbers[self.rank] = number
        return int(self.total(numbers).max())

    def share(self, length: int) -> slice:
        """This process's slice of ``length`` places, which are shared out in order and evenly."""
        return slice(length * self.rank // self.size, length * (self.rank + 1) // self.size)

    def in_order(self, function: Callable[[], T]) -> T:
        """Call a function in the first process and, after it has returned there, in the others.

        Raises:
            PeerError: another process has ended.
        """
        if self.size == 1:
            return function()
        if self.first:
            result = function()
        with _peers():
            distributed.barrier()
        if not self.first:
            result = function()
        with _peers():  # or the first would go on while the others still read its files
            distributed.barrier()
        return result


SINGLE_PROCESS = Processes()


@contextmanager
def process_group() -> Iterator[Processes]:
    """The processes that ``torchrun`` started with this one; a single process without ``torchrun``."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    cuda = torch.cuda.is_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def own_device() -> str:
    """The CUDA device of this process on its machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if ran_out(error):
            raise
        raise PeerError(
            f"the processes have lost each other ({cause(error)}): see the messages of the other processes"
        ) from error
