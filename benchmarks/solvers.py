"""Top eigenvalues by this library, by SciPy and by PyHessian: the products each makes and how good the pairs are."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch

from benchmarks.timing import Spread
from landscape.crosscheck import pyhessian_eigenvalues
from landscape.curvature.hessian import Hessian
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.spectrum.eigenpairs import top_eigenpairs

K, TOL = 10, 1e-3
OFF = 0.01  # an eigenvalue further from the reference than this, relative to it, counts as wrong


@dataclass(frozen=True)
class Found:
    """What one solver found in one run.

    Attributes:
        values: (k,) eigenvalues in the solver's order.
        residuals: (k,) ||H v - lambda v||, computed.
        products: Hessian-vector products that the solver made.
        verification: those of them that only made sure of the result.
        seconds: that it took.
    """

    values: np.ndarray
    residuals: np.ndarray
    products: int
    verification: int
    seconds: float


@dataclass(frozen=True)
class SolverSummary:
    """One solver over its seeds.

    Attributes:
        solver: its name.
        seeds: number of runs.
        products: all that a run makes.
        products_verification: those of them that only make sure of the result.
        products_search: the others, which find it.
        relative_residual: the worst computed ||H v - lambda v|| / |lambda| of a run.
        error: the worst relative distance of a run's eigenvalues to the reference.
        out_of_order: eigenvalues of a run that don't stand where their magnitude puts them.
        off: eigenvalues of a run that are further than `OFF` from the reference.
        seconds: of a run.
    """

    solver: str
    seeds: int
    products: Spread
    products_verification: Spread
    products_search: Spread
    relative_residual: Spread
    error: Spread
    out_of_order: Spread
    off: Spread
    seconds: Spread

    @property
    def meets_tolerance(self) -> bool:
        """Every pair of every run has a relative residual of at most `TOL`."""
        return self.relative_residual.most <= TOL


def compare_solvers(problem: Problem, seeds: int, pyhessian_seeds: int) -> list[SolverSummary]:
    """Run the solvers in turn over the seeds, PyHessian over the first few."""
    hessian = problem.hessian()
    solvers: dict[str, Callable[[int], Found]] = {
        "landscape": lambda seed: ours(hessian, seed),
        "SciPy eigsh, same start": lambda seed: scipy_eigsh(hessian, start_vector(hessian.dim, seed)),
        "SciPy eigsh, own start": lambda seed: scipy_eigsh(hessian, None),
        "PyHessian": lambda seed: pyhessian(problem, seed),
    }
    found: dict[str, list[Found]] = {name: [] for name in solvers}
    for seed in range(seeds):
        for name, solve in solvers.items():
            if name != "PyHessian" or seed < pyhessian_seeds:
                found[name].append(solve(seed))
    truth = reference(problem)
    return [summarise(name, runs, truth) for name, runs in found.items()]


def start_vector(dim: int, seed: int) -> np.ndarray:
    """The vector with which `landscape.top_eigenpairs` starts at this seed, but for its length."""
    return torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).numpy()


def ours(operator: SymmetricOperator, seed: int) -> Found:
    """By this library."""
    started = time.perf_counter()
    pairs = top_eigenpairs(operator, K, "LM", TOL, seed)
    seconds = time.perf_counter() - started
    return Found(pairs.eigenvalues, pairs.residuals, pairs.products, pairs.products_verification, seconds)


def scipy_eigsh(operator: SymmetricOperator, start: np.ndarray | None, tol: float = TOL) -> Found:
    """By ARPACK on the same operator; the residuals are computed afterwards, outside its time and its products."""
    before, started = operator.products, time.perf_counter()
    values, vectors = scipy.sparse.linalg.eigsh(operator.to_scipy(), k=K, which="LM", tol=tol, v0=start)
    seconds, products = time.perf_counter() - started, operator.products - before
    descending = np.argsort(-np.abs(values))  # it sorts by value, which is no fault
    values, vectors = values[descending], np.ascontiguousarray(vectors[:, descending])
    residuals = operator.to_scipy() @ vectors - values * vectors
    return Found(values.astype(np.float64), np.linalg.norm(residuals, axis=0), products, 0, seconds)


def pyhessian(problem: Problem, seed: int) -> Found:
    """By PyHessian at its own defaults."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")
        found = pyhessian_eigenvalues(problem, K, seed=seed)
    return Found(found.eigenvalues, found.residuals, found.products, 0, found.seconds)


def reference(problem: Problem) -> np.ndarray:
    """(k,) the eigenvalues by ARPACK in float64 to a relative residual of 1e-6, by magnitude, descending."""
    hessian = Hessian(problem.to(dtype=torch.float64))
    return scipy_eigsh(hessian, start_vector(hessian.dim, seed=0), tol=1e-6).values


def summarise(solver: str, runs: list[Found], truth: np.ndarray) -> SolverSummary:
    """One solver's runs against the reference."""
    descending = [np.argsort(-np.abs(run.values), kind="stable") for run in runs]
    errors = [np.abs(run.values[order] / truth - 1) for run, order in zip(runs, descending, strict=True)]
    return SolverSummary(
        solver=solver,
        seeds=len(runs),
        products=Spread.of(run.products for run in runs),
        products_verification=Spread.of(run.verification for run in runs),
        products_search=Spread.of(run.products - run.verification for run in runs),
        relative_residual=Spread.of(float((run.residuals / np.abs(run.values)).max()) for run in runs),
        error=Spread.of(float(error.max()) for error in errors),
        out_of_order=Spread.of(int((order != np.arange(len(order))).sum()) for order in descending),
        off=Spread.of(int((error > OFF).sum()) for error in errors),
        seconds=Spread.of(run.seconds for run in runs),
    )
