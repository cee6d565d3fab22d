"""What is measured, on which models; without torch, so that threads can be set before it is imported."""

from __future__ import annotations

from dataclasses import dataclass

SMALL = "data/looped.pt"
GPT = "runs/gpt-0/step-004000.pt"


@dataclass(frozen=True)
class Row:
    """One model and what is done with it.

    Attributes:
        case: its name in `benchmarks.support.cases`.
        ks: how many eigenpairs are found.
        rounds: of timing products and planes.
        reaching: whether PyHessian is also made to reach the residual, which takes about a thousand products.
        points: of each axis of a plane; 0 for none.
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
        rows: the models.
        seeds: of the start vectors.
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
