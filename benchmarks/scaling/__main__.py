"""``python -m benchmarks.scaling``: how time grows with parameters, data, grid points, pairs and basis."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from cyclopts import App
from scipy import stats

from benchmarks.support import document
from benchmarks.support.cases import pose, untrained_gpt
from benchmarks.support.machine import this_machine
from benchmarks.support.plan import SMALL
from benchmarks.support.tables import Table
from benchmarks.support.timing import alternate
from landscape import Hessian, Problem, top_eigenpairs
from landscape.slices import gaussian, plane
from landscape.slices.grid import positions
from landscape.spectrum.basis_store import BasisStore

COMMAND = "python -m benchmarks.scaling --write"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Sizes:
    """The sizes to measure; in the full run each covers two decades.

    Attributes:
        widths: widths of a GPT of four layers, whose number of parameters grows with the square of the width.
        samples: numbers of sequences of 32 predicted tokens.
        axis: numbers of points on each axis of a plane.
        pairs: numbers of eigenpairs of the toy.
        basis: numbers of vectors, each orthogonalised against those before it.
        rounds: number of rounds of timing.
    """

    widths: tuple[int, ...]
    samples: tuple[int, ...]
    axis: tuple[int, ...]
    pairs: tuple[int, ...]
    basis: tuple[int, ...]
    rounds: int


FULL = Sizes((32, 56, 100, 180, 320), (8, 25, 80, 250, 800), (3, 5, 10, 17, 30), (1, 3, 10, 30, 100),
             (4, 13, 40, 126, 400), 5)  # fmt: skip
QUICK = Sizes((8, 12, 16), (1, 2, 4), (3, 4, 5), (1, 2, 3), (2, 4, 8), 1)


@dataclass(frozen=True)
class Trend:
    """An amount at several sizes, and the power of the size with which the amount grows.

    Attributes:
        what: name and unit of the amount.
        against: name of the size.
        sizes: sizes in ascending order, at least three.
        amounts: the amount at each size.
    """

    what: str
    against: str
    sizes: Sequence[float]
    amounts: Sequence[float]

    @property
    def exponent(self) -> tuple[float, float, float]:
        """The slope of the logarithms and the ends of its 95 % interval, which is wide if the growth is no power."""
        fit = stats.linregress(np.log(self.sizes), np.log(self.amounts))
        radius = stats.t.ppf(0.975, len(self.sizes) - 2) * fit.stderr
        return fit.slope, fit.slope - radius, fit.slope + radius

    def row(self) -> tuple[str, ...]:
        """The row of the table."""
        slope, low, high = self.exponent
        ends = (f"{values[0]:,.4g} to {values[-1]:,.4g}" for values in (self.sizes, self.amounts))
        return f"{self.what} against {self.against}", *ends, f"{slope:.2f} [{low:.2f}, {high:.2f}]"


def trends(sizes: Sizes) -> Iterator[Trend]:
    """Measure all trends, one after the other."""
    models = [untrained_gpt(16, width=width, layers=4, loops=1) for width in sizes.widths]
    amounts = [problem.layout.dim for problem in models]
    yield _times("a product, s", "parameters", amounts, [_product(each) for each in models], sizes.rounds)
    yield _times("a plane, s", "parameters", amounts, [_plane(each, sizes.axis[0]) for each in models], sizes.rounds)
    data = [untrained_gpt(samples) for samples in sizes.samples]
    yield _times("a product, s", "sequences", sizes.samples, [_product(each) for each in data], sizes.rounds)
    yield _times("a plane, s", "sequences", sizes.samples, [_plane(each, sizes.axis[0]) for each in data], sizes.rounds)
    toy = pose(SMALL, 64)
    grids = [_plane(toy, points) for points in sizes.axis]
    yield _times("a plane, s", "grid points", [points**2 for points in sizes.axis], grids, sizes.rounds)
    hessian = toy.hessian()
    products = [top_eigenpairs(hessian, k).products for k in sizes.pairs]
    yield Trend("products of a solve", "eigenpairs", sizes.pairs, products)
    bases = [partial(_orthogonalise_all, count) for count in sizes.basis]
    yield _times("orthogonalising a basis, s", "its vectors", sizes.basis, bases, sizes.rounds)


def _times(
    what: str, against: str, sizes: Sequence[int], actions: Sequence[Callable[[], object]], rounds: int
) -> Trend:
    """The trend of the shortest time at each size, over rounds in which the sizes take turns."""
    times = alternate({str(size): action for size, action in zip(sizes, actions, strict=True)}, rounds, CPU)
    return Trend(what, against, sizes, [min(row[str(size)] for row in times) for size in sizes])


def _product(problem: Problem) -> Callable[[], object]:
    hessian = Hessian(problem, route="cached")
    return lambda: hessian.matvec(problem.vector)


def _plane(problem: Problem, points: int) -> Callable[[], object]:
    first, second = (gaussian(problem, 0, index) for index in range(2))
    grid = positions(-0.5, 0.5, points)
    return lambda: plane(problem, first, second, grid, grid)


def _orthogonalise_all(count: int, dim: int = 66_024) -> None:
    """Orthogonalise each of ``count`` vectors against all before it, which is the solver's work beside products."""
    rows = BasisStore(count, dim, torch.float32, CPU)
    for row in torch.eye(count, dim):
        rows.orthogonalise(row)
        rows.append(row)


app = App(name="python -m benchmarks.scaling", version_flags=[])


@app.default
def main(*, quick: bool = False, write: bool = False) -> int:
    """Measure growth at five sizes over two decades, with one thread: some ten minutes.

    Args:
        quick: Use three small sizes. This shows that everything runs; the figures mean nothing.
        write: Write the table into docs/performance.md.
    """
    if quick and write:
        print("error: what is written is of the whole run: leave out --quick", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    machine = this_machine(CPU)
    rows = [trend.row() for trend in trends(QUICK if quick else FULL)]
    header = ("", "from, to", "it grows from, to", "exponent [95 %]")
    table = Table("Growth: exponents of the size", header, rows)
    print(machine)
    print(table.markdown())
    if write:
        document.write(COMMAND, machine, [table])
    return 0


if __name__ == "__main__":
    app()
