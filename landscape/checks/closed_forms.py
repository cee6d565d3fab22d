"""Problems whose Hessian is known in closed form, to test the results of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from landscape.problem import Problem
from landscape.spectrum.eigenpairs import top_eigenpairs
from landscape.spectrum.trace import estimate_trace

_SAMPLES, _FEATURES, _CLASSES = 60, 8, 4
_ROUNDINGS = 100
"""Largest error of a sum over the samples, in roundings."""


@dataclass(frozen=True)
class ClosedForm:
    """A problem and its Hessian in closed form.

    Attributes:
        name: name of the problem.
        problem: the problem, in float64 on the CPU.
        hessian: the Hessian, (dim, dim), float64.
    """

    name: str
    problem: Problem
    hessian: np.ndarray


@dataclass(frozen=True)
class Compared:
    """The error of one computed quantity against its closed form.

    Attributes:
        case: name of the problem, and its precision.
        quantity: name of the quantity.
        error: absolute error of the quantity.
        allowed: largest allowed error: the error that an estimate states, if any, plus rounding.
    """

    case: str
    quantity: str
    error: float
    allowed: float

    @property
    def right(self) -> bool:
        """Whether the error is at most the allowed one."""
        return self.error <= self.allowed


class _Product(nn.Module):
    """The model w_1 w_2 ... w_n x."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights.prod() * x


class _Quadratic(nn.Module):
    """The model w^T A w / 2, whose Hessian is A."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(len(matrix), dtype=matrix.dtype))
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weights @ self.matrix @ self.weights / 2).expand(len(x))


def closed_forms() -> list[ClosedForm]:
    """Four problems, with Hessians that are definite, singular with multiple eigenvalues, indefinite, and clustered."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((_SAMPLES, _FEATURES))
    data, zeros = torch.from_numpy(x), torch.zeros(_SAMPLES, dtype=torch.float64)
    second = x.T @ x / _SAMPLES

    # H = 2/n X^T X of the mean squared error.
    regression = nn.Linear(_FEATURES, 1, bias=False, dtype=torch.float64)
    least_squares = Problem(regression, nn.MSELoss(), [(data, zeros[:, None])])

    # At weights of zero all classes have p = 1/C: H = (I/C - 1 1^T/C^2) (x) X^T X/n, with each eigenvalue C - 1 times.
    softmax = nn.Linear(_FEATURES, _CLASSES, bias=False, dtype=torch.float64)
    nn.init.zeros_(softmax.weight)
    labels = torch.arange(_SAMPLES) % _CLASSES
    uniform = np.eye(_CLASSES) / _CLASSES - np.full((_CLASSES, _CLASSES), 1 / _CLASSES**2)

    # (p - y)^2 with p the product: H_ij = 2 (p^2 + (p - y) p [i != j]) / (w_i w_j).
    w, y = np.array([1.2, -0.7, 0.9]), 2.0
    p = w.prod()
    deep = 2 * (p * p + (p - y) * p * (1 - np.eye(3))) / np.outer(w, w)
    one = torch.ones(1, 1, dtype=torch.float64)

    values = np.concatenate([[5, 5, 5, 4.999, -3, -3], np.linspace(-1, 1, 30)])
    vectors, _ = np.linalg.qr(draw.standard_normal((len(values), len(values))))
    matrix = (vectors * values) @ vectors.T

    return [
        ClosedForm("least squares", least_squares, 2 * second),
        ClosedForm("softmax regression at zero", Problem(softmax, nn.CrossEntropyLoss(), [(data, labels)]),
                   np.kron(uniform, second)),
        ClosedForm("product of three weights", Problem(_Product(torch.from_numpy(w)), nn.MSELoss(), [(one, y * one)]),
                   deep),
        ClosedForm("multiple and clustered eigenvalues",
                   Problem(_Quadratic(torch.from_numpy(matrix)), _itself, [(data, zeros)]), matrix),
    ]  # fmt: skip


def _itself(output: Tensor, target: Tensor) -> Tensor:
    return output


def compare(device: str = "cpu") -> Iterator[Compared]:
    """Compare products, top eigenvalues and traces with all closed forms, in float32 and float64.

    Args:
        device: device of the computation; default: the CPU.
    """
    for form in closed_forms():
        for dtype in (torch.float32, torch.float64):
            case = f"{form.name}, {str(dtype).removeprefix('torch.')}"
            yield from _compared(case, form, form.problem.to(device, dtype))


def _compared(case: str, form: ClosedForm, problem: Problem) -> Iterator[Compared]:
    operator = problem.hessian()
    eye = torch.eye(operator.dim, dtype=problem.dtype, device=problem.device)
    computed = operator.matmat(eye).to("cpu", torch.float64).numpy()
    size = float(np.linalg.norm(form.hessian, 2))
    rounding = _ROUNDINGS * torch.finfo(problem.dtype).eps * size
    yield Compared(case, "products", float(np.abs(computed - form.hessian).max()), rounding)

    values = np.linalg.eigvalsh(form.hessian)
    expected = values[np.argsort(-np.abs(values), kind="stable")]
    k = min(5, operator.dim)
    pairs = top_eigenpairs(operator, k=k)
    order = np.argsort(pairs.eigenvalues)
    off = np.abs(pairs.eigenvalues[order] - np.sort(expected[:k]))
    allowed = (pairs.residuals + pairs.rounding)[order] + rounding
    worst = int(np.argmax(off / allowed))
    yield Compared(case, f"top {k} eigenvalues", float(off[worst]), float(allowed[worst]))

    trace = estimate_trace(operator).trace
    off_trace = abs(trace.value - float(np.trace(form.hessian)))
    yield Compared(case, "trace", off_trace, (trace.high - trace.low) / 2 + rounding * operator.dim)
