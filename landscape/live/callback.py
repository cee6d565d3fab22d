"""What the callbacks of training libraries share: a watch that begins and ends with a loop that the library runs.

The library ends a training's loop, not the user, and code of the user follows: the model is saved, say. So a disk that
doesn't take the record gives a warning here, where a watch of one's own loop raises an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from landscape.errors import InputError
from landscape.live.begin import watch
from landscape.live.events import Event, EventName
from landscape.live.watching import Watch
from landscape.problem.batches import samples_in
from landscape.problem.losses import Loss

_logger = logging.getLogger("landscape")
OnEvents = Mapping[EventName, Callable[[Event], Any]]


class WatchedLoop:
    """A watch in a loop that another library runs.

    Attributes:
        watch: the watch; None before the training begins.
    """

    watch: Watch | None = None

    def __init__(self, on: OnEvents | None, arguments: Mapping[str, Any]) -> None:
        """Keep what the watch needs until the training begins.

        Args:
            on: functions to call at events, by the name of the event.
            arguments: further arguments of `landscape.watch`.
        """
        self._on, self._arguments = dict(on or {}), dict(arguments)
        self._losses: list[Tensor | None] = []  # of the backward passes since the last step
        self._samples = 0  # of these passes

    def _begin(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        optimizer: Optimizer,
        step: int,
        state: Mapping[str, Any],
        **more: Any,
    ) -> None:
        """Watch from a step on.

        Args:
            model: see `landscape.watch`, as for ``loss``, ``batches`` and ``optimizer``.
            loss: the loss.
            batches: the evaluation set.
            optimizer: the optimiser.
            step: steps that the training has made.
            state: state of the watch in the training's checkpoint; empty without one.
            more: arguments of `landscape.watch` that the user's own arguments replace.
        """
        self._end()  # a training that ended with an error told nobody
        self._forget()
        self.watch = watch(model, loss, batches, optimizer=optimizer, **{**more, **self._arguments})
        for event, do in self._on.items():
            self.watch.on(event, do)
        if state:
            self.watch.load_state_dict(state)
        elif step:
            self.watch.resume(step)

    def _hear(self, loss: Tensor | None, batch: Any) -> None:
        """Keep the loss and the number of samples of one backward pass; the loss isn't read from its device."""
        self._losses.append(None if loss is None else loss.detach())
        self._samples += samples_in(batch)

    def _step(self, number: int, *, mean: bool = False) -> None:
        """Measure what is due, after a step of the optimiser.

        Args:
            number: number of the step.
            mean: the step's loss is the mean of the backward passes' losses; default: their sum.
        """
        assert self.watch is not None, "the training has begun"
        losses = [each for each in self._losses if each is not None]
        loss = sum(losses[1:], losses[0]) if losses and len(losses) == len(self._losses) else None
        if loss is not None and mean:
            loss = loss / len(losses)
        self.watch.step(number, loss=loss, batch=self._samples or None)
        self._forget()

    def _forget(self) -> None:
        self._losses, self._samples = [], 0

    def _state(self) -> dict[str, Any]:
        """The watch's state for the training's checkpoint; empty where the disk doesn't take the rows."""
        assert self.watch is not None, "the training has begun"
        try:
            return self.watch.state_dict()
        except InputError as error:
            _logger.warning("the training's checkpoint has no state of the watch: %s", error)
            return {}

    def _close(self) -> None:
        """Finish the record."""
        assert self.watch is not None, "the training has begun"
        try:
            self.watch.close()
        except InputError as error:
            _logger.warning("the record stays unfinished: %s", error)

    def _end(self) -> None:
        """End a watch that isn't closed; the record stays unfinished."""
        if self.watch is not None:
            try:
                self.watch.end()
            except InputError as error:
                _logger.warning("rows of the watch are lost: %s", error)
