"""How close a device comes to what it can do: products to its matrix products, orthogonalising to a plain copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.support.timing import Spread, alternate
from landscape.curvature.hessian import Hessian
from landscape.problem import Problem
from landscape.spectrum.basis_store import BasisStore
from models.cost import counted

_BYTES = {"cpu": 1 << 28}  # of a basis that no cache holds
_ON_GPU = 1 << 31


@dataclass(frozen=True)
class Rate:
    """What is done in a second, beside what the device does at most.

    Attributes:
        what: was done.
        unit: of the rates.
        reached: in each round.
        most: of a plain matrix product or a plain copy in the same rounds.
    """

    what: str
    unit: str
    reached: Spread
    most: Spread

    @property
    def share(self) -> float:
        """Of the two medians."""
        return self.reached.median / self.most.median


def product_rate(problem: Problem, side: int, rounds: int) -> Rate:
    """Operations a second of a product of the Hessian, its graph kept, beside one product of large matrices.

    Args:
        problem: of the Hessian.
        side: of the matrices, enough to fill the device.
        rounds: of timing.
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
    """Bytes a second that go into orthogonalising against a basis, beside those of copying it.

    Two passes read a basis in memory twice each.
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
