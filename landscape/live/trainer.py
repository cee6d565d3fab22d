"""Watch a training of Hugging Face's Trainer: a callback.

    trainer = transformers.Trainer(..., callbacks=[WatchCallback(batches, record="run.landscape.h5")])

Needs transformers: ``pip install 'landscape-probe[hugging-face]'``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from landscape.errors import InputError
from landscape.live.callback import OnEvents, WatchedLoop
from landscape.live.undisturbed import measuring, undisturbed
from landscape.loading.pretrained.arrays import Arrays
from landscape.loading.pretrained.tasks import Posed, pose
from landscape.problem.losses import Loss

STATE = "watch.pt"  # file in a checkpoint's folder
_unended: weakref.WeakValueDictionary[str, WatchCallback] = weakref.WeakValueDictionary()  # by the record


class WatchCallback(WatchedLoop, TrainerCallback):
    """Measures the landscape within a training of transformers' Trainer; see `landscape.watch`.

    The row of step t is of the step from theta_t to theta_{t+1}, where t is ``state.global_step`` before the step. Each
    checkpoint's folder gets the watch's state, `STATE`, and ``trainer.train(resume_from_checkpoint=...)`` with a
    checkpoint in ``args.output_dir`` goes on with the record. An error in the training leaves the record unfinished.

    The training's losses are those that the model returns; where the Trainer computes the loss from the model's output
    (``compute_loss_func``, label smoothing), there are no events of the loss.

    Attributes:
        watch: the `landscape.Watch`; None before the training begins.
    """

    def __init__(
        self, batches: Iterable[Any], loss: Loss | None = None, *, on: OnEvents | None = None, **arguments: Any
    ) -> None:
        """Keep the arguments until the training begins; they are judged then.

        Args:
            batches: a fixed evaluation set. Without ``loss``: mappings with ``labels``, as the model takes them and the
                Trainer's collator makes them. With ``loss``: pairs (input, target), see `landscape.Problem`.
            loss: the training's loss. Default: the loss with which transformers trains this architecture, which is
                compared with the model's own loss of the first samples of each batch.
            on: functions to call at events, such as ``{"threshold crossed": function}``; see `landscape.Watch.on`.
            arguments: further arguments of `landscape.watch`, such as ``record`` and ``budget``.
        """
        super().__init__(on, arguments)
        self._loss, self._batches = loss, batches
        self._hook: RemovableHandle | None = None
        self._mean = False  # whether the Trainer divides each loss by the number of accumulated batches

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any = None, optimizer: Any = None, **others: Any
    ) -> None:
        """Begin to watch.

        Raises:
            InputError: an argument can't be used, or the architecture has no known loss.
        """
        self._end_former()
        loss, batches, more = self._posed(model, args.label_smoothing_factor)
        plain = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has no hooks
        file = _folder(args, state) / STATE
        kept = torch.load(file, map_location="cpu", weights_only=True) if state.global_step and file.exists() else {}
        self._begin(model, loss, batches, plain, state.global_step, kept, **more)
        assert self.watch is not None, "the watch has begun"
        self._hook = model.register_forward_hook(_hook_of(self), with_kwargs=True)
        weakref.finalize(self.watch, self.watch.rows.end)  # also when the process ends
        _unended[str(self._arguments.get("record"))] = self

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Measure what is due."""
        self._step(state.global_step - 1, mean=self._mean)

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Write the watch's state beside the checkpoint."""
        found, folder = self._state(), _folder(args, state)
        if args.should_save and found and folder.is_dir():
            torch.save(found, folder / STATE)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Finish the record."""
        self._release()
        self._close()
        _unended.pop(str(self._arguments.get("record")), None)

    def _end_former(self) -> None:
        """End a training of this record that an error ended, of which the Trainer tells no callback."""
        self._release()
        if (former := _unended.get(str(self._arguments.get("record")))) is not None:
            former._release()
            former._end()

    def _release(self) -> None:
        """Take the hook off the model."""
        if self._hook is not None:
            self._hook.remove()

    def _hear_pass(self, inputs: Any, named: Mapping[str, Any], output: Any) -> None:
        """Hear the loss of a pass of the training."""
        self._mean = named.get("num_items_in_batch") is None
        self._hear(_loss_in(output), (inputs, named))

    def _posed(self, model: nn.Module, smoothing: float) -> tuple[Loss, Iterable[Any], dict[str, Any]]:
        """The loss, the evaluation set in pairs, and how the loss reads the model's output."""
        if self._loss is not None:
            return self._loss, self._batches, {}
        if smoothing:
            raise InputError("the Trainer smooths the labels: give the smoothed loss by WatchCallback(..., loss=...)")
        device = next(model.parameters()).device
        with undisturbed(device, model):
            posed = [_posed_batch(model, batch, device) for batch in self._batches]
        if not posed:
            raise InputError("there are no batches to measure on: give at least one")
        return posed[0].loss, [(each.inputs, each.target) for each in posed], {"read": posed[0].read}


def _hook_of(callback: WatchCallback) -> Callable[..., None]:
    """A forward hook that a copy of the model may have too: a copy doesn't copy the callback."""
    listener = weakref.ref(callback)

    def hear(module: nn.Module, inputs: Any, named: Mapping[str, Any], output: Any) -> None:
        if module.training and torch.is_grad_enabled() and not measuring() and (found := listener()) is not None:
            found._hear_pass(inputs, named, output)

    return hear


def _posed_batch(model: nn.Module, batch: Any, device: torch.device) -> Posed:
    if not isinstance(batch, Mapping) or "labels" not in batch:
        raise InputError(
            "a batch is a mapping with labels, as the model takes it; for pairs (input, target) give the loss too, by "
            "WatchCallback(..., loss=...)"
        )
    tensors = {name: torch.as_tensor(each).to(device) for name, each in batch.items()}
    target = tensors.pop("labels")
    try:
        return pose(model, Arrays(tensors, target), None, None)
    except InputError as error:
        raise InputError(f"{error}; or give the loss and pairs (input, target) to WatchCallback") from error


def _loss_in(output: Any) -> Tensor | None:
    """The loss in a model's output: its ``loss``, or the first item of a tuple."""
    if isinstance(output, Mapping):
        loss = output.get("loss")
    else:
        loss = output[0] if isinstance(output, tuple) and output else getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.ndim == 0 else None


def _folder(args: Any, state: Any) -> Path:
    """The folder of the checkpoint of this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
