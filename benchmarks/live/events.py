"""``python -m benchmarks.live.events``: what the events of a watch tell of trainings that jump, and of others.

Small networks are trained on the digits with settings drawn at random, over learning rates from stable to divergent. A
training *jumps* where its loss on the 512 training samples, evaluated beside the watch at every step, becomes NaN or
exceeds twice its least value so far, and this value by a tenth of a nat. The watch doesn't know this loss.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cyclopts import App
from torch import nn

import landscape
from benchmarks.live.trainings import digits
from benchmarks.support.tables import Table
from landscape.live import Event, every

app = App(name="python -m benchmarks.live.events", version_flags=[])
STEPS, APART, SAMPLES, SUBSET = 300, 2, 256, 512
FACTOR, NATS = 2.0, 0.1
NEAR = 10  # steps from a jump within which the event of a jump is of this jump


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        title: its title.
        optimizer: makes the optimiser.
        rates: logarithms to base 10 of the least and the largest learning rate.
        batch: samples of a batch; None for all.
    """

    title: str
    optimizer: Callable[..., torch.optim.Optimizer]
    rates: tuple[float, float]
    batch: int | None


def _momentum(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9)


KINDS = (
    Kind("gradient descent, all samples", torch.optim.SGD, (-1.0, 1.3), None),
    Kind("SGD with momentum, batches of 32", _momentum, (-2.0, 0.7), 32),
    Kind("Adam, batches of 32", torch.optim.Adam, (-3.0, 0.0), 32),
)


@dataclass(frozen=True)
class Outcome:
    """What happened in a training.

    Attributes:
        jump: step of the first jump; None without.
        crossings: steps at which the threshold was crossed.
        told: steps at which the watch told a jump of the loss, or that the loss isn't finite.
    """

    jump: int | None
    crossings: list[int]
    told: list[int]

    @property
    def lead(self) -> int | None:
        """Steps from the first crossing to the jump; None where no crossing was told before it."""
        before = [step for step in self.crossings if self.jump is not None and step < self.jump]
        return self.jump - before[0] if before and self.jump is not None else None

    @property
    def false_jumps(self) -> int:
        """Jumps that were told and are none: before the first jump, by more than a few steps."""
        return sum(self.jump is None or step < self.jump - NEAR for step in self.told)

    @property
    def told_in_time(self) -> bool:
        """Whether the jump was told within a few steps."""
        return self.jump is not None and any(abs(step - self.jump) <= NEAR for step in self.told)


def train(kind: Kind, seed: int) -> Outcome:
    """Train a network with settings drawn by the seed, watched, until a while after its first jump."""
    random = np.random.default_rng(seed)
    width, warm = int(random.choice([8, 16, 32])), int(random.choice([1, 50, 200]))
    activation = (nn.Tanh, nn.ReLU)[random.integers(2)]
    rate = float(10 ** random.uniform(*kind.rates))
    torch.manual_seed(seed)
    images, labels = digits()
    images = images.flatten(1)
    model = nn.Sequential(
        nn.Linear(64, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 10)
    )
    optimizer, loss_of = kind.optimizer(model.parameters(), rate), nn.CrossEntropyLoss()
    warming = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm))
    watch = landscape.watch(
        model, loss_of, [(images[:SAMPLES], labels[:SAMPLES])], optimizer=optimizer,
        instruments=[every(APART, "stability")],
    )  # fmt: skip

    def advance(step: int) -> None:
        places = torch.arange(SUBSET) if kind.batch is None else torch.randint(SUBSET, (kind.batch,))
        optimizer.zero_grad()
        loss = loss_of(model(images[places]), labels[places])
        loss.backward()
        optimizer.step()
        warming.step()
        watch.step(step, loss=loss)

    least, jump, step = math.inf, None, 0
    while step < STEPS and jump is None:
        advance(step)
        with torch.no_grad():
            whole = loss_of(model(images[:SUBSET]), labels[:SUBSET]).item()
        if not whole <= max(FACTOR * least, least + NATS):
            jump = step
        least = min(least, whole)
        step += 1
    for after in range(step, step + (0 if jump is None else NEAR)):
        advance(after)
    return Outcome(jump, _steps(watch.events, "threshold crossed"), _steps(watch.events, "loss jumped", "not finite"))


def _steps(events: list[Event], *names: str) -> list[int]:
    return [each.step for each in events if each.name in names]


@app.default
def main(*, count: int = 20) -> None:
    """Print, as Markdown, leads and false alarms: some twenty minutes on one thread.

    Args:
        count: Trainings of each kind.
    """
    torch.set_num_threads(1)
    logging.getLogger("landscape").setLevel(logging.ERROR)
    jumped, calm = [], []
    for place, kind in enumerate(KINDS):
        outcomes = [train(kind, 1000 * place + 100 + seed) for seed in range(count)]
        with_jump = [each for each in outcomes if each.jump is not None]
        without = [each for each in outcomes if each.jump is None]
        leads = [each.lead for each in with_jump if each.lead is not None]
        jumped.append(
            (
                kind.title,
                str(len(with_jump)),
                str(len(leads)),
                f"{np.median(leads):.0f} ({min(leads)} to {max(leads)})" if leads else "none",
                str(sum(each.told_in_time for each in with_jump)),
                str(sum(each.false_jumps for each in with_jump)),
            )
        )
        calm.append(
            (
                kind.title,
                str(len(without)),
                str(sum(bool(each.crossings) for each in without)),
                str(sum(bool(each.told) for each in without)),
            )
        )
    header = ("trainings with a jump", "number", "crossing told before", "steps ahead: median (range)",
              f"jump told within {NEAR} steps", "false jumps told before")  # fmt: skip
    print(Table("Trainings that jump", header, jumped).markdown())
    others = ("trainings without a jump", "number", "with a crossing", "with a jump that was told")
    print(Table("Other trainings", others, calm).markdown())


if __name__ == "__main__":
    app()
