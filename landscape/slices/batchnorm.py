"""Re-estimate BatchNorm's running statistics from the data, as exactly as from one batch of all samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.errors import InputError
from landscape.machine.processes import Processes
from landscape.problem import Problem


class _Moments:
    """Mean and variance of a layer's inputs, channel by channel, over batches of any sizes.

    Attributes:
        calls: number of calls of the layer.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.calls = 0
        # For each channel: number of entries, mean, sum of squared deviations from the mean.
        self._sums = torch.zeros(3, channels, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor) -> None:
        """Add the input (samples, channels, ...) of one call."""
        self.calls += 1
        along = [dim for dim in range(inputs.ndim) if dim != 1]
        float64_inputs = inputs.detach().to(torch.float64)
        mean = float64_inputs.mean(along, keepdim=True)
        squares = (float64_inputs - mean).square().sum(along)  # torch.var_mean is far slower on a CPU
        mean = mean.flatten()
        count = torch.full_like(mean, float64_inputs.numel() // len(mean))
        self._sums = _joined(torch.stack([self._sums, torch.stack([count, mean, squares])]))

    def over(self, processes: Processes) -> tuple[Tensor, Tensor] | None:
        """Mean and biased variance over the batches of all processes; None for a layer that wasn't called."""
        parts = self._sums.new_zeros(processes.size, *self._sums.shape)
        parts[processes.rank] = self._sums
        count, mean, squares = _joined(processes.total(parts))
        return (mean, squares / count) if count.all() else None


def _joined(parts: Tensor) -> Tensor:
    """Number of entries, mean and squared deviations, (3, channels), of several parts (parts, 3, channels)."""
    count, mean, squares = parts.unbind(1)
    share = count / count.sum(0).clamp(min=1)
    whole = (share * mean).sum(0)
    return torch.stack([count.sum(0), whole, (squares + count * (mean - whole).square()).sum(0)])


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers of a model that keep running statistics, by their first names."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def statistics_of(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Names of the buffers with the running mean and the running variance, by the name of their BatchNorm layer."""
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    return {
        place: (names[id(each.running_mean)], names[id(each.running_var)]) for place, each in _layers(model).items()
    }


def refuse_no_statistics(problem: Problem) -> None:
    """Raise InputError where a problem has no running statistics to re-estimate."""
    if problem.training:
        raise InputError("in training mode BatchNorm takes the statistics of the batch: there are none to re-estimate")
    if not _layers(problem.model):
        raise InputError("the model has no BatchNorm with running statistics to re-estimate: use interpolate or keep")


def re_estimated(problem: Problem, vector: Tensor) -> tuple[dict[str, Tensor], int]:
    """The running statistics that the whole data give at a flat vector; call inside `Problem.evaluating`.

    They are the mean and the biased variance with which BatchNorm in training mode normalises all data as one batch.
    With one batch, in one process, a single pass gives them, because each layer gets its statistics before it
    normalises. With several batches, a layer's statistics are right once the layers before it have theirs. Passes are
    therefore repeated until one changes nothing, at most as many passes as there are layers.

    Args:
        problem: a problem in evaluation mode, with any statistics.
        vector: flat vector of the point, (dim,).

    Returns:
        Means and variances by the names of their buffers, and the number of passes over the data.

    Raises:
        InputError: a layer is called more than once for each batch.
    """
    layers, names, buffers = _layers(problem.model), statistics_of(problem.model), problem.buffers()
    current = {name: buffers[name].clone() for pair in names.values() for name in pair}

    def write(place: str, moments: _Moments) -> None:
        """Give a layer the statistics of its inputs; a layer that wasn't called keeps its own."""
        if (statistics := moments.over(problem.processes)) is not None:
            for name, values in zip(names[place], statistics, strict=True):
                current[name].copy_(values)

    shard = problem.with_buffers(current).local_shard()  # its buffers are the clones, which `write` changes
    at_once = len(shard.batches) == 1 and problem.processes.size == 1
    passes = 0
    while passes < (1 if at_once else len(layers)):
        before = {name: buffer.clone() for name, buffer in current.items()}
        for place, moments in _one_pass(shard, vector, layers, write if at_once else None).items():
            write(place, moments)
        passes += 1
        if all(torch.equal(current[name], before[name]) for name in current):
            break
    return current, passes


def _one_pass(
    problem: Problem,
    vector: Tensor,
    layers: Mapping[str, _BatchNorm],
    write: Callable[[str, _Moments], None] | None,
) -> dict[str, _Moments]:
    """The moments of every layer's inputs over all batches, given to ``write`` before the layer normalises them."""
    moments = {place: _Moments(module.num_features, problem.device) for place, module in layers.items()}

    def see(place: str, inputs: Tensor) -> None:
        moments[place].add(inputs)
        if write is not None:
            write(place, moments[place])

    with _watching(layers, see):
        for batch in problem.batches:
            problem.terms(vector, batch)
    for place, each in moments.items():
        if each.calls > len(problem.batches):
            raise InputError(
                f"{place} is called {each.calls} times for {len(problem.batches)} batches: one mean and "
                "variance for several calls can't be computed anew; interpolate or keep the buffers"
            )
    return moments


@contextmanager
def _watching(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``see`` with the name and the input of each layer, before the layer itself is called."""

    def shown(place: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(place, args[0] if args else kwargs["input"])

        return hook

    hooks = [layer.register_forward_pre_hook(shown(place), with_kwargs=True) for place, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
