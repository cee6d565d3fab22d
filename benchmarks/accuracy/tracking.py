"""``python -m benchmarks.accuracy.tracking``: how often tracked intervals hold the largest eigenvalue, and their cost.

``dense``: the tanh network of 97 parameters of `benchmarks.accuracy.edge_of_stability` is trained, and the dense
Hessian in float64 gives the largest eigenvalue at every turn. A certified solve from a random vector on the same matrix
gives the cost without tracking. ``gpt``: a looped GPT of 53 thousand parameters in float32, beside certified solves.
``changes``: another eigenvalue of a matrix becomes the largest, and the turns until the intervals say so are counted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from torch import nn

import landscape
from benchmarks.accuracy.edge_of_stability import BETAS, EPS, data, dense_hessian, network
from benchmarks.live.trainings import language_model
from benchmarks.support.tables import Table, share_of
from landscape.live import Instrument, Moment, TrackedEigenvalues, Turn, every
from landscape.measurements import RowData, variable
from landscape.operator import MatrixOperator
from landscape.spectrum.tracking import EigenvalueTracker

app = App(name="python -m benchmarks.accuracy.tracking", version_flags=[])
OPTIMIZERS = {
    "gradient descent": lambda each: torch.optim.SGD(each, 0.2),
    "SGD with momentum, batches of 5": lambda each: torch.optim.SGD(each, 0.02, momentum=0.9),
    "Adam, preconditioned": lambda each: torch.optim.Adam(each, 1e-2, BETAS, EPS),
}


def matrices(name: str, steps: int, every: int, seed: int) -> list[torch.Tensor]:
    """The matrices that an optimiser's steps see along a training, at every ``every``-th step, (97, 97) float64."""
    torch.manual_seed(seed)
    model, (x, y) = network(), data()
    optimizer, found = OPTIMIZERS[name](model.parameters()), []
    for step in range(steps):
        chosen = torch.randperm(len(x))[:5] if "batches" in name else torch.arange(len(x))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[chosen]), y[chosen]).backward()
        if step % every == 0:
            matrix = dense_hessian(model)
        optimizer.step()
        if step % every == 0:
            if "Adam" in name:
                moments = torch.cat([optimizer.state[each]["exp_avg_sq"].flatten() for each in model.parameters()])
                scale = ((moments / (1 - BETAS[1] ** (step + 1))).sqrt() + EPS).rsqrt()
                matrix = scale[:, None] * matrix * scale
            found.append((matrix + matrix.T) / 2)
    return found


@app.command
def dense(*, steps: int = 400, seeds: int = 3, k: int = 3) -> None:
    """Print, as Markdown, coverage, widths and products: some minutes on one thread.

    Args:
        steps: Steps of each training.
        seeds: Number of trainings of each optimiser.
        k: Number of tracked eigenvalues.
    """
    rows = []
    for name in OPTIMIZERS:
        for apart in (1, 5, 20):
            held, widths, products, cold, tracked = 0, [], [], [], 0
            for seed in range(seeds):
                tracker = EigenvalueTracker(k=k)
                for place, matrix in enumerate(matrices(name, steps, apart, seed)):
                    exact, found = float(torch.linalg.eigvalsh(matrix)[-1]), tracker.update(MatrixOperator(matrix))
                    if not found.certified:
                        low, high = found.intervals[0]
                        tracked += 1
                        held += low <= exact <= high
                        widths.append((high - low) / 2 / abs(found.eigenvalues[0]))
                    products.append(found.products)
                    if place % 10 == 0:
                        solve = landscape.top_eigenpairs(MatrixOperator(matrix), k, "LA", tol_value=0.02)
                        cold.append(solve.products)
            rows.append(
                (
                    f"{name}, every {apart}",
                    str(len(products)),
                    str(len(products) - tracked),
                    share_of(held, tracked),
                    f"{np.max(widths):.2%}",
                    f"{np.median(products):.0f} ({np.mean(products):.1f})",
                    f"{np.median(cold):.0f}",
                )
            )
    header = ("training, steps between turns", "turns", "certified", "interval held", "largest half-width",
              "products: median (mean)", "cold certified solve")  # fmt: skip
    print(Table(f"{k} eigenvalues tracked", header, rows).markdown())


class _FullSolve(Instrument):
    """The largest eigenvalue by a certified solve from a random vector, to a thousandth."""

    name = "full_solve"

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        return {self.name: {"tol_value": 1e-3}}

    def measure(self, moment: Moment) -> Turn:
        pairs = landscape.top_eigenpairs(moment.before.hessian(), 1, "LA", tol_value=1e-3, seed=moment.step)
        row = RowData(
            {
                "interval": variable("bound", pairs.intervals[0], "of the largest eigenvalue"),
                "products": variable((), pairs.products, "products of the solve"),
            }
        )
        return Turn({self.name: row})


@app.command
def gpt(*, steps: int = 1000, apart: int = 5, solved: int = 20, samples: int = 64) -> None:
    """Print, as Markdown, how tracked intervals of a looped GPT agree with full solves: 20 minutes.

    Args:
        steps: Steps of the training.
        apart: Steps between tracked turns.
        solved: Steps between full solves, a multiple of ``apart``.
        samples: Sequences of the evaluation set.
    """
    torch.set_num_threads(1)
    loop = language_model("gpt", width=64)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run.h5"
        with landscape.watch(
            loop.model, loop.loss, [loop.draw(samples)], optimizer=loop.optimizer, record=record, on_error="raise",
            instruments=[every(apart, TrackedEigenvalues()), every(solved, _FullSolve())],
        ) as watch:  # fmt: skip
            for step, loss, inputs in loop.steps(steps):
                watch.step(step, loss=loss, batch=inputs)
        with landscape.open_record(record) as tree:
            turns, full = (tree[name].to_dataset().load() for name in ("top_eigenvalues", "full_solve"))
    at = np.isin(turns.step.values, full.step.values)
    low, high = turns.interval.values[at, 0].T
    exact_low, exact_high = full.interval.values.T
    tracked = turns.certified.values[at] == 0
    met = ((low <= exact_high) & (exact_low <= high))[tracked]
    width = ((high - low) / 2 / abs(turns.largest.values[at]))[tracked]
    products = turns.products.values
    row = (
        str(len(products)),
        str(int(turns.certified.sum())),
        share_of(int(met.sum()), len(met)),
        f"{width.max():.2%}",
        f"{np.median(products):.0f} ({products.mean():.1f})",
        f"{np.median(full.products):.0f}",
    )
    header = ("turns", "certified", "interval met the full solve's", "largest half-width", "products: median (mean)",
              "full solve")  # fmt: skip
    print(Table(f"GPT of {watch.problem.layout.dim:,} parameters, every {apart} steps", header, [row]).markdown())


@app.command
def changes(*, dim: int = 500, seeds: int = 50) -> None:
    """Print, as Markdown, after how many turns another largest eigenvalue is noticed: a minute.

    The matrix has the eigenvalues 1, 0.8, 0.6 and others spread evenly between 0 and 0.3, and turns a little from turn
    to turn. After 20 turns one of the small eigenvalues rises to 1.5, at once or by a constant step in each turn. It
    is noticed at the first turn whose interval has its lower end above all other eigenvalues.

    Args:
        dim: Dimension of the matrix.
        seeds: Number of matrices.
    """
    rows = []
    for turns in (1, 10, 50):
        waits, wrong = [], []
        for seed in range(seeds):
            wait, without = _noticed(dim, turns, seed)
            waits.append(wait)
            wrong.append(without)
        rows.append(
            (
                "at once" if turns == 1 else f"in {turns} turns",
                f"{np.median(waits):.0f} ({np.min(waits):.0f} to {np.max(waits):.0f})",
                f"{np.median(wrong):.0f} ({np.min(wrong):.0f} to {np.max(wrong):.0f})",
            )
        )
    header = ("the eigenvalue rises", "turns from the largest to noticed: median (range)",
              "turns at which the interval didn't hold")  # fmt: skip
    title = f"Another eigenvalue becomes the largest, {seeds} matrices of dimension {dim}"
    print(Table(title, header, rows).markdown())


def _noticed(dim: int, turns: int, seed: int) -> tuple[int, int]:
    """Turns from the first at which the risen eigenvalue is the largest, and turns whose interval missed it."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    values = torch.cat([torch.tensor([1.0, 0.8, 0.6]), torch.linspace(0.3, 0, dim - 3)]).double()
    place = int(torch.randint(3, dim, (), generator=generator))
    start, tracker, first, wrong = float(values[place]), EigenvalueTracker(seed=seed), None, 0
    for turn in range(20 + turns + 100):
        small = torch.randn(dim, dim, generator=generator, dtype=torch.float64) * (0.02 / dim**0.5)
        basis = torch.linalg.qr(basis + small @ basis)[0]
        values[place] = start + (1.5 - start) * min(max(0, turn - 19) / turns, 1)
        found = tracker.update(MatrixOperator(basis @ (values[:, None] * basis.T)))
        low, high = found.intervals[0]
        wrong += not low - 1e-9 <= float(values.max()) <= high + 1e-9
        if first is None and values[place] > 1:
            first = turn
        if first is not None and low > 1:
            return turn - first, wrong
    raise RuntimeError("not noticed within 100 turns")


if __name__ == "__main__":
    app()
