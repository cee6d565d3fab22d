"""The state of the process around a measurement within a training: restored to the last bit.

A training must not see that something was measured between two of its steps. Evaluations of a `Problem` never touch the
model's tensors, and restore torch's switches themselves (`landscape.problem.switches`). Here is the rest: generators of
random numbers, autocast, the grad mode, the number of threads, modes and gradients.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from landscape.problem.switches import differentiating

_measuring = 0  # nested measurements in progress, of the whole process


def measuring() -> bool:
    """Whether a watch is measuring right now.

    A model's forward hooks also run in the passes of a measurement. A hook that counts or stores something for the
    training can ask this function, and leave such passes out.
    """
    return _measuring > 0


@contextmanager
def undisturbed(device: torch.device, model: nn.Module | None = None) -> Iterator[None]:
    """The state in which a measurement runs within a training; everything is restored at the end.

    - The model's modules are in the modes from before, and its parameters have the gradients from before.

    - The generators of Python, NumPy and torch have the states from before, on all devices of ``device``'s type.
    - Autocast is off, and operations build a graph.
    - The number of threads is that from before.

    Args:
        device: device of the measurement.
        model: the model in training; None before there is one.
    """
    global _measuring  # noqa: PLW0603 - a state of the process, like the generators
    python, array, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    others = [] if device.type == "cpu" else range(torch.get_device_module(device).device_count())
    modes = [] if model is None else [(module, module.training) for module in model.modules()]
    gradients = [] if model is None else [(each, each.grad) for each in model.parameters()]
    _measuring += 1
    try:
        with (
            torch.random.fork_rng(others, device_type="cuda" if device.type == "cpu" else device.type),
            torch.autocast("cpu", enabled=False),
            torch.autocast(device.type, enabled=False),
            differentiating(),
        ):
            yield
    finally:
        _measuring -= 1
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
        random.setstate(python)
        np.random.set_state(array)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
