"""The same eigenvalues by PyHessian, on the user's own model, side by side.

PyHessian (Yao et al. 2020) finds eigenvalues of largest magnitude one after the other, by power iteration with
deflation, and stops when an eigenvalue changes little. It differentiates the user's model and loss as they are, by the
model's own parameters, into which the weights are written for the time: nothing that this package puts into the model's
places can mislead both. The residuals of what it finds are computed here.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.problem import Problem
from landscape.problem.swap import written
from landscape.reporting.messages import cause


@dataclass(frozen=True)
class CrossCheck:
    """What PyHessian found.

    Attributes:
        eigenvalues: (k,) in the order it found them.
        residuals: (k,) ||H v - lambda v||, computed with this package's products.
        products: Hessian-vector products it made.
        seconds: it took, its own set-up included.
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    products: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As dictionaries and lists."""
        return {name: getattr(value, "tolist", lambda v=value: v)() for name, value in vars(self).items()}


def pyhessian_eigenvalues(
    problem: Problem, k: int, *, tol: float = 1e-3, max_iterations: int = 100, seed: int = 0
) -> CrossCheck:
    """PyHessian's k eigenvalues of largest magnitude; ``tol`` and ``max_iterations`` as its own defaults.

    Args:
        problem: on the CPU, or on the CUDA device 0, which are what PyHessian knows.
        k: how many.
        tol: relative change of an eigenvalue at which it stops.
        max_iterations: for each eigenvalue.
        seed: of its random start vectors.

    Raises:
        InputError: PyHessian can't work where the problem lives, or fails on it.
    """
    check_arguments("LM", str(problem.device), "hessian")
    weights = written(problem.model, problem.tensors())
    with counted_products() as count, _draws(seed), problem.evaluating(), weights as parameters:
        started = time.perf_counter()
        try:
            solver = _solver(_Shares(problem, [parameters[name] for name in problem.layout.names]))
            values, vectors = solver.eigenvalues(maxIter=max_iterations, tol=tol, top_n=k)
        except RuntimeError as error:  # for one, a loss that can be differentiated only once
            raise InputError(f"PyHessian fails on this problem ({cause(error)}); leave the cross-check out") from error
        seconds = time.perf_counter() - started
    columns = torch.stack([torch.cat([part.reshape(-1) for part in vector]) for vector in vectors], dim=1)
    residuals = _residuals(problem, np.array(values), columns / torch.linalg.vector_norm(columns, dim=0))
    return CrossCheck(np.array(values), residuals, count.products, seconds)


def check_arguments(which: str, device: str, matrix: str) -> None:
    """Refuse what PyHessian doesn't know.

    Raises:
        InputError: another matrix than the Hessian, another end of its spectrum than LM, or another device than the CPU
            or the first GPU.
    """
    if matrix != "hessian":
        raise InputError(
            "PyHessian knows the plain Hessian only: leave out --crosscheck, or --matrix and --precondition"
        )
    if which != "LM":
        raise InputError(
            f"PyHessian finds eigenvalues of largest magnitude only: --crosscheck needs --which LM, not {which}"
        )
    if device not in ("auto", "cpu", "cuda", "cuda:0"):
        raise InputError(f"PyHessian runs on cpu or cuda:0, not on {device}; leave the cross-check out")


def _residuals(problem: Problem, values: np.ndarray, columns: Tensor) -> np.ndarray:
    products = problem.hessian().matmat(columns.to(problem.device, problem.dtype))
    theta = torch.tensor(values, dtype=torch.float64, device=products.device)
    return torch.linalg.vector_norm(products - theta * columns, dim=0, dtype=torch.float64).cpu().numpy()


class _Shares(nn.Module):
    """A model of PyHessian's kind whose output on "sample" i is the objective's share of batch i, times their number.

    PyHessian averages over batches by the size of the input, so a batch with its index as the only sample gives the sum
    of the shares: the objective itself, whatever its weights.
    """

    def __init__(self, problem: Problem, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.problem = problem
        self.weights = nn.ParameterList(parameters)

    def forward(self, index: Tensor) -> Tensor:
        share = self.problem.share_as_is(self.problem.batches[int(index)]) * len(self.problem.batches)
        # PyHessian can't do without a second derivative by every parameter: by this zero, each has one.
        return share + 0 * torch.stack([weight.square().sum() for weight in self.weights]).sum()


def _solver(shares: _Shares) -> Any:
    from pyhessian import hessian

    problem = shares.problem

    def criterion(output: Tensor, _: Tensor) -> Tensor:
        return output

    batches = [(torch.tensor([index]), torch.zeros(1)) for index in range(len(problem.batches))]
    data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    return hessian(shares, criterion, **data, cuda=problem.device.type == "cuda")


class _Count:
    products = 0


@contextmanager
def counted_products() -> Iterator[_Count]:
    """Count PyHessian's products, which it makes in two places and doesn't count itself."""
    import pyhessian  # noqa: F401

    module: Any = sys.modules["pyhessian.hessian"]  # the package has a class of that name in front of it
    count = _Count()
    kept, loader = module.hessian_vector_product, module.hessian.dataloader_hv_product

    def counted(original: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            count.products += 1
            return original(*args)

        return wrapper

    module.hessian_vector_product = counted(kept)
    module.hessian.dataloader_hv_product = counted(loader)
    try:
        yield count
    finally:
        module.hessian_vector_product, module.hessian.dataloader_hv_product = kept, loader


@contextmanager
def _draws(seed: int) -> Iterator[None]:
    """PyHessian draws its vectors from the CPU's global generator, and makes torch warn."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")
        torch.default_generator.manual_seed(seed)
        yield
