"""``python -m benchmarks.accuracy.sampling``: how often intervals over a population of samples hold."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from cyclopts import App
from torch import nn

from benchmarks.support.cases import ROOT, pose
from benchmarks.support.plan import SMALL
from benchmarks.support.tables import Table, share_of
from data.markov import MarkovLanguage
from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.sampling.curvature import sample_curvature
from landscape.sampling.estimates import SampledEstimate
from landscape.sampling.shares import sample_shares, shares
from landscape.spectrum.density import spectral_density
from landscape.spectrum.distribution import SpectralDensity
from models.tasks import inputs_and_targets

POPULATION = 16384
"""Sequences that stand for the population of the toy: their own standard error is an eighth of that of 256."""
K, PROBES, STEPS = 10, 4, 30
MICRO_BATCH = 512
NAMES = ("largest eigenvalue", "tenth eigenvalue", "trace", "Frobenius norm", "share above a tenth", "share above 0")
Case = Literal["toy", "digits"]


class Toy:
    """The shipped Looped-Attn on fresh sequences of the Markov language."""

    def __init__(self) -> None:
        self._base = pose(SMALL, 8)

    def sample(self, count: int, seed: int) -> Problem:
        """The problem on ``count`` fresh sequences."""
        batches = [inputs_and_targets(MarkovLanguage().sample(count, seed + 1000))]
        size = min(count, MICRO_BATCH)
        problem = Problem(self._base.model, nn.CrossEntropyLoss(), batches, micro_batch=size)
        return problem.at(self._base.vector)

    def population(self) -> Problem:
        """The problem on so many sequences that they stand for the population."""
        return self.sample(POPULATION, -1)


class Digits:
    """A small convolutional network on scikit-learn's digits; a set is drawn with replacement from all images.

    All images are the population, so the true numbers are known exactly.
    """

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        self._x = torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        self._y = torch.as_tensor(labels)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._model = nn.Sequential(
                nn.Conv2d(1, 6, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 2), nn.Tanh(), nn.Flatten(),
                nn.Linear(32, 10),
            )  # fmt: skip
            optimizer = torch.optim.Adam(self._model.parameters(), 1e-2)
            for _ in range(300):
                chosen = torch.randint(len(self._x), (64,))
                optimizer.zero_grad()
                nn.functional.cross_entropy(self._model(self._x[chosen]), self._y[chosen]).backward()
                optimizer.step()

    def sample(self, count: int, seed: int) -> Problem:
        """The problem on ``count`` images, drawn with replacement."""
        return self._on(torch.as_tensor(np.random.default_rng(seed + 1000).integers(len(self._x), size=count)))

    def population(self) -> Problem:
        """The problem on all images."""
        return self._on(torch.arange(len(self._x)))

    def _on(self, chosen: torch.Tensor) -> Problem:
        return Problem(self._model, nn.CrossEntropyLoss(), [(self._x[chosen], self._y[chosen])])


def above(density: SpectralDensity, edges: np.ndarray) -> np.ndarray:
    """The shares of a density above the edges."""
    return np.asarray(shares(density, edges, density.width).mean(0))


def hessian(problem: Problem) -> SymmetricOperator:
    """The matrix of the study."""
    return problem.hessian()


def estimates(problem: Problem, edges: np.ndarray, seed: int, with_shares: bool) -> list[SampledEstimate]:
    """The numbers of ``NAMES`` on one set of samples; shares only where asked for, since they take most of the time."""
    found = sample_curvature(problem, hessian, K, seed=seed)
    found_shares, _ = sample_shares(problem, hessian, edges, PROBES, STEPS, seed) if with_shares else ([], 0.0)
    return [found.eigenvalues[0], found.eigenvalues[-1], found.trace, found.frobenius, *found_shares]


def measure(
    case: Case, samples: int, sets: int, with_shares: int, out: Path
) -> tuple[list[SampledEstimate], list[list[SampledEstimate]]]:
    """The estimates on the population and on each set; sets that ``out`` has already aren't measured again."""
    made = Toy() if case == "toy" else Digits()
    out.mkdir(parents=True, exist_ok=True)
    truth_file, sets_file = out / f"{case}-population.json", out / f"{case}-{samples}.jsonl"
    if not truth_file.exists():
        population = made.population()
        top = sample_curvature(population, hessian, K, probes=64)
        edges = np.array([top.eigenvalues[0].value / 10, 0.0])
        density = spectral_density(hessian(population), 32 if case == "digits" else PROBES, STEPS, 0, POPULATION)
        exact = [SampledEstimate(float(each), 0.0, 0.0, (0.0, 0.0), (0.0, 0.0)) for each in above(density, edges)]
        found = [top.eigenvalues[0], top.eigenvalues[-1], top.trace, top.frobenius, *exact]
        truth_file.write_text(json.dumps([edges.tolist(), [vars(each) for each in found]]), encoding="utf-8")
    edges, truth = json.loads(truth_file.read_text(encoding="utf-8"))
    lines = sets_file.read_text(encoding="utf-8").splitlines() if sets_file.exists() else []
    with sets_file.open("a", encoding="utf-8") as file:
        for seed in range(len(lines), sets):
            found = estimates(made.sample(samples, seed), np.array(edges), seed, seed < with_shares)
            lines.append(json.dumps([vars(each) for each in found]))
            print(lines[-1], file=file, flush=True)
    return [SampledEstimate(**each) for each in truth], [
        [SampledEstimate(**each) for each in json.loads(line)] for line in lines[:sets]
    ]


def table(case: Case, samples: int, truth: list[SampledEstimate], found: list[list[SampledEstimate]]) -> Table:
    """Coverage and width of both intervals for each number."""
    rows = []
    for index, name in enumerate(NAMES):
        each, true = [one[index] for one in found if len(one) > index], truth[index]
        if len(each) < 3:
            continue
        # The population of the toy is a set itself, so its own bias is taken off; that of the digits is exact.
        best = true.value - (true.bias if case == "toy" else 0.0)
        held = [one.confidence[0] <= best <= one.confidence[1] for one in each]
        predicted = [one.prediction[0] <= other.value <= one.prediction[1] for one, other in itertools.pairwise(each)]
        width = np.median([(one.confidence[1] - one.confidence[0]) / 2 for one in each])
        values = np.array([one.value for one in each])
        rows.append(
            (
                name,
                f"{best:.4g}",
                f"{values.mean():.4g}",
                f"{best + np.mean([one.bias for one in each]):.4g}",
                share_of(sum(held), len(held)),
                share_of(sum(predicted), len(predicted)),
                f"{width / abs(best):.0%}",
                f"{np.sqrt(np.mean([one.standard_error**2 for one in each])) / values.std(ddof=1):.2f}",
            )
        )
    header = ("number", "population", "mean of sets", "expected by the bias", "confidence holds", "prediction holds",
              "half-width", "s.e./spread")  # fmt: skip
    return Table(f"{case}, {len(found)} sets of {samples:,} samples", header, rows)


app = App(name="python -m benchmarks.accuracy.sampling", version_flags=[])


@app.default
def main(*, case: Case = "toy", samples: Sequence[int] = (256, 1024), sets: int = 200, with_shares: int = 40) -> int:
    """Print, as Markdown, how often 95 % intervals over a population of samples hold.

    Sets that were measured before are kept in runs/sampling, and the same command goes on with the others.

    Args:
        case: toy (the shipped Looped-Attn on fresh sequences) or digits (a small network on scikit-learn's digits).
        samples: Numbers of samples of a set.
        sets: Number of sets; at least 3.
        with_shares: Number of sets of which shares of the density are measured too.
    """
    if sets < 3:
        print(f"error: sets must be at least 3, or nothing spreads, not {sets}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    try:
        for count in samples:
            print(
                table(case, count, *measure(case, count, sets, with_shares, ROOT / "runs" / "sampling")).markdown(),
                flush=True,
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app()
