"""What is measured, on which checkpoints; without torch, so that threads can be set before it is imported."""

from __future__ import annotations

from dataclasses import dataclass

SMALL = "data/looped.pt"
GPT = "runs/gpt-0/step-004000.pt"


@dataclass(frozen=True)
class Plan:
    """One run of the benchmark.

    Attributes:
        checkpoint: of the model whose eigenpairs are found.
        samples: sequences on which they are found.
        seeds: of the start vectors.
        pyhessian_seeds: the first of them, on which PyHessian runs too.
        costs: checkpoints on which products are timed, with the number of rounds.
        cost_samples: sequences on which they are timed and the memory is measured.
    """

    checkpoint: str
    samples: int
    seeds: int
    pyhessian_seeds: int
    costs: dict[str, int]
    cost_samples: int


FULL = Plan(GPT, samples=64, seeds=10, pyhessian_seeds=3, costs={GPT: 5, SMALL: 15}, cost_samples=256)
QUICK = Plan(SMALL, samples=16, seeds=2, pyhessian_seeds=1, costs={SMALL: 2}, cost_samples=16)
