"""Cross-check of the top eigenvalues by PyHessian, on the user's own model.

PyHessian (Yao et al. 2020) finds eigenvalues of largest magnitude one after the other, by power iteration with
deflation. It stops when an eigenvalue changes little. PyHessian differentiates the user's model and loss as they are,
by the model's own parameters. The weights are written into these parameters during the cross-check. An error in the
tensors that this package puts in the parameters' place can therefore not mislead both solvers. The residual norms of
PyHessian's eigenpairs are computed here.
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
    """PyHessian's eigenvalues, their residual norms and their cost.

    Attributes:
        eigenvalues: (k,), in the order in which PyHessian found them.
        residuals: residual norms ||H v - lambda v||, (k,), computed with this package's products.
        products: number of Hessian-vector products that PyHessian made.
        seconds: time that PyHessian took, its own set-up included.
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    products: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        """The cross-check as dictionaries and lists."""
        return {name: getattr(value, "tolist", lambda v=value: v)() for name, value in vars(self).items()}


def pyhessian_eigenvalues(
    problem: Problem, k: int, *, tol: float = 1e-3, max_iterations: int = 100, seed: int = 0
) -> CrossCheck:
    """PyHessian's k eigenvalues of largest magnitude; the defaults of the other arguments are PyHessian's own.

    Args:
        problem: a problem on the CPU or on CUDA device 0, the two devices that PyHessian can use.
        k: number of eigenvalues.
        tol: relative change of an eigenvalue at which its iteration stops; default: 1e-3.
        max_iterations: largest number of iterations for each eigenvalue; default: 100.
        seed: seed of PyHessian's random start vectors; default: 0.

    Raises:
        InputError: PyHessian can't use the problem's device, or fails on the problem.
    """
    check_arguments("LM", str(problem.device), "hessian")
    weights = written(problem.model, problem.tensors())
    with counted_products() as count, _draws(seed), problem.evaluating(), weights as parameters:
        started = time.perf_counter()
        try:
            solver = _solver(_Shares(problem, [parameters[name] for name in problem.layout.names]))
            values, vectors = solver.eigenvalues(maxIter=max_iterations, tol=tol, top_n=k)
        except RuntimeError as error:  # such as for a loss that can be differentiated only once
            raise InputError(f"PyHessian fails on this problem ({cause(error)}); leave the cross-check out") from error
        seconds = time.perf_counter() - started
    columns = torch.stack([torch.cat([part.reshape(-1) for part in vector]) for vector in vectors], dim=1)
    residuals = _residuals(problem, np.array(values), columns / torch.linalg.vector_norm(columns, dim=0))
    return CrossCheck(np.array(values), residuals, count.products, seconds)


def check_arguments(which: str, device: str, matrix: str) -> None:
    """Refuse arguments that PyHessian doesn't support.

    Raises:
        InputError: the matrix isn't the Hessian, the end of the spectrum isn't LM, or the device is neither the CPU nor
            the first GPU.
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
    """A model for PyHessian whose output on "sample" i is batch i's share of the objective, times the batches' number.

    PyHessian averages over batches by the size of the input. Each batch gets its index as the only sample, so the
    average is the sum of the shares: the objective itself, with any weights.
    """

    def __init__(self, problem: Problem, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.problem = problem
        self.weights = nn.ParameterList(parameters)

    def forward(self, index: Tensor) -> Tensor:
        share = self.problem.share_as_is(self.problem.batches[int(index)]) * len(self.problem.batches)
        # PyHessian needs a second derivative by every parameter: this zero gives each parameter one.
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

    module: Any = sys.modules["pyhessian.hessian"]  # as an attribute of the package, this name is a class
    count = _Count()
    own, loader = module.hessian_vector_product, module.hessian.dataloader_hv_product

    def counted(original: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            count.products += 1
            return original(*args)

        return wrapper

    module.hessian_vector_product = counted(own)
    module.hessian.dataloader_hv_product = counted(loader)
    try:
        yield count
    finally:
        module.hessian_vector_product, module.hessian.dataloader_hv_product = own, loader


@contextmanager
def _draws(seed: int) -> Iterator[None]:
    """Seed the CPU's global generator, which PyHessian draws from, and silence a warning that PyHessian causes."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")
        torch.default_generator.manual_seed(seed)
        yield
