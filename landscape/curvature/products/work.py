"""The work of a computation, counted while it runs once; the choice between routes uses it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from landscape.machine.dispatch import DispatchMode
from landscape.problem.batches import of_all_batches

_HANDOVER = 1e-5  # seconds, a round figure: what one more thread adds to an operation, to start it and to wait for it


@dataclass(frozen=True)
class Machine:
    """The rates at which a device works in float32, for the choice between routes.

    The rates are round figures for a device of its type, not measured at run time. The choice therefore doesn't vary
    between runs.

    Attributes:
        flops: floating-point operations of matrix products per second.
        bytes: bytes that all other operations read and write per second.
        operation: seconds that starting an operation takes.
    """

    flops: float
    bytes: float
    operation: float

    @classmethod
    def of(cls, device: torch.device, threads: int | None = None) -> Machine:
        """The rates of a device of this type; for a CPU, with this number of threads, or as many as torch uses."""
        if device.type == "cpu":  # round figures for one thread
            threads = threads or torch.get_num_threads()
            return cls(8e10 * threads, 1.2e10 * threads, 6e-6)
        return cls(2e13, 1e12, 1e-5)


@dataclass
class Work:
    """Counted work of a computation.

    Attributes:
        flops: floating-point operations of matrix products and convolutions; a multiplication and an addition are two.
        convolutions: the part of ``flops`` in convolutions.
        bytes: bytes that all other operations read and write.
        operations: number of operations, for one batch; views don't count.
    """

    flops: int = 0
    convolutions: int = 0
    bytes: int = 0
    operations: int = 0

    def of_all(self, batches: list[Any]) -> Work:
        """The work counted on the first batch, scaled to all batches by the number of samples."""
        flops, convolutions, read = (of_all_batches(batches, n) for n in (self.flops, self.convolutions, self.bytes))
        return Work(flops, convolutions, read, self.operations)

    def seconds(self, device: torch.device) -> float:
        """Estimated seconds of this work on a device of this type."""
        machine = Machine.of(device)
        return self.flops / machine.flops + self.pointwise(device) + self.operations * machine.operation

    def threads(self, most: int) -> int:
        """The number of threads of a CPU, from 1 to ``most``, on which this work is quickest.

        An operation of w seconds on one thread takes about w / t + c t seconds on t threads, where c is `_HANDOVER`.
        This time is least at t = sqrt(w / c). The average operation decides.
        """
        one = Machine.of(torch.device("cpu"), threads=1)
        each = (self.flops / one.flops + self.bytes / one.bytes) / max(self.operations, 1)
        return min(max(math.isqrt(int(each / _HANDOVER)), 1), most)

    def pointwise(self, device: torch.device) -> float:
        """The part of these seconds for reading and writing outside matrix products."""
        return self.bytes / Machine.of(device).bytes


class Made(DispatchMode):
    """Counts the bytes of tensors made within this context, an upper bound on those that a graph saves.

    Attributes:
        bytes: bytes of all results so far, without views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let one operation run, and count its results."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (each for each in tree_leaves(out) if isinstance(each, Tensor))
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        return out


class Counting(DispatchMode):
    """Counts the work of operations within this context.

    Attributes:
        work: work so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let one operation run, and count it."""
        out = func(*args, **(kwargs or {}))
        kind, work = func.overloadpacket, self.work
        if kind in flop_registry:
            flops = flop_registry[kind](*args, **(kwargs or {}), out_val=out)
            work.flops += flops
            work.convolutions += flops if "convolution" in str(kind) else 0
            work.operations += 1
        elif not func.is_view:
            tensors = (each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor))
            work.bytes += sum(each.numel() * each.element_size() for each in tensors)
            work.operations += 1
        return out
