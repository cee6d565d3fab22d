"""``python -m benchmarks.accuracy.precision [cost]``: how often intervals of eigenvalues in float32 hold the truth.

Each problem is solved for its five largest eigenvalues in float32. An interval is right if it holds an eigenvalue of
the dense Hessian of the same model and data in float64. In five families of models, rounding in the forward pass makes
large errors. Version 0.1 had no products in float64; the wrong intervals that it would give are counted too.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from cyclopts import App
from scipy.stats import beta
from torch import Tensor, nn

from benchmarks.support.cases import CASES
from benchmarks.support.machine import this_machine
from benchmarks.support.tables import Table
from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.spectrum.basis_memory import basis_capacity
from landscape.spectrum.eigenpairs import products_allowed, top_eigenpairs
from landscape.spectrum.iteration import Goal
from landscape.spectrum.krylov import KrylovBasis
from landscape.spectrum.rounding import IN_FLOAT64
from landscape.spectrum.solve import Solve

K, TOP = 5, 10
SAMPLES, CLASSES, FEATURES = 60, 3, 5


class Standardising(nn.Module):
    """A network that standardises its raw inputs (a pressure in Pa, a year, a price) itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))))


class Looped(nn.Module):
    """One layer that is applied 12 times, with a gain that keeps the iterates moving."""

    def __init__(self, gain: float, width: int = 7) -> None:
        super().__init__()
        self.first, self.block, self.last = (
            nn.Linear(FEATURES, width),
            nn.Linear(width, width),
            nn.Linear(width, CLASSES),
        )
        nn.init.normal_(self.block.weight, 0, gain / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(12):
            x = torch.tanh(self.block(x))
        return self.last(x)


class Scaled(nn.Module):
    """A network whose logits are multiplied by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 8), nn.GELU(), nn.Linear(8, CLASSES))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.body(x)


class Attending(nn.Module):
    """One head of attention over the features as tokens; a factor multiplies the attention logits."""

    def __init__(self, factor: float, width: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.last, self.factor = nn.Linear(width, CLASSES), factor

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(x.unsqueeze(2))
        logits = self.factor * self.query(tokens) @ self.key(tokens).transpose(1, 2)
        return self.last((logits.softmax(2) @ self.value(tokens)).mean(1))


def deep(width: int = 4) -> nn.Module:
    """A tanh network of 20 layers of gain 4."""
    layers: list[nn.Module] = [nn.Linear(FEATURES, width), nn.Tanh()]
    for _ in range(18):
        layers += [nn.Linear(width, width), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(width, CLASSES))
    for each in model:
        if isinstance(each, nn.Linear):
            nn.init.normal_(each.weight, 0, 4 / math.sqrt(each.in_features))
    return model


def convolutional() -> nn.Module:
    """A small convolutional network over the features."""
    return nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * FEATURES, CLASSES),
    )  # fmt: skip


def perceptron() -> nn.Module:
    """A multi-layer perceptron with layer normalisation."""
    return nn.Sequential(
        nn.Linear(FEATURES, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, CLASSES)
    )


FAMILIES: dict[str, tuple[bool, Callable[[np.random.Generator], tuple[nn.Module, float]]]] = {
    "perceptron": (True, lambda rng: (perceptron(), 0.0)),
    "convolutional": (True, lambda rng: (convolutional(), 0.0)),
    "one head of attention": (True, lambda rng: (Attending(0.5), 0.0)),
    "inputs standardised in the model": (False, lambda rng: (Standardising(), 10 ** rng.uniform(4, 6))),
    "20 tanh layers of gain 4": (False, lambda rng: (deep(), 0.0)),
    "12 passes of a loop": (False, lambda rng: (Looped(rng.uniform(1, 4)), 0.0)),
    "large logits": (False, lambda rng: (Scaled(10 ** rng.uniform(1, 2.5)), 0.0)),
    "large logits of attention": (False, lambda rng: (Attending(10 ** rng.uniform(1, 2.5)), 0.0)),
}
"""By name: whether the family's models are ordinary, and a function that makes a model and the offset of its inputs."""


@dataclass(frozen=True)
class Outcome:
    """The intervals of one problem, compared with its Hessian in float64.

    Attributes:
        wrong: number of intervals that hold no eigenvalue of the Hessian in float64.
        wrong_before: number of wrong intervals by products in float32 alone, as in version 0.1.
        widths: widths of the intervals, relative to those by products in float32 alone, (k,).
        worded: whether the result says that its intervals are of the Hessian as computed in float32.
        converged: number of converged pairs.
        seconds: time of the solve.
    """

    wrong: int
    wrong_before: int
    widths: np.ndarray
    worded: bool
    converged: int
    seconds: float


def posed(family: str, seed: int) -> Problem:
    """Problem number ``seed`` of a family, with its own weights and data; every second one is trained a little."""
    rng = np.random.default_rng([seed, list(FAMILIES).index(family)])
    torch.manual_seed(int(rng.integers(1 << 31)))
    model, offset = FAMILIES[family][1](rng)
    x, y = torch.randn(SAMPLES, FEATURES), torch.randint(0, CLASSES, (SAMPLES,))
    x = x + offset
    if seed % 2:
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return Problem(model.eval(), nn.CrossEntropyLoss(), [(x, y)])


def spectrum_in_float64(problem: Problem) -> np.ndarray:
    """The eigenvalues (n,) of the dense Hessian in float64."""
    wide = problem.to(dtype=torch.float64).hessian()
    matrix = wide.matmat(torch.eye(wide.dim, dtype=torch.float64)).numpy()
    return np.asarray(np.linalg.eigvalsh((matrix + matrix.T) / 2))


def outcome(problem: Problem, seed: int) -> Outcome:
    """Solve a problem in float32 and compare its intervals with the eigenvalues of its Hessian in float64."""
    started = time.perf_counter()
    operator = problem.hessian()
    basis = KrylovBasis(operator, basis_capacity(operator, K), seed)
    solve = Solve(operator, Goal(K, "LM", 1e-3, products_allowed(K, None)), basis, lambda _: None, seed)
    before = solve.searched()
    found = solve.certify(before)
    seconds, exact = time.perf_counter() - started, spectrum_in_float64(problem)
    return Outcome(
        wrong=_without(found.intervals, exact),
        wrong_before=_without(before.intervals, exact),
        widths=np.ptp(found.intervals, axis=1) / np.ptp(before.intervals, axis=1),
        worded=found.arithmetic != IN_FLOAT64,
        converged=int(found.converged.sum()),
        seconds=seconds,
    )


def _without(intervals: np.ndarray, exact: np.ndarray) -> int:
    """How many intervals (k, 2) hold none of the numbers (n,)."""
    within = (exact >= intervals[:, :1]) & (exact <= intervals[:, 1:])
    return int((~within.any(axis=1)).sum())


def most_wrong(wrong: int, problems: int) -> float:
    """The upper end of the one-sided 95 % interval of a share (Clopper and Pearson 1934)."""
    return 1.0 if wrong == problems else float(beta.ppf(0.95, wrong + 1, problems - wrong))


def table(outcomes: dict[str, list[Outcome]]) -> Table:
    """The table with a row for each family, for all ordinary models, and for all models.

    A problem counts as wrong if one of its intervals is wrong.
    """
    everything = [each for found in outcomes.values() for each in found]
    ordinary = [each for name, found in outcomes.items() if FAMILIES[name][0] for each in found]
    groups = outcomes | {"all ordinary models": ordinary, "all": everything}
    return Table(
        f"Problems with a wrong interval among {K}, float32",
        ("models", "problems", "wrong", "at most (95 %)", "by products in float32 alone", "median width by theirs",
         "as computed in float32", "pairs converged"),
        [_row(name, found) for name, found in groups.items()],
    )  # fmt: skip


def _row(name: str, found: list[Outcome]) -> tuple[str, ...]:
    wrong, before = (sum(bool(getattr(each, field)) for each in found) for field in ("wrong", "wrong_before"))
    widths = np.median(np.concatenate([each.widths for each in found]))
    worded, converged = sum(each.worded for each in found), sum(each.converged for each in found)
    return (
        name, str(len(found)), str(wrong), f"{most_wrong(wrong, len(found)):.2%}", str(before), f"{widths:.2f}",
        str(worded), f"{converged / (K * len(found)):.1%}",
    )  # fmt: skip


class Alone(SymmetricOperator):
    """An operator without its products in float64."""

    def __init__(self, operator: SymmetricOperator) -> None:
        super().__init__(operator.dim, operator.device, operator.dtype)
        self._operator = operator

    def _product(self, vectors: Tensor) -> Tensor:
        return self._operator.matmat(vectors)


def cost(case: str, seeds: int = 3) -> tuple[str, ...]:
    """The row of one model: what products in float64 add to a solve for ten pairs, set-up included."""
    problem = CASES[case][1]()
    made: dict[bool, list[int]] = {True: [], False: []}
    took: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(seeds):
        for measured in (False, True):
            started = time.perf_counter()
            hessian = problem.to().hessian(20 + 4 * TOP)
            found = top_eigenpairs(hessian if measured else Alone(hessian), TOP, seed=seed)
            took[measured].append(time.perf_counter() - started)
            made[measured].append(found.products)
    (alone, all_products), (before, seconds) = (
        (statistics.median(each[False]), statistics.median(each[True])) for each in (made, took)
    )
    shares = [after / first - 1 for first, after in zip(took[False], took[True], strict=True)]
    return (
        case, f"{alone:.0f}", f"{all_products:.0f}", f"{before:.1f}", f"{seconds:.1f}",
        f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})", found.arithmetic,
    )  # fmt: skip


app = App(name="python -m benchmarks.accuracy.precision", version_flags=[])


@app.command(name="cost")
def costs(*cases: str) -> None:
    """Print, as Markdown, the products and seconds that float64 adds to solves for ten eigenpairs.

    Args:
        cases: Names of benchmark models; default: toy, looped-66k, looped-270k, gpt-900k and resnet-20.
    """
    torch.set_num_threads(1)
    rows = [cost(case) for case in cases or ("toy", "looped-66k", "looped-270k", "gpt-900k", "resnet-20")]
    header = ("", "products in float32 alone", "products", "seconds in float32 alone", "seconds", "added", "errors")
    title = "What products in float64 add to ten eigenpairs, one thread, medians of three seeds"
    print(f"{this_machine(torch.device('cpu'))}\n\n{Table(title, header, rows).markdown()}")


@app.default
def main(problems: int = 300, *, seed: int = 0) -> int:
    """Print, as Markdown, how often intervals of eigenvalues hold the truth; a quarter of an hour on one core.

    The exit status is 1 if an interval is wrong.

    Args:
        problems: Number of problems of each family.
        seed: Number of the first problem.
    """
    torch.set_num_threads(1)
    outcomes: dict[str, list[Outcome]] = {}
    for family in FAMILIES:
        outcomes[family] = []
        for number in range(seed, seed + problems):
            try:
                outcomes[family].append(outcome(posed(family, number), number))
            except InputError as error:
                print(f"{family} {number}: {error}", file=sys.stderr)
        print(f"{family}: {sum(each.seconds for each in outcomes[family]):.0f} s", file=sys.stderr)
    print(f"{this_machine(torch.device('cpu'))}\n\n{table(outcomes).markdown()}")
    return int(any(each.wrong for found in outcomes.values() for each in found))


if __name__ == "__main__":
    app()
