"""``python -m benchmarks.accuracy.edge_of_stability``: when runs cross the threshold, by checkpoints and by every step.

A tanh network of 97 parameters is trained on its full batch. At every step the dense Hessian in float64 (by
``torch.func.hessian``, preconditioned by the optimiser's own state) gives the first step above the threshold of
stability. ``landscape-probe --dynamics`` sees only every tenth step, and gives an interval for that step.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cyclopts import App
from torch import Tensor, nn
from torch.func import functional_call, hessian

from benchmarks.support.tables import Table
from landscape.checkpoint import Checkpoint, save_checkpoint
from landscape.cli.probe import main as probe
from landscape.problem import Problem
from landscape.record import open_record

BETAS, EPS = (0.9, 0.99), 1e-7
app = App(name="python -m benchmarks.accuracy.edge_of_stability", version_flags=[])


def data() -> tuple[Tensor, Tensor]:
    """Twenty samples (20, 1) of a sine, in float64."""
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    return x, torch.sin(4 * x)


def network() -> nn.Sequential:
    """A tanh network of 97 parameters, in float64."""
    layers = [nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)]
    return nn.Sequential(*layers).double()


def problem(checkpoint: Checkpoint) -> Problem:
    """The factory of the command: the network on the full batch."""
    return Problem(network(), nn.MSELoss(), [data()])


@dataclass(frozen=True)
class Training:
    """A training of the network on the full batch.

    Attributes:
        optimizer: ``gradient descent`` or ``Adam``.
        rate: learning rate.
        seed: seed of the initial weights.
        steps: number of steps.
        every: steps from checkpoint to checkpoint.
        warm_up: steps in which the learning rate rises linearly to ``rate``; 0 for a constant rate.
    """

    optimizer: str
    rate: float
    seed: int
    steps: int
    every: int = 10
    warm_up: int = 0

    def run(self, folder: Path) -> tuple[list[Path], np.ndarray]:
        """Train, and write the checkpoints into a folder.

        Returns:
            The files, and the largest eigenvalue by the threshold at every step (steps + 1,) from the dense Hessian;
            NaN where Adam has no state yet.
        """
        torch.manual_seed(self.seed)
        model, (x, y) = network(), data()
        optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(model.parameters(), lr=self.rate, betas=BETAS, eps=EPS)
            if self.optimizer == "Adam"
            else torch.optim.SGD(model.parameters(), lr=self.rate)
        )
        files, ratios = [], []
        for step in range(self.steps + 1):
            rate = self.rate * min(1.0, (step + 1) / self.warm_up) if self.warm_up else self.rate
            optimizer.param_groups[0]["lr"] = rate
            ratios.append(self._ratio(model, optimizer, step, rate))
            if step % self.every == 0:
                files.append(folder / f"step-{step:05}.pt")
                save_checkpoint(files[-1], model.state_dict(), step=step, optimizer=optimizer.state_dict())
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        return files, np.array(ratios)

    def _ratio(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, rate: float) -> float:
        matrix = dense_hessian(model)
        if self.optimizer != "Adam":
            return float(torch.linalg.eigvalsh(matrix)[-1]) / (2 / rate)
        if not step:
            return math.nan
        moments = torch.cat([optimizer.state[each]["exp_avg_sq"].flatten() for each in model.parameters()])
        scale = ((moments / (1 - BETAS[1] ** step)).sqrt() + EPS).rsqrt()
        top = float(torch.linalg.eigvalsh(scale[:, None] * matrix * scale)[-1])
        return top / (2 * (1 + BETAS[0]) / ((1 - BETAS[0]) * rate))


def dense_hessian(model: nn.Module) -> Tensor:
    """The Hessian (97, 97) of the mean squared error, by ``torch.func.hessian``."""
    x, y = data()
    named = {name: each.detach() for name, each in model.named_parameters()}
    sizes = [each.numel() for each in named.values()]

    def loss(vector: Tensor) -> Tensor:
        parts = zip(named.items(), vector.split(sizes), strict=True)
        output: Tensor = functional_call(model, {name: part.view_as(each) for (name, each), part in parts}, (x,))
        return (output - y).square().mean()

    found: Tensor = hessian(loss)(torch.cat([each.flatten() for each in named.values()]))
    return found


def first_above(ratios: np.ndarray) -> float:
    """The first step whose ratio is above 1; NaN if none is."""
    above = np.flatnonzero(ratios > 1)
    return float(above[0]) if len(above) else math.nan


def measured(files: list[Path], record: Path) -> tuple[float, float, str]:
    """The interval of the crossing that the command stores, and the reason where there is none."""
    asked = [
        *map(str, files),
        "--problem",
        f"{__file__}:problem",
        "--dtype",
        "float64",
        "--dynamics",
        "-o",
        str(record),
    ]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = probe(asked)
    if status not in (0, 3):
        raise RuntimeError(f"landscape-probe ended with status {status}")
    with open_record(record) as tree:
        row = tree["dynamics"].to_dataset().isel(checkpoint=0).load()
    low, high = map(float, row.crossing_interval.values)
    return low, high, str(row.crossing_reason.values)


TRAININGS = [
    *(Training("gradient descent", rate, seed, steps) for rate, steps in ((0.1, 600), (0.2, 300)) for seed in range(3)),
    *(Training("gradient descent", 0.2, seed, 400, warm_up=200) for seed in range(3)),
    *(Training("Adam", rate, seed, steps) for rate, steps in ((3e-3, 600), (1e-2, 300)) for seed in range(3)),
]


@app.default
def main() -> int:
    """Print, as Markdown, the interval of the crossing and the dense Hessian's first step above: some five minutes."""
    rows, misses = [], 0
    for training in TRAININGS:
        with tempfile.TemporaryDirectory() as folder:
            files, ratios = training.run(Path(folder))
            low, high, reason = measured(files, Path(folder) / "record.h5")
        step = first_above(ratios)
        within = math.isnan(step) if reason else low < step <= high
        misses += not within
        rate = f"{training.rate:g}" + (f", rising for {training.warm_up} steps" if training.warm_up else "")
        rows.append((training.optimizer, rate, str(training.seed), str(training.steps),
                     reason or f"({low:.0f}, {high:.0f}]", "none" if math.isnan(step) else f"{step:.0f}",
                     "yes" if within else "NO"))  # fmt: skip
    header = ("optimiser", "learning rate", "seed", "steps", "interval of the crossing", "dense Hessian", "within")
    print(Table("First step above the threshold, a checkpoint every 10 steps", header, rows).markdown())
    return int(misses > 0)


if __name__ == "__main__":
    app()
