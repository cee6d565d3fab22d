"""How much work a computation is, counted while it runs once: what the choice between routes goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from landscape.machine.dispatch import DispatchMode
from landscape.problem.batches import of_all_batches


@dataclass(frozen=True)
class Machine:
    """The rates at which a device works, in float32, as far as a choice between routes needs them.

    They are round figures of a device like it and not measured at run time, so that the choice is the same in each run.

    Attributes:
        flops: floating-point operations of matrix products a second.
        bytes: read and written by everything else a second.
        operation: seconds that starting an operation takes.
    """

    flops: float
    bytes: float
    operation: float

    @classmethod
    def of(cls, device: torch.device) -> Machine:
        """A device of this type; of a CPU, with the threads that torch uses."""
        if device.type == "cpu":  # measured on one thread: docs/performance.md
            threads = torch.get_num_threads()
            return cls(8e10 * threads, 1.2e10 * threads, 6e-6)
        return cls(2e13, 1e12, 1e-5)


@dataclass
class Work:
    """What was counted.

    Attributes:
        flops: operations of matrix products and convolutions, a multiplication and an addition each.
        convolutions: those of convolutions.
        bytes: what all other operations read and write.
        operations: how many there were, of one batch; views aren't any.
    """

    flops: int = 0
    convolutions: int = 0
    bytes: int = 0
    operations: int = 0

    def of_all(self, batches: list[Any]) -> Work:
        """What was counted on the first batch, scaled to all by the number of samples."""
        flops, convolutions, read = (of_all_batches(batches, n) for n in (self.flops, self.convolutions, self.bytes))
        return Work(flops, convolutions, read, self.operations)

    def seconds(self, device: torch.device) -> float:
        """How long it takes on a device of this type, roughly."""
        machine = Machine.of(device)
        return self.flops / machine.flops + self.pointwise(device) + self.operations * machine.operation

    def pointwise(self, device: torch.device) -> float:
        """The part of these seconds that goes by what isn't matrix products."""
        return self.bytes / Machine.of(device).bytes


class Made(DispatchMode):
    """Counts what is made within: a graph saves no more.

    Attributes:
        bytes: of all results but views.
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
    """Counts the work of what runs within.

    Attributes:
        work: so far.
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
