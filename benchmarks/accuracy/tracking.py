"""``python -m benchmarks.accuracy.tracking``: how often tracked intervals hold the largest eigenvalue, and their cost.

The tanh network of 97 parameters of `benchmarks.accuracy.edge_of_stability` is trained on its full batch, and the dense
Hessian in float64 gives the largest eigenvalue at every turn. A certified solve from a random vector on the same matrix
gives the cost without tracking.
"""

from __future__ import annotations

import numpy as np
import torch
from cyclopts import App
from torch import nn

import landscape
from benchmarks.accuracy.edge_of_stability import BETAS, EPS, data, dense_hessian, network
from benchmarks.support.tables import Table, share_of
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


@app.default
def main(*, steps: int = 400, seeds: int = 3, k: int = 3) -> None:
    """Print, as Markdown, coverage, widths and products: some minutes on one thread.

    Args:
        steps: Steps of each training.
        seeds: Number of trainings of each optimiser.
        k: Number of tracked eigenvalues.
    """
    rows = []
    for name in OPTIMIZERS:
        for every in (1, 5, 20):
            held, widths, products, cold, tracked = 0, [], [], [], 0
            for seed in range(seeds):
                tracker = EigenvalueTracker(k=k)
                for place, matrix in enumerate(matrices(name, steps, every, seed)):
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
                    f"{name}, every {every}",
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


if __name__ == "__main__":
    app()
