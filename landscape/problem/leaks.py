"""Check that the loss depends on the model only through the tensors put into the model's places.

A loss may read a parameter past its place: from a list of parameters made beforehand, from ``.data``, or from a NumPy
array. The value of such a loss at the model's own weights is right. Its gradient, its Hessian and its slices are those
of another function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from landscape.errors import InputError
from landscape.machine.dispatch import DispatchMode
from landscape.machine.memory import in_room, ran_out
from landscape.problem.audit import equal_losses, first_samples
from landscape.problem.data import Data
from landscape.problem.objective import Objective
from landscape.problem.point import Point
from landscape.problem.swap import pointed
from landscape.reporting.messages import listed

_SAMPLES = 16  # a few are enough: a loss that leaks does so on every sample
_ROUNDINGS = 30  # a loss with a graph may differ from one without by this many measured roundings


def refuse_leaks(objective: Objective, point: Point, data: Data) -> tuple[str, ...]:
    """Check on some samples that the loss is a function of the flat vector, on fewer where memory runs out.

    Where memory doesn't hold the graph of one sample, the check is skipped. The first computation that needs a graph
    reports the shortage.

    Returns:
        Notes, see `_leaks`.

    Raises:
        InputError: see `_leaks`.
    """
    return in_room(
        lambda samples: _leaks(objective, point, first_samples(objective, point, data, samples)[0]), _SAMPLES, ()
    )


def _leaks(objective: Objective, point: Point, data: Data) -> tuple[str, ...]:
    """Check that the loss is a function of the flat vector, by three evaluations and three conditions.

    - No operation reads the memory of the model's own parameters, not even an operation without a graph.
    - The loss doesn't change while the model's own parameters show NaN. This finds reads by Python or NumPy.
    - The loss with a graph equals the loss without.

    Returns:
        Notes on buffers that are read past their places: a checkpoint's values for them don't reach the loss.

    Raises:
        InputError: one of the three conditions doesn't hold.
    """
    parameters, buffers = dict(objective.model.named_parameters()), dict(objective.model.named_buffers())

    def losses(vector: Tensor) -> Tensor:
        """Losses of the first batch and the penalty at a vector, in one row."""
        terms, _ = objective.terms(point, vector, data.batches[0])
        return torch.cat([terms.reshape(-1), objective.penalty_at(point, vector).reshape(1).to(terms)])

    with objective.evaluating(point.dtype):
        with Watching() as seen:
            graphed = losses(point.vector.clone().requires_grad_()).detach()
        if leaking := seen.among(parameters):
            raise InputError(_refusal(listed(leaking)))
        with torch.no_grad():
            plain = losses(point.vector)
            with _pointed_to_nan(parameters):
                changed = not _same(plain, lambda: losses(point.vector))
            if changed:
                raise InputError(_refusal("parameters by their values (.data, NumPy)"))
            if not equal_losses(plain, graphed):
                _refuse_difference(losses, point.vector, plain, graphed)
    shared = seen.among(buffers)
    note = f"buffers read through another reference, so that no checkpoint changes them: {listed(shared)}"
    return (note,) if shared else ()


def _refusal(what: str) -> str:
    return (
        f"the loss reads {what} through another reference (a list or an alias made beforehand?), so its derivatives "
        "would be wrong: read them from the model when the loss is computed, keep them in an "
        "nn.ParameterList, clone() what is constant, or give Problem(penalty=...)"
    )


def _same(expected: Tensor, losses: Callable[[], Tensor]) -> bool:
    """Whether losses equal the expected losses; False if they raise, since a model may refuse NaN."""
    try:
        evaluated = losses()
    except Exception as error:
        if ran_out(error):
            raise
        return False
    return evaluated.shape == expected.shape and equal_losses(expected, evaluated)


@contextmanager
def _pointed_to_nan(parameters: dict[str, nn.Parameter]) -> Iterator[None]:
    """Make the parameters show NaN; each parameter takes the memory of a single number, however large it is."""
    floating: list[Tensor] = [each for each in parameters.values() if each.is_floating_point() or each.is_complex()]
    nan = {
        each: torch.full((), torch.nan, dtype=each.dtype, device=each.device).expand(each.shape) for each in floating
    }
    with pointed(nan):
        yield


def _refuse_difference(losses: Callable[[Tensor], Tensor], vector: Tensor, plain: Tensor, graphed: Tensor) -> None:
    """Refuse losses that differ with and without a graph by more than another choice of kernels explains.

    The effect of rounding on these losses is measured: every parameter is moved by one rounding.
    """
    signs = torch.randn(vector.shape, generator=torch.Generator().manual_seed(0)).sign().to(vector)
    moved = losses(vector * (1 + torch.finfo(vector.dtype).eps * signs))
    difference, rounding = ((each - plain).abs().max() for each in (graphed, moved))
    if not difference <= _ROUNDINGS * rounding:
        raise InputError(
            f"the losses with a graph differ from those without by up to {float(difference):.2g}, of "
            f"{float(plain.abs().max()):.2g}: the model or the loss asks whether gradients are wanted "
            "(torch.is_grad_enabled(), requires_grad); have it compute one function, and give a term over some "
            "parameters as Problem(penalty=...)"
        )


class Watching(DispatchMode):
    """Records the memory that operations read, and the floating-point types of their results.

    Attributes:
        precisions: floating-point types of the results so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.precisions: set[torch.dtype] = set()
        self._read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record it."""
        self._read.update(map(_memory, tree_leaves((args, kwargs))))
        out = func(*args, **(kwargs or {}))
        self.precisions.update(
            each.dtype for each in tree_leaves(out) if isinstance(each, Tensor) and each.is_floating_point()
        )
        return out

    def among(self, tensors: dict[str, Any]) -> list[str]:
        """Names of the tensors whose memory was read."""
        return [name for name, tensor in tensors.items() if _memory(tensor) and _memory(tensor) in self._read]


def _memory(value: Any) -> int:
    """Address of a tensor's memory; 0 for a tensor without (such as a sparse tensor) and for any other value."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return 0
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
