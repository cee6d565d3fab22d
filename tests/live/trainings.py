"""Small trainings of many kinds, each a function of whether they are watched."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import landscape
from landscape.live.instrument import Instrument

_X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
_Y = (_X[:, 0] * _X[:, 1] > 0).long() + (_X[:, 2] > 1).long()


@dataclass
class Outcome:
    """What a training leaves behind: losses, all states, and the generators' next numbers."""

    losses: list[float]
    states: list[Any]
    randoms: tuple[Any, ...]
    watch: landscape.Watch | None = None
    counted: int = 0


def mlp(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 3))


@dataclass
class Training:
    """Settings of a training.

    Attributes:
        model: makes the model.
        optimizer: makes the optimiser.
        schedule: makes the learning-rate scheduler; None for none.
        every: backward passes of one step of the optimiser.
        autocast: whether forward passes are under autocast in bfloat16.
        wrap: makes the module that is trained of the model, such as its compiled form.
    """

    model: Callable[[], nn.Module] = mlp
    optimizer: Callable[[Any], torch.optim.Optimizer] = field(
        default=lambda each: torch.optim.SGD(each, 0.1, momentum=0.9)
    )
    schedule: Callable[[Any], Any] | None = None
    every: int = 1
    autocast: bool = False
    wrap: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)

    def run(self, steps: int, **watched: Any) -> Outcome:
        """Train; with arguments of `landscape.watch`, watched."""
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(3)
        model = self.model()
        optimizer = self.optimizer(model.parameters())
        scheduler = None if self.schedule is None else self.schedule(optimizer)
        trained, criterion = self.wrap(model), nn.CrossEntropyLoss()
        watch = None
        if watched:
            watch = landscape.watch(trained, criterion, [(_X[:48], _Y[:48])], optimizer=optimizer, **watched)
        losses = []
        for step in range(steps):
            places = torch.randperm(96)[: random.choice([16, 24])]
            inputs = _X[places] + 0.01 * torch.from_numpy(np.random.standard_normal((len(places), 6))).float()
            with torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext():
                loss = criterion(trained(inputs), _Y[places]) / self.every
            loss.backward()
            if (step + 1) % self.every == 0:
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                if watch is None:
                    optimizer.zero_grad()
                else:
                    watch.step(step, loss=loss, batch=inputs)
                    optimizer.zero_grad()
            elif watch is not None:
                watch.step(step, loss=loss, batch=inputs)
            losses.append(float(loss.detach()))
        states = [model.state_dict(), optimizer.state_dict(), [each.training for each in model.modules()]]
        if scheduler is not None:
            states.append(scheduler.state_dict())
        randoms = (random.random(), np.random.random(), float(torch.rand(())))
        return Outcome(losses, states, randoms, watch, getattr(model, "passes", 0))


def equal(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


class Hearing(Instrument):
    """Keeps the losses that it hears, and has no turn."""

    name = "hearing"

    def __init__(self) -> None:
        self.losses: list[float] = []

    @property
    def settings(self):
        return {self.name: {}}

    def measure(self, moment):
        raise ZeroDivisionError

    def hear(self, loss):
        self.losses.append(loss)


class _Counting(nn.Module):
    """A model with a hook that counts its passes, but not those of a measurement."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.passes = mlp(), 0
        self.inside.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += not landscape.measuring()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inside(inputs)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.inside(inputs.unsqueeze(1)).squeeze(1))


def _adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 1e-2)


TRAININGS = {
    "SGD with momentum": Training(),
    "AdamW with a schedule": Training(
        optimizer=_adamw, schedule=lambda each: torch.optim.lr_scheduler.CosineAnnealingLR(each, 50)
    ),
    "dropout": Training(lambda: mlp(nn.Dropout(0.2))),
    "BatchNorm": Training(lambda: mlp(nn.BatchNorm1d(8))),
    "accumulated gradients": Training(every=3),
    "autocast": Training(autocast=True, optimizer=_adamw),
    "compiled": Training(wrap=lambda model: torch.compile(model, backend="aot_eager")),
    "a counting hook": Training(_Counting),
    "attention": Training(_Attention, _adamw),
}
