"""``python -m benchmarks.accuracy.sweep``: products that warm starts and a goal for the eigenvalues save in training.

The shipped looped transformer is trained on from its last checkpoint, with a snapshot every 20 steps. Each snapshot is
solved cold, and warm from the eigenvectors of the snapshot before. The goal is a residual, or a certified error of the
eigenvalues. Whether each interval contains its eigenvalue is checked with the dense Hessian in float64.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from cyclopts import App

from benchmarks.accuracy.late import continue_training
from benchmarks.support.cases import ROOT, pose
from benchmarks.support.plan import SMALL
from benchmarks.support.tables import Table
from landscape.errors import InputError
from landscape.operator import MatrixOperator
from landscape.spectrum.eigenpairs import Eigenpairs, top_eigenpairs
from landscape.spectrum.ends import select

APART, TOL, TOL_VALUE = 20, 1e-3, 1e-2

app = App(name="python -m benchmarks.accuracy.sweep", version_flags=[])


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint's Hessian.

    Attributes:
        operator: the Hessian in float32, for the solver.
        exact: eigenvalues in float64, (n,), by magnitude, descending.
    """

    operator: MatrixOperator
    exact: np.ndarray

    @classmethod
    def of(cls, hessian: np.ndarray) -> Snapshot:
        """Make a snapshot from a symmetric matrix (n, n) in float64."""
        exact = np.linalg.eigvalsh(hessian)
        operator = MatrixOperator(torch.as_tensor(hessian, dtype=torch.float32))
        return cls(operator, exact[select(exact, len(exact), "LM")])


@dataclass(frozen=True)
class Cost:
    """The solves with one goal and one kind of start, over all pairs of snapshots and all seeds.

    Attributes:
        k: number of eigenpairs.
        goal: the goal in words.
        start: ``cold`` or ``warm``.
        products: number of products of each solve.
        verification: number of each solve's products that verify pairs and search for missed ones.
        incomplete: number of solves that didn't reach their goal.
        uncontained: number of intervals that don't contain the exact eigenvalue of their rank.
    """

    k: int
    goal: str
    start: str
    products: Sequence[int]
    verification: Sequence[int]
    incomplete: int
    uncontained: int

    def row(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            f"k = {self.k}, {self.goal}, {self.start}",
            f"{np.median(self.products):.1f}",
            f"{np.mean(self.products):.1f}",
            f"{max(self.products)}",
            f"{np.mean(np.subtract(self.products, self.verification)):.1f}",
            f"{np.mean(self.verification):.1f}",
            f"{self.incomplete} of {len(self.products)}",
            f"{self.uncontained} of {self.k * len(self.products)}",
        )


def snapshots(checkpoint: Path, pairs: int, samples: int, folder: Path) -> list[Snapshot]:
    """Train on from a checkpoint, and compute the dense Hessian at each snapshot.

    Args:
        checkpoint: file of the checkpoint.
        pairs: number of pairs of successive snapshots.
        samples: number of sequences in the loss.
        folder: folder of the snapshots' checkpoints.
    """
    found = []
    for path in continue_training(checkpoint, folder, APART, pairs):
        hessian = pose(str(path), samples).to(dtype=torch.float64).hessian()
        columns = hessian.matmat(torch.eye(hessian.dim, dtype=torch.float64)).numpy()
        found.append(Snapshot.of((columns + columns.T) / 2))
    return found


def sweep(series: Sequence[Snapshot], seeds: int, ks: Sequence[int] = (1, 10)) -> list[Cost]:
    """Solve every snapshot but the first with each k, goal, start and seed.

    A warm start uses the eigenvectors of the snapshot before, which was solved to the same goal.
    """
    return [cost for k in ks for tol_value in (None, TOL_VALUE) for cost in compare(series, seeds, k, tol_value)]


def compare(series: Sequence[Snapshot], seeds: int, k: int, tol_value: float | None) -> list[Cost]:
    """The costs of cold and of warm starts towards one goal."""
    goal = f"residual {TOL:g}" if tol_value is None else f"value {tol_value:g}"
    solves: dict[str, list[tuple[Eigenpairs, np.ndarray]]] = {"cold": [], "warm": []}
    for seed in range(seeds):
        before = None
        for snapshot in series:
            cold = top_eigenpairs(snapshot.operator, k, "LM", TOL, seed, tol_value=tol_value)
            if before is not None:
                warm = top_eigenpairs(
                    snapshot.operator, k, "LM", TOL, seed, tol_value=tol_value, start=before.eigenvectors
                )
                solves["cold"].append((cold, snapshot.exact[:k]))
                solves["warm"].append((warm, snapshot.exact[:k]))
            before = cold if before is None else warm
    return [summarise(k, goal, start, found) for start, found in solves.items()]


def summarise(k: int, goal: str, start: str, found: list[tuple[Eigenpairs, np.ndarray]]) -> Cost:
    """The cost of solves of one kind, each given with the k exact eigenvalues by magnitude."""
    return Cost(
        k,
        goal,
        start,
        [pairs.products for pairs, _ in found],
        [pairs.products_verification for pairs, _ in found],
        sum(not pairs.complete for pairs, _ in found),
        sum(uncontained(pairs, exact) for pairs, exact in found),
    )


def uncontained(pairs: Eigenpairs, exact: np.ndarray) -> int:
    """Number of intervals that don't contain the exact eigenvalue of their rank."""
    low, high = pairs.intervals.T
    return int(((exact < low) | (exact > high)).sum())


def table(costs: Sequence[Cost]) -> Table:
    """The table of products over all pairs of snapshots and all seeds."""
    header = ("goal and start", "median", "mean", "max", "iterating", "verifying", "incomplete", "not contained")
    return Table("Products of a solve, late in training, 20 steps apart", header, [cost.row() for cost in costs])


@app.default
def main(*, pairs: int = 10, seeds: int = 10, samples: int = 64) -> int:
    """Print the table in Markdown; nearly all the time goes into the dense Hessians, a minute for each.

    Args:
        pairs: Number of pairs of successive snapshots.
        seeds: Number of seeds of random starts and searches.
        samples: Number of sequences in the loss.
    """
    try:
        with TemporaryDirectory() as folder:
            print(table(sweep(snapshots(ROOT / SMALL, pairs, samples, Path(folder)), seeds)).markdown())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main() if len(sys.argv) == 1 else app())
