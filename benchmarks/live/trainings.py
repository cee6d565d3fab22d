"""Trainings for the benchmarks of `landscape.watch`: each is a loop that a user might have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from models.settings import TrainingSettings
from models.training import TrainingRun

Batch = tuple[Tensor, Tensor]


@dataclass
class Loop:
    """A training, ready to run.

    Attributes:
        model: the model.
        loss: loss of the training.
        optimizer: the optimiser.
        draw: draws a batch of so many samples; 0 for the training's own size.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    draw: Callable[[int], Batch]

    def steps(self, count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Train, and yield after each step its number, its loss, and the inputs of its batch."""
        for step in range(count):
            inputs, targets = self.draw(0)
            self.optimizer.zero_grad()
            loss = self.loss(self.model(inputs), targets)
            loss.backward()
            self.optimizer.step()
            yield step, loss.detach(), inputs


@cache
def digits() -> Batch:
    """Scikit-learn's 1,797 digits: images (1797, 1, 8, 8) between 0 and 1, and labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.as_tensor(labels)


def _chosen(data: Batch, size: int, generator: torch.Generator, count: int) -> Batch:
    places = torch.randint(len(data[0]), (count or size,), generator=generator)
    return data[0][places], data[1][places]


def _on_data(model: nn.Module, data: Batch, size: int, optimizer: torch.optim.Optimizer, seed: int) -> Loop:
    draw = partial(_chosen, data, size, torch.Generator().manual_seed(seed))
    return Loop(model, nn.CrossEntropyLoss(), optimizer, draw)


def dense(seed: int = 0, rate: float = 0.1, momentum: float = 0.9, width: int = 64, batch: int = 64) -> Loop:
    """A network of two hidden layers on the digits, by SGD with momentum."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)
    )
    return _on_data(model, digits(), batch, torch.optim.SGD(model.parameters(), rate, momentum=momentum), seed)


def convolutional(seed: int = 0) -> Loop:
    """A convolutional network on the digits, by AdamW."""
    torch.manual_seed(seed)
    layers: list[Any] = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 10))
    return _on_data(model, digits(), 64, torch.optim.AdamW(model.parameters(), 1e-3), seed)


def language_model(name: str, seed: int = 0, **sizes: Any) -> Loop:
    """A model of this repository on the Markov language, by Adam."""
    run = TrainingRun.begin(TrainingSettings(name, seed=seed, **sizes))  # type: ignore[arg-type]
    numbers = iter(range(10**9))

    def draw(count: int) -> Batch:
        return run.draw(count or run.settings.batch, (next(numbers),))

    return Loop(run.model, nn.CrossEntropyLoss(), run.optimizer, draw)
