"""``python -m benchmarks.accuracy.coverage``: how often intervals of traces and Frobenius norms hold the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from cyclopts import App
from torch import Tensor

from benchmarks.support.cases import pose
from benchmarks.support.machine import this_machine
from benchmarks.support.plan import SMALL
from benchmarks.support.tables import Table
from landscape.errors import InputError
from landscape.operator import MatrixOperator
from landscape.spectrum.estimate import Estimate, interval, root
from landscape.spectrum.trace import TraceEstimate, estimate_trace

PROBES = (10, 30, 100)
# Limit of products where a run stops by its error. With as many products as dimensions the trace would be exact.
MOST_PRODUCTS = 140
PARAMETERS = 300


@dataclass(frozen=True)
class Case:
    """A matrix with known trace and norm, and a relative tolerance that takes 20 to 50 probes.

    The coverage is lowest at such a tolerance. At a looser one the first ten probes are often enough. At a stricter one
    there are more probes, so their spread is known better.
    """

    name: str
    matrix: Tensor
    tol: float

    @cached_property
    def trace(self) -> float:
        return float(self.matrix.trace())

    @cached_property
    def frobenius(self) -> float:
        return float(torch.linalg.matrix_norm(self.matrix))

    @property
    def title(self) -> str:
        return f"{self.name}, n = {len(self.matrix)}"

    @property
    def trace_is_zero(self) -> bool:
        return abs(self.trace) <= 1e-12 * self.frobenius


def synthetic(n: int) -> list[Case]:
    """Matrices of dimension n with chosen eigenvalues and random eigenvectors."""
    generator = np.random.default_rng(0)
    half = np.arange(1.0, n // 2 + 1)
    return [
        Case("indefinite", _matrix(generator.normal(0.3, 1, n)), 0.1),
        Case("one outlier", _matrix(np.array([1000, *generator.uniform(0, 1, n - 1)])), 0.0025),
        Case("ten outliers", _matrix(np.array([*np.linspace(50, 200, 10), *generator.uniform(0, 1, n - 10)])), 0.002),
        Case("decay as 1/k", _matrix(1 / np.arange(1.0, n + 1)), 0.015),
        Case("indefinite, trace 0", _matrix(np.concatenate([half, -half])), 0.05),
    ]


def looped_attention(samples: int) -> Case:
    """The Hessian of the shipped trained Looped-Attn in float64, from the product with every unit vector."""
    operator = pose(SMALL, samples).to(dtype=torch.float64).hessian()
    matrix = torch.cat([operator.matmat(part) for part in torch.eye(operator.dim).double().split(64, dim=1)], dim=1)
    return Case("trained Looped-Attn", (matrix + matrix.T) / 2, 0.03)


def _matrix(eigenvalues: np.ndarray) -> Tensor:
    n = len(eigenvalues)
    vectors, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((n, n)))
    matrix = torch.from_numpy((vectors * eigenvalues) @ vectors.T)
    return (matrix + matrix.T) / 2


@dataclass(frozen=True)
class Coverage:
    """Coverage of the intervals of one estimated number.

    Attributes:
        held: number of intervals that hold the truth.
        seeds: number of intervals, one for each seed.
        ratio: mean standard error divided by the standard deviation of the values.
    """

    held: int
    seeds: int
    ratio: float

    def show(self) -> tuple[str, str]:
        """The share of intervals that hold the truth, and the ratio, as two cells of a table."""
        return f"{self.held / self.seeds:.1%}", f"{self.ratio:.2f}"


def coverage_of(estimates: Sequence[Estimate], truth: float) -> Coverage:
    """Coverage of these estimates of a number whose true value is known."""
    spread = float(np.std([estimate.value for estimate in estimates], ddof=1))
    errors = float(np.mean([estimate.standard_error for estimate in estimates]))
    held = sum(estimate.low <= truth <= estimate.high for estimate in estimates)
    return Coverage(held, len(estimates), errors / spread if spread else float("nan"))


def first(found: TraceEstimate, probes: int) -> tuple[Estimate, Estimate]:
    """Trace and norm estimated from the first probes alone, which don't depend on the number of all probes."""
    return interval(found.samples[:probes], found.rounding), root(interval(found.squares[:probes], 0.0), 0.0, 0.0)


@dataclass(frozen=True)
class Study:
    """Coverage of ``trace`` and ``frobenius`` for one matrix over some seeds.

    Attributes:
        case: the matrix.
        deflated: coverage with deflation, by number of probes.
        plain: coverage without deflation, by number of probes.
        stopped: coverage of the runs that stop by their error.
        claimed: number of stopped runs that report to have reached the tolerance.
        fewest: smallest number of probes of a stopped run.
        mean: mean number of probes of the stopped runs.
    """

    case: Case
    deflated: dict[int, dict[str, Coverage]]
    plain: dict[int, dict[str, Coverage]]
    stopped: dict[str, Coverage]
    claimed: int
    fewest: int
    mean: float

    def given(self, number: int) -> list[Coverage]:
        """Coverage with this number of probes: trace and norm with deflation, then trace and norm without."""
        return [*self.deflated[number].values(), *self.plain[number].values()]


def study(case: Case, seeds: int, numbers: Sequence[int] = PROBES) -> Study:
    """Estimate a matrix with given numbers of probes, and with the probes that its tolerance takes.

    Args:
        case: the matrix.
        seeds: number of seeds, which are 0, 1, 2, ...
        numbers: given numbers of probes.
    """
    operator, most = MatrixOperator(case.matrix), max(numbers)
    deflated = [estimate_trace(operator, probes=most, seed=seed) for seed in range(seeds)]
    plain = [estimate_trace(operator, probes=most, seed=seed, deflation=0) for seed in range(seeds)]
    stopped = [estimate_trace(operator, case.tol, seed=seed, max_products=MOST_PRODUCTS) for seed in range(seeds)]
    probes = [found.probes for found in stopped]
    return Study(
        case,
        {number: _both(case, [first(found, number) for found in deflated]) for number in numbers},
        {number: _both(case, [first(found, number) for found in plain]) for number in numbers},
        _both(case, [(found.trace, found.frobenius) for found in stopped]),
        claimed=sum(found.converged for found in stopped),
        fewest=min(probes),
        mean=float(np.mean(probes)),
    )


def _both(case: Case, estimates: Sequence[tuple[Estimate, Estimate]]) -> dict[str, Coverage]:
    return {
        "trace": coverage_of([trace for trace, _ in estimates], case.trace),
        "frobenius": coverage_of([norm for _, norm in estimates], case.frobenius),
    }


def fixed_table(studies: Sequence[Study]) -> Table:
    """The table of given numbers of probes, with deflation and without."""
    rows = [
        (study.case.title, str(number), *(cell for coverage in study.given(number) for cell in coverage.show()))
        for study in studies
        for number in study.deflated
    ]
    quantities = ("trace", "norm", "plain trace", "plain norm")
    header = ("matrix", "probes", *(cell for name in quantities for cell in (name, "s.e./spread")))
    return Table(f"Coverage of 95 % intervals at a given number of probes, {_seeds(studies)} seeds", header, rows)


def stopped_table(studies: Sequence[Study]) -> Table:
    """The table of runs that stop by their error."""
    rows = [
        (
            study.case.title,
            f"{study.case.tol:g}",
            f"{study.claimed / _seeds(studies):.1%}",
            f"{study.mean:.0f}",
            str(study.fewest),
            *(cell for coverage in study.stopped.values() for cell in coverage.show()),
        )
        for study in studies
    ]
    header = ("matrix", "tol", "converged", "probes, mean", "fewest", "trace", "s.e./spread", "norm", "s.e./spread")
    title = f"Coverage when stopping by the trace's error, within {MOST_PRODUCTS} products, {_seeds(studies)} seeds"
    return Table(title, header, rows)


def _seeds(studies: Sequence[Study]) -> int:
    return studies[0].stopped["trace"].seeds


app = App(name="python -m benchmarks.accuracy.coverage", version_flags=[])


@app.default
def main(*, seeds: int = 1000, samples: int = 64) -> int:
    """Print, as Markdown, how often the intervals of traces and norms hold the truth.

    Args:
        seeds: Number of seeds of the probes; at least 2.
        samples: Number of sequences of 32 predicted tokens in the trained model's loss.
    """
    if seeds < 2:
        print(f"error: seeds must be at least 2, or nothing spreads, not {seeds}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    begun = time.perf_counter()
    try:
        studies = [study(case, seeds) for case in [looped_attention(samples), *synthetic(PARAMETERS)]]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{this_machine(torch.device('cpu'))}; {time.perf_counter() - begun:.0f} s\n")
    print("\n".join(table.markdown() for table in (fixed_table(studies), stopped_table(studies))))
    return 0


if __name__ == "__main__":
    app()
