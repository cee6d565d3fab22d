"""Top eigenpairs by this library and by others: products, time, and errors of the pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from benchmarks.peers.products import eigenthings_operator, pyhessian_solver
from benchmarks.support.plain import PlainModel
from benchmarks.support.timing import Spread
from landscape.checks.pyhessian import counted_products
from landscape.curvature.hessian import Hessian
from landscape.problem import Problem
from landscape.spectrum.eigenpairs import top_eigenpairs

TOL = 1e-3
OFF = 0.01  # an eigenvalue further from the reference than this, relative to it, counts as wrong
_STRICTER = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True)
class Found:
    """The result of one solver in one run.

    Attributes:
        values: eigenvalues in the solver's order, (k,).
        vectors: unit eigenvectors, (n, k).
        products: number of Hessian-vector products.
        verification: number of these products that only verify the result.
        seconds: time from the model to the pairs, with set-up, tracing and compilation.
        set_up: part of ``seconds`` before the solver's first step.
    """

    values: np.ndarray
    vectors: Tensor
    products: int
    verification: int
    seconds: float
    set_up: float


Solver = Callable[[Problem, int, int], Found]  # (problem, k, seed)


@dataclass(frozen=True)
class SolverSummary:
    """The results of one solver over its seeds.

    Attributes:
        solver: name of the solver.
        k: number of eigenpairs.
        seeds: number of runs.
        products: number of products of a run.
        products_verification: number of these products that only verify the result.
        relative_residual: largest computed ||H v - lambda v|| / |lambda| of a run.
        error: largest relative distance of a run's eigenvalues from the reference.
        out_of_order: number of a run's eigenvalues that aren't at the place of their magnitude.
        off: number of a run's eigenvalues whose relative distance from the reference exceeds `OFF`.
        seconds: time of a run.
        set_up: part of ``seconds`` before the solver's first step.
    """

    solver: str
    k: int
    seeds: int
    products: Spread
    products_verification: Spread
    relative_residual: Spread
    error: Spread
    out_of_order: Spread
    off: Spread
    seconds: Spread
    set_up: Spread

    @property
    def meets_tolerance(self) -> bool:
        """Whether every pair of every run has a relative residual of at most `TOL`."""
        return self.relative_residual.most <= TOL


def compare_solvers(problem: Problem, k: int, seeds: int, reaching: bool) -> list[SolverSummary]:
    """Run all solvers in turn over the seeds.

    Args:
        problem: a problem with one batch.
        k: number of eigenpairs of largest magnitude.
        seeds: number of seeds.
        reaching: whether to run PyHessian also at the first of its tolerances that brings its residuals to `TOL`.
    """
    solvers: dict[str, Solver] = {
        "landscape": landscape,
        "SciPy eigsh, double backward": scipy_eigsh,
        "SciPy eigsh, torch.func": torch_func,
        "hessian-eigenthings": eigenthings,
        "PyHessian": pyhessian,
        **({"PyHessian, to the residual": pyhessian_to_the_residual} if reaching else {}),
    }
    found: dict[str, list[Found]] = {name: [] for name in solvers}
    for seed in range(seeds):
        for name, solve in solvers.items():
            with problem.evaluating():  # an attention kernel with second derivatives, without which libraries fail
                found[name].append(solve(problem, k, seed))
    truth = reference(problem, k)
    return [summarise(name, problem, runs, truth) for name, runs in found.items()]


def landscape(problem: Problem, k: int, seed: int) -> Found:
    """The pairs by this library, at its defaults."""
    problem = problem.to()  # the copy holds no program of an earlier run
    started = time.perf_counter()
    hessian = problem.hessian(20 + 4 * k)
    ready = time.perf_counter()
    pairs = top_eigenpairs(hessian, k, "LM", TOL, seed)
    ended = time.perf_counter()
    return Found(
        pairs.eigenvalues, pairs.eigenvectors, pairs.products, pairs.products_verification, ended - started,
        ready - started,
    )  # fmt: skip


def scipy_eigsh(problem: Problem, k: int, seed: int) -> Found:
    """The pairs by ARPACK; each product computes the gradient's graph anew and differentiates it."""
    plain = PlainModel(problem)
    return _arpack(problem, k, seed, lambda vector: _flat(plain.product(plain.pieces(vector))))


def torch_func(problem: Problem, k: int, seed: int) -> Found:
    """The pairs by ARPACK with products ``jvp(grad(loss))``."""
    plain = PlainModel(problem)
    product = plain.forward_over_reverse()
    names = [name for name, _ in plain.model.named_parameters()]

    def apply(vector: Tensor) -> Tensor:
        along = dict(zip(names, plain.pieces(vector), strict=True))
        return _flat(product(along).values())

    return _arpack(problem, k, seed, apply)


def eigenthings(problem: Problem, k: int, seed: int) -> Found:
    """The pairs by hessian-eigenthings, with the fewest steps at which it reports that all pairs converged.

    Its Lanczos method has no restart and a fixed number of steps. The number is raised by ten until all pairs converge.
    Only the last attempt is counted.
    """
    from hessian_eigenthings import lanczos

    plain = PlainModel(problem)
    steps, converged = 2 * k, False
    while not converged:
        started = time.perf_counter()
        found = lanczos(eigenthings_operator(plain), k=k, max_iter=steps, tol=TOL, reorthogonalize=True, seed=seed)
        seconds = time.perf_counter() - started
        converged = bool(found.converged.all())
        steps += 10
    vectors = found.eigenvectors.T / torch.linalg.vector_norm(found.eigenvectors, dim=1)
    return Found(found.eigenvalues.double().cpu().numpy(), vectors, found.iterations, 0, seconds, 0.0)


def pyhessian(problem: Problem, k: int, seed: int, tol: float = 1e-3, iterations: int = 100) -> Found:
    """The pairs by PyHessian, by default at its own default tolerance and number of iterations."""
    plain = PlainModel(problem)
    with torch.random.fork_rng(devices=[]), counted_products() as count:
        torch.manual_seed(seed)
        started = time.perf_counter()
        solver = pyhessian_solver(plain)
        ready = time.perf_counter()
        values, vectors = solver.eigenvalues(maxIter=iterations, tol=tol, top_n=k)
        ended = time.perf_counter()
        plain.model.zero_grad()  # frees the cycle of a parameter and a gradient with a graph
    columns = torch.stack([_flat(vector) for vector in vectors], dim=1)
    columns /= torch.linalg.vector_norm(columns, dim=0)
    return Found(np.array(values), columns, count.products, 0, ended - started, ready - started)


def pyhessian_to_the_residual(problem: Problem, k: int, seed: int) -> Found:
    """The pairs by PyHessian at its first tolerance that brings every residual to `TOL`, or at the last tolerance."""
    for tol in _STRICTER:
        found = pyhessian(problem, k, seed, tol, iterations=5000)
        if relative_residuals(problem, found).max() <= TOL:
            break
    return found


def relative_residuals(problem: Problem, found: Found) -> np.ndarray:
    """Residuals ||H v - lambda v|| / |lambda| of the pairs, (k,), with products that aren't counted."""
    products = Hessian(problem, route="cached").matmat(found.vectors.to(problem.vector).contiguous())
    theta = torch.as_tensor(found.values.copy()).to(problem.vector)
    norms = torch.linalg.vector_norm(products - theta * found.vectors.to(products), dim=0, dtype=torch.float64)
    return np.asarray(norms.cpu().numpy() / np.abs(found.values))


def reference(problem: Problem, k: int) -> np.ndarray:
    """Reference eigenvalues (k,) by ARPACK in float64 with a tolerance of 1e-6, by magnitude, descending."""
    hessian = Hessian(problem.to(dtype=torch.float64)).to_scipy()
    values, _ = scipy.sparse.linalg.eigsh(hessian, k=k, which="LM", tol=1e-6, v0=_start(hessian.shape[0], 0))
    return np.asarray(values[np.argsort(-np.abs(values))])


def summarise(solver: str, problem: Problem, runs: Sequence[Found], truth: np.ndarray) -> SolverSummary:
    """Compare one solver's runs with the reference."""
    descending = [np.argsort(-np.abs(run.values), kind="stable") for run in runs]
    errors = [np.abs(run.values[order] / truth - 1) for run, order in zip(runs, descending, strict=True)]
    return SolverSummary(
        solver=solver,
        k=len(truth),
        seeds=len(runs),
        products=Spread.of(run.products for run in runs),
        products_verification=Spread.of(run.verification for run in runs),
        relative_residual=Spread.of(float(relative_residuals(problem, run).max()) for run in runs),
        error=Spread.of(float(error.max()) for error in errors),
        out_of_order=Spread.of(int((order != np.arange(len(order))).sum()) for order in descending),
        off=Spread.of(int((error > OFF).sum()) for error in errors),
        seconds=Spread.of(run.seconds for run in runs),
        set_up=Spread.of(run.set_up for run in runs),
    )


def _arpack(problem: Problem, k: int, seed: int, product: Callable[[Tensor], Tensor]) -> Found:
    count = 0

    def apply(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return product(torch.as_tensor(vector.reshape(-1)).to(problem.vector)).cpu().numpy()

    dim = problem.layout.dim
    operator = scipy.sparse.linalg.LinearOperator((dim, dim), matvec=apply, dtype=np.float32)
    started = time.perf_counter()
    values, vectors = scipy.sparse.linalg.eigsh(operator, k=k, which="LM", tol=TOL, v0=_start(dim, seed))
    seconds = time.perf_counter() - started
    order = np.argsort(-np.abs(values))  # ARPACK sorts by value, which isn't counted as out of order
    return Found(values[order].astype(np.float64), torch.as_tensor(vectors[:, order].copy()), count, 0, seconds, 0.0)


def _start(dim: int, seed: int) -> np.ndarray:
    """The start vector of `landscape.top_eigenpairs` at this seed, up to its length."""
    return torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).numpy()


def _flat(pieces: Iterable[Tensor]) -> Tensor:
    return torch.cat([piece.detach().reshape(-1) for piece in pieces])
