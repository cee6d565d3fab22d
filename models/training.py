"""Training in steps that can be stopped and continued anywhere without a trace in the numbers.

The data of a step are drawn from (seed, step) and never from a running generator, and a checkpoint holds the
optimiser's state, so a continued run and an uninterrupted one have the same weights, bit for bit, on the same machine
with the same number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from landscape.checkpoint import read_checkpoint, save_checkpoint
from landscape.errors import InputError
from models.registry import build_model, complete_sizes
from models.settings import TrainingSettings, checkpoint_path, claim, newest_checkpoint
from models.tasks import TASKS, Task

BETAS = (0.9, 0.99)


@dataclass
class Run:
    """A model in training."""

    settings: TrainingSettings
    task: Task
    model: nn.Module
    optimizer: torch.optim.Adam
    step: int = 0

    @classmethod
    def begin(cls, settings: TrainingSettings) -> "Run":
        """Make a run at step 0; equal seeds give models with the same parameters the same weights."""
        task = TASKS[settings.task]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = build_model(settings.model, task.vocabulary, **settings.sizes())
        return cls(settings, task, model, torch.optim.Adam(model.parameters(), settings.learning_rate, BETAS))

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of this run.

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
        self.step = checkpoint.step

    def advance(self) -> None:
        """Take one step of the optimiser."""
        self.optimizer.zero_grad()
        self._loss().backward()
        self.optimizer.step()
        self.step += 1

    def save(self, folder: Path) -> None:
        """Write a checkpoint with the model's figures on the held-out data and on the coming step's."""
        with torch.no_grad():
            training_loss = self._loss().item()
        save_checkpoint(
            checkpoint_path(folder, self.step),
            self.model.state_dict(),
            step=self.step,
            optimizer=self.optimizer.state_dict(),
            problem=self.task.problem,
            arguments={
                "model": self.settings.model,
                **self.task.problem_arguments(),
                **complete_sizes(self.settings.model, **self.settings.sizes()),
            },
            metrics={"training_loss": training_loss, **self.task.evaluate(self.model)},
        )

    def _loss(self) -> Tensor:
        """Return the loss on the data of the coming step."""
        # A spawn key can't coincide with a bare seed, as the held-out data have; [seed, step] could, as zeros pad it.
        seed = np.random.SeedSequence(self.settings.seed, spawn_key=(self.step,))
        inputs, targets = self.task.batch(self.settings.batch, seed)
        return nn.functional.cross_entropy(self.model(inputs), targets)


def train(settings: TrainingSettings, folder: Path, report: Callable[[int], None] = lambda step: None) -> Path:
    """Train a model, or continue its training from the newest checkpoint in the folder.

    Args:
        settings: What to train.
        folder: Where the checkpoints are and go.
        report: Called with the number of steps taken, at the start and after each step.

    Returns:
        The last checkpoint.

    Raises:
        InputError: If the settings describe no run or the folder holds another.
    """
    settings.check()
    claim(folder, settings, complete_sizes(settings.model, **settings.sizes()))
    steps = settings.checkpoint_steps()
    run = Run.begin(settings)
    newest = newest_checkpoint(folder)
    if newest is None:
        run.save(folder)
    else:
        run.load(newest)
    report(run.step)
    while run.step < steps[-1]:
        run.advance()
        if run.step in steps:
            run.save(folder)
        report(run.step)
    return checkpoint_path(folder, run.step)
