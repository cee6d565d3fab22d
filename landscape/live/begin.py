"""`landscape.watch`: pose the evaluation set, and begin to watch a training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from landscape.errors import InputError
from landscape.live.undisturbed import undisturbed
from landscape.live.watching import Watch
from landscape.machine.device import resolve_device_and_dtype, unwrapped
from landscape.machine.processes import Processes
from landscape.problem import Problem
from landscape.problem.losses import Loss


def watch(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    optimizer: Optimizer,
    record: str | Path | None = None,
    budget: float = 0.05,
    instruments: Iterable[Any] | None = None,
    other_data: Iterable[Any] | None = None,
    mode: Literal["eval", "train"] = "eval",
    log_to: Any = None,
    table: bool = False,
    on_error: Literal["rest", "raise"] = "rest",
    overwrite: bool = False,
    **posed: Any,
) -> Watch:
    """Watch a training: measure the landscape at its steps, within a budget, without a change of the training.

        with landscape.watch(model, loss, batches, optimizer=optimizer, record="run.landscape.h5") as watch:
            for step, (inputs, targets) in enumerate(loader):
                ...
                optimizer.step()
                watch.step(step, loss=value, batch=inputs)

    At a step that is measured, the row is of theta_t, the weights before the step; learning rate and update are those
    of the step from theta_t to theta_{t+1}. The model's forward hooks run in measured passes too; see
    `landscape.measuring`.

    Args:
        model: the model in training; of a wrapped or compiled module the plain module is measured.
        loss: the training's loss, see `landscape.Problem`.
        batches: a fixed evaluation set, read once and kept. Sharpness is meant on training data: give a fixed sample of
            these.
        optimizer: the optimiser, whose steps are seen through its hooks.
        record: record to make; None for none.
        budget: work of the watch as a share of the training's work, both counted. Default: 0.05. Setting up,
            counting the first turns and the time that turns really take are not part of it; ``watch.seconds`` has the
            time.
        instruments: names, measurements such as ``landscape.Trace()``, or instruments of `landscape.live`. Default:
            those of loss, top_eigenvalues, stability, critical_sharpness and noise_scale that can measure here.
        other_data: a second evaluation set, for the relative critical sharpness.
        mode: mode of the model in measured passes: ``eval``, or ``train`` for BatchNorm with the statistics of the one
            whole batch. Default: eval.
        log_to: loggers that get every number: objects with ``log`` or ``add_scalar``, a `logging.Logger`, a path of a
            CSV file, a function ``(numbers, step)``, or several of these. One that fails gets no more numbers.
        table: show the latest numbers in a table that follows the training. Default: no.
        on_error: ``rest``: an instrument that raises an error rests from then on, and the training goes on. ``raise``:
            the error ends the training. Default: rest.
        overwrite: replace a record that is there.
        posed: further arguments of `landscape.Problem`, such as ``device``, ``dtype``, ``micro_batch``, ``count``.

    Raises:
        InputError: an argument can't be used; the message is one line that says which and what to do.
    """
    if mode not in ("eval", "train"):
        raise InputError(f"mode is 'eval' or 'train', not {mode!r}")
    posed["training"] = mode == "train"
    processes = Processes.present()
    place = resolve_device_and_dtype(unwrapped(model), posed.get("device"), posed.get("dtype"))
    with undisturbed(place[0], model):
        problem = Problem(model, loss, batches, **posed).distributed_over(processes)
        other = None
        if other_data is not None:
            other = Problem(model, loss, other_data, **posed).distributed_over(processes)
    return Watch(
        problem,
        optimizer,
        record,
        budget=budget,
        instruments=instruments,
        other_data=other,
        log_to=log_to,
        table=table,
        on_error=on_error,
        overwrite=overwrite,
    )
