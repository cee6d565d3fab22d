"""Rates of Hessian products beside plain matrix products, and of orthogonalisation beside plain copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.support.timing import Spread, alternate
from landscape.curvature.hessian import Hessian
from landscape.problem import Problem
from landscape.spectrum.basis_store import BasisStore
from models.cost import counted

_BYTES = {"cpu": 1 << 28}  # size of a basis that no cache holds
_ON_GPU = 1 << 31


@dataclass(frozen=True)
class Rate:
    """The rate of a computation, beside the highest rate of the device.

    Attributes:
        what: name of the computation.
        unit: unit of both rates.
        reached: rates of the computation over the rounds.
        most: rates of a plain matrix product or a plain copy over the same rounds.
    """

    what: str
    unit: str
    reached: Spread
    most: Spread

    @property
    def share(self) -> float:
        """The median rate of the computation divided by the median of the highest rate."""
        return self.reached.median / self.most.median


def product_rate(problem: Problem, side: int, rounds: int) -> Rate:
    """Operations a second of a Hessian product with a kept graph, beside a product of two large matrices.

    Args:
        problem: problem whose Hessian is multiplied.
        side: dimension of the matrices, large enough to fill the device.
        rounds: number of rounds of timing.
    """
    hessian = Hessian(problem, route="cached")
    with counted() as counter:
        hessian.matvec(problem.vector)
    left, right = (torch.randn(side, side, device=problem.device, dtype=problem.dtype) for _ in range(2))
    return _rate(
        "product of the Hessian", "GFLOP/s",
        (lambda: hessian.matvec(problem.vector), counter.get_total_flops()),
        (lambda: left @ right, 2 * side**3),
        problem.device, rounds,
    )  # fmt: skip


def orthogonalisation_rate(problem: Problem, rounds: int) -> Rate:
    """Bytes a second that orthogonalisation against a basis reads, beside those that a copy of the basis moves.

    Orthogonalisation has two passes, each of which reads a basis in memory twice.
    """
    count = max(1, _BYTES.get(problem.device.type, _ON_GPU) // problem.vector.nbytes)
    rows = BasisStore(count, problem.layout.dim, problem.dtype, problem.device)
    for _ in range(count):
        rows.append(torch.randn_like(problem.vector))
    copied = rows.stacked().T.contiguous()
    other, size = torch.empty_like(copied), copied.nbytes
    return _rate(
        f"orthogonalising against {count} vectors", "GB/s",
        (lambda: rows.orthogonalise(problem.vector), 4 * size),
        (lambda: other.copy_(copied), 2 * size),
        problem.device, rounds,
    )  # fmt: skip


def _rate(
    what: str,
    unit: str,
    ours: tuple[Callable[[], object], int],
    plain: tuple[Callable[[], object], int],
    device: torch.device,
    rounds: int,
) -> Rate:
    times = alternate({"ours": ours[0], "plain": plain[0]}, rounds, device)
    reached, most = (
        Spread.of(amount / row[name] / 1e9 for row in times) for name, (_, amount) in (("ours", ours), ("plain", plain))
    )
    return Rate(what, unit, reached, most)
