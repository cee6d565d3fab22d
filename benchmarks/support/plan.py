"""The measurements of the peer benchmark, and their models.

This module doesn't import torch, so that the number of threads can be set before the import.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL = "data/looped.pt"
GPT = "runs/gpt-0/step-004000.pt"


@dataclass(frozen=True)
class Row:
    """One model and its measurements.

    Attributes:
        case: name of the model in `benchmarks.support.cases`.
        ks: numbers of eigenpairs to solve for.
        rounds: number of rounds of timing products.
        reaching: whether PyHessian also runs until it reaches the residual, which takes about a thousand products.
        points: number of points on each axis of a plane; 0 for no plane.
    """

    case: str
    ks: tuple[int, ...]
    rounds: int
    reaching: bool = False
    points: int = 0


@dataclass(frozen=True)
class Plan:
    """One run of the benchmark.

    Attributes:
        rows: models and their measurements.
        seeds: number of seeds of the start vectors.
    """

    rows: tuple[Row, ...]
    seeds: int


FULL = Plan(
    (
        Row("toy", (1, 10, 50), 15, reaching=True, points=51),
        Row("looped-66k", (1, 10, 50), 7, reaching=True, points=51),
        Row("looped-270k", (1, 10, 50), 5),
        Row("gpt-900k", (1, 10), 5),
        Row("resnet-20", (1, 10), 5, points=21),
    ),
    seeds=3,
)
QUICK = Plan((Row("tiny", (1, 3), 1, points=3),), seeds=1)
