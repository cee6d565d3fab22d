"""Watch a training of PyTorch Lightning: a callback for its Trainer.

    trainer = lightning.Trainer(callbacks=[WatchCallback(loss, batches, record="run.landscape.h5")])

Needs Lightning: ``pip install 'landscape-probe[lightning]'``. The package ``pytorch_lightning`` does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from landscape.errors import InputError
from landscape.live.callback import OnEvents, WatchedLoop
from landscape.problem.losses import Loss

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    from pytorch_lightning import Callback


class WatchCallback(WatchedLoop, Callback):
    """Measures the landscape within a training of Lightning; see `landscape.watch`.

    The row of step t is of the step from theta_t to theta_{t+1}, where t is ``trainer.global_step`` before the step.
    The watch's state is in Lightning's checkpoints, and ``trainer.fit(..., ckpt_path=...)`` goes on with the record.
    An error in the training leaves the record unfinished.

    Attributes:
        watch: the `landscape.Watch`; None before the training begins.
    """

    def __init__(
        self,
        loss: Loss,
        batches: Iterable[Any],
        *,
        model: Callable[[Any], nn.Module] | None = None,
        on: OnEvents | None = None,
        **arguments: Any,
    ) -> None:
        """Keep the arguments until the training begins; they are judged then.

        Args:
            loss: the training's loss of the output of the module's ``forward``, see `landscape.Problem`.
            batches: a fixed evaluation set of pairs (input, target).
            model: function that gives the module to measure, such as ``lambda module: module.net``; needed where
                the LightningModule has no ``forward``. Default: the LightningModule.
            on: functions to call at events, such as ``{"threshold crossed": function}``; see `landscape.Watch.on`.
            arguments: further arguments of `landscape.watch`, such as ``record`` and ``budget``. By default ``log_to``
                is the loggers of the trainer; ``log_to=[]`` is none.
        """
        super().__init__(on, arguments)
        self._loss, self._batches, self._model = loss, batches, model
        self._restored: Mapping[str, Any] = {}  # state in the checkpoint that the training goes on from
        self._made = 0  # steps that the training has made

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch.

        Raises:
            InputError: there are several optimisers, or an argument can't be used.
        """
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"the training has {len(trainer.optimizers)} optimisers, and the callback watches the steps of one: "
                "call landscape.watch for one of them in the hooks of your module"
            )
        state, self._restored = self._restored, {}
        self._made = trainer.global_step
        model = pl_module if self._model is None else self._model(pl_module)
        log_to = [partial(_log, logger) for logger in trainer.loggers]
        self._begin(model, self._loss, self._batches, trainer.optimizers[0], self._made, state, log_to=log_to)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure what is due, where this batch ended with a step of the optimiser."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._hear(loss if isinstance(loss, Tensor) else None, batch)
        if trainer.global_step > self._made:
            self._made = trainer.global_step
            self._step(self._made - 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the record."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write the rows; the record stays unfinished."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """The watch's state for Lightning's checkpoint."""
        return dict(self._restored) if self.watch is None or self._restored else self._state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a checkpoint until the training begins."""
        self._restored = state_dict


def _log(logger: Any, numbers: Mapping[str, float], step: int) -> None:
    logger.log_metrics(dict(numbers), step=step)
