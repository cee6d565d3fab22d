"""Training that can be stopped anywhere and continued; the numbers don't depend on interrupts.

The data of a step are drawn from (seed, step) and never from a running generator. A checkpoint holds the optimiser's
state. The journal holds the numbers that a criterion has seen. So a continued run and an uninterrupted run have equal
weights, bit for bit, on one machine with one number of threads.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import landscape
from landscape.checkpoint import read_checkpoint, save_checkpoint
from landscape.errors import InputError
from models.cost import counted
from models.journal import read_journal, write_journal
from models.registry import build_model, complete_sizes
from models.settings import AFTER_SWITCH, TrainingSettings, checkpoint_path, claim, newest_checkpoint
from models.stages import Stage, stage_at
from models.switching import Data, Watch
from models.tasks import TASKS, Task
from models.watched import save_watch, watched

BETAS = (0.9, 0.99)

SUBSET = (0, 1)
"""The key of the random subset for a criterion's measurements. The data of a step have a key of one number."""


@dataclass
class Epoch:
    """The losses of the current epoch's steps, and its processor time and operations so far."""

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    flops: int = 0


@dataclass
class TrainingRun:
    """A model in training.

    Attributes:
        settings: settings of the run.
        task: task of the training.
        model: model with the weights after ``step`` steps.
        optimizer: optimiser with its moments.
        step: number of steps so far.
        switched: number of epochs before the switch; None if there was no switch yet.
        journal: an entry for each whole epoch; see `models.journal`.
        watch: measures within the training; see `models.watched`.
    """

    settings: TrainingSettings
    task: Task
    model: nn.Module
    optimizer: torch.optim.Adam
    step: int = 0
    switched: int | None = None
    journal: list[dict[str, Any]] = field(default_factory=list)
    watch: landscape.Watch | None = None
    _epoch: Epoch = field(default_factory=Epoch)
    _flops: dict[tuple[int, ...], int] = field(default_factory=dict)

    @classmethod
    def begin(cls, settings: TrainingSettings) -> "TrainingRun":
        """Make a run at step 0; with equal seeds, models with equal parameters start with equal weights.

        Raises:
            InputError: If there is no such model or size, or a model with one pass has a switch.
        """
        if settings.switch is not None and sizes_of(settings)["loops"] == 1:
            raise InputError(
                f"{settings.model} has one pass, so there is no switch: leave out --switch, or give --loops"
            )
        task = TASKS[settings.task]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = build_model(settings.model, task.vocabulary, **sizes_of(settings))
        run = cls(settings, task, model, torch.optim.Adam(model.parameters(), settings.learning_rate, BETAS))
        run._enter(run.stage)
        return run

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """All sizes of the model; ``loops`` is the number of passes at the end of the run."""
        return sizes_of(self.settings)

    @property
    def epoch(self) -> int:
        """Number of whole epochs so far."""
        return self.step // self.settings.steps_per_epoch

    @property
    def stage(self) -> Stage:
        """The stage of the next step."""
        return stage_at(self.settings, self.sizes["loops"], self.epoch, self.switched)

    @property
    def is_kept(self) -> bool:
        """Whether the run keeps a checkpoint at this step."""
        whole = self.step % self.settings.steps_per_epoch == 0
        after = whole and self.switched is not None and 0 <= self.epoch - self.switched <= AFTER_SWITCH
        return after or self.step in self.settings.checkpoint_steps()

    @cached_property
    def _watch(self) -> Watch | None:
        switch = self.settings.switch
        return None if switch is None else Watch(switch, lambda: self.draw(switch.subset, SUBSET))

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of this run, with the journal in its folder.

        Raises:
            InputError: If the file cannot be read or holds no step and optimiser, or the journal lacks epochs before
                this step.
        """
        self.restore(path)
        self.journal = read_journal(path.parent, self.epoch)
        within = self._watch is not None and self.step % self.settings.steps_per_epoch
        if len(self.journal) < self.epoch or within:
            raise InputError(f"{path} can't be continued from: the journal in its folder doesn't tell what came before")
        if self.journal:
            self.switched = self.journal[-1]["switched"]
        if self._watch is not None:
            for entry in self.journal[: self.switched]:
                self._watch.tell(entry["epoch"], entry)

    def restore(self, path: Path) -> None:
        """Load weights, optimiser and step of a checkpoint, without its journal.

        Raises:
            InputError: If the file cannot be read or holds no step and optimiser.
        """
        checkpoint = read_checkpoint(path)
        if checkpoint.step is None or checkpoint.optimizer is None:
            raise InputError(
                f"{path} holds no step and optimiser state to continue from; remove it or choose another --out"
            )
        self.model.load_state_dict(checkpoint.state)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.model.loops = checkpoint.arguments.get("loops", self.model.loops)
        self.model.gain = checkpoint.arguments.get("gain", self.model.gain)
        self.step = checkpoint.step

    def advance(self) -> None:
        """Take one step of the optimiser."""
        self._enter(self.stage)
        data = self.draw(self.settings.batch, (self.step,))
        started = time.process_time()
        self.optimizer.zero_grad()
        loss = self._loss(data)
        loss.backward()
        self.optimizer.step()
        self._epoch.seconds += time.process_time() - started
        if self.watch is not None:
            self.watch.step(self.step, loss=loss, batch=data[0])
        self._epoch.losses.append(loss.item())
        self._epoch.flops += self._cost(data)
        self.step += 1
        if self.step % self.settings.steps_per_epoch == 0:
            self._end_epoch()

    def save(self, folder: Path) -> None:
        """Write the journal and a checkpoint with the model's loss and its evaluation on held-out data.

        A checkpoint at the switch also holds the figures of its weights with the number of passes after the switch, as
        ``switched_...``.
        """
        passes = {"loops": self.model.loops, "gain": self.model.gain}
        metrics = self._figures()
        if self.step and self.step == (self.switched or 0) * self.settings.steps_per_epoch:
            self._enter(self.stage)
            metrics |= {f"switched_{name}": value for name, value in self._figures().items()}
        write_journal(folder, self.journal)  # first, because no run can continue from a checkpoint without a journal
        save_checkpoint(
            checkpoint_path(folder, self.step),
            self.model.state_dict(),
            step=self.step,
            optimizer=self.optimizer.state_dict(),
            problem=self.task.problem,
            arguments={"model": self.settings.model, **self.task.problem_arguments(), **self.sizes, **passes},
            metrics=metrics,
        )

    def _end_epoch(self) -> None:
        """Add the epoch to the journal, and switch if the criterion says so.

        Raises:
            InputError: If the training has diverged.
        """
        done = self._epoch
        if not np.isfinite(done.losses).all():
            raise InputError(
                f"the loss isn't finite in epoch {self.epoch}: lower the learning rate, or raise --warmup; the "
                "checkpoints of the epochs before are kept"
            )
        entry: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "loss": float(np.mean(done.losses)) if len(done.losses) == self.settings.steps_per_epoch else None,
            "loops": self.model.loops,
            "gain": self.model.gain,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        if self._watch is not None and self.switched is None:
            started = time.process_time()
            seen = self._watch.look(self.model)
            done.seconds += time.process_time() - started
            done.flops += self._watch.cost(self.model)
            if self._watch.tell(self.epoch, entry | seen):
                self.switched = self.epoch
                if not self.settings.switch.keep_moments:  # type: ignore[union-attr]
                    self.optimizer.state.clear()
            entry |= seen | self._watch.criterion.evidence
        entry |= {"flops": done.flops, "seconds": done.seconds, "switched": self.switched}
        self.journal.append(entry)
        self._epoch = Epoch()

    def _figures(self) -> dict[str, float]:
        """The loss on the data of the next step, and the task's evaluation."""
        with torch.no_grad():
            loss = self._loss(self.draw(self.settings.batch, (self.step,))).item()
        return {"training_loss": loss, **self.task.evaluate(self.model)}

    def _enter(self, stage: Stage) -> None:
        """Set passes, gain and learning rate for the next step."""
        self.model.loops, self.model.gain = stage.loops, stage.gain  # type: ignore[assignment]
        settings = self.settings
        left = max(0, settings.epochs * settings.steps_per_epoch - self.step)
        rate = settings.learning_rate * stage.rate
        rate *= min(1.0, (self.step + 1) / (settings.warmup + 1)) * min(1.0, (left + 1) / (settings.cooldown + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def draw(self, count: int, key: tuple[int, ...]) -> Data:
        """Draw ``count`` sequences of the task from the run's seed and a key."""
        # The held-out data have a bare seed. A seed with a spawn key can't coincide with a bare seed. A list [seed,
        # step] could, because NumPy pads seeds with zeros.
        return self.task.batch(count, np.random.SeedSequence(self.settings.seed, spawn_key=key))

    def _loss(self, data: Data) -> Tensor:
        return nn.functional.cross_entropy(self.model(data[0]), data[1])

    def _cost(self, data: Data) -> int:
        """Floating-point operations of a step, counted once for each number of passes and shape of data."""
        key = (int(self.model.loops), *data[0].shape)  # type: ignore[arg-type]
        if key not in self._flops:
            with counted() as flops:
                self._loss(data).backward()
            self._flops[key] = int(flops.get_total_flops())
        return self._flops[key]


def sizes_of(settings: TrainingSettings) -> dict[str, Any]:
    """Return all sizes of a run's model, with a context that is long enough for the task's longest sequence."""
    sizes = complete_sizes(settings.model, **settings.sizes())
    if "context" in sizes:
        sizes["context"] = max(sizes["context"], TASKS[settings.task].longest)
    return sizes


def train(
    settings: TrainingSettings,
    folder: Path,
    report: Callable[[int], None] = lambda step: None,
    watch: float | None = None,
) -> Path:
    """Train a model, or continue its training from the newest checkpoint in the folder that ends an epoch.

    Args:
        settings: Settings of the run.
        folder: Folder of the checkpoints.
        report: Function that is called with the number of steps so far, at the start and after each step.
        watch: Budget of `landscape.watch`, which then measures within the training; None for none.

    Returns:
        The path of the last checkpoint.

    Raises:
        InputError: If the settings describe no run, the folder holds another run, or the training diverges.
    """
    settings.check()
    run = TrainingRun.begin(settings)  # before `claim`, so that wrong sizes don't claim the folder
    claim(folder, settings, run.sizes)
    last = settings.checkpoint_steps()[-1]
    newest = newest_checkpoint(folder, settings.steps_per_epoch)
    if newest is None:
        run.save(folder)
    else:
        run.load(newest)
    report(run.step)
    with watched(run, folder, watch if run.step < last else None):
        while run.step < last:
            run.advance()
            if run.is_kept:
                save_watch(run, folder)
                run.save(folder)
            report(run.step)
    return checkpoint_path(folder, run.step)
