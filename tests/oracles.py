"""Problems whose Hessian is known without this package, and matrices whose spectrum is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from landscape import Problem


def symmetric(eigenvalues: np.ndarray | list[float], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    values = np.asarray(eigenvalues, dtype=float)
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    matrix = (vectors * values) @ vectors.T
    return torch.tensor((matrix + matrix.T) / 2, dtype=dtype)


def exact_hessian(problem: Problem, objective: Callable[[nn.Module, dict[str, Tensor]], Tensor]) -> Tensor:
    """The Hessian (n, n) of an objective written out by hand, forward over reverse, one column at a time.

    Not by `torch.func.hessian`: on PyTorch 2.13 its vmap gives a wrong, asymmetric Hessian for LayerNorm, as central
    differences of the gradient show.
    """
    gradient = torch.func.grad(lambda vector: objective(problem.model, problem.layout.unflatten(vector)))
    basis = torch.eye(problem.layout.dim, dtype=problem.dtype)
    return torch.stack([torch.func.jvp(gradient, (problem.vector,), (column,))[1] for column in basis], dim=1)


def dense(operator) -> Tensor:
    """Every column of an operator."""
    return operator.matmat(torch.eye(operator.dim, dtype=operator.dtype))


@dataclass(frozen=True)
class ClosedForm:
    """A problem and its Hessian in closed form, both in float64."""

    problem: Problem
    hessian: Tensor


def linear_regression() -> ClosedForm:
    """H = (2/n) X^T X for the mean squared error of one output."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 7, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(7, 1, bias=False, dtype=torch.float64)
    return ClosedForm(Problem(model, nn.MSELoss(), [(x, y)]), 2 / 40 * x.T @ x)


def logistic_regression() -> ClosedForm:
    """H = X^T diag(s (1 - s)) X / n for the binary cross-entropy of logits."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (60, 1), generator=generator).double()
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    s = torch.sigmoid(model(x)).detach()
    return ClosedForm(Problem(model, nn.BCEWithLogitsLoss(), [(x, y)]), x.T @ (s * (1 - s) * x) / 60)


def softmax_regression() -> ClosedForm:
    """H = (1/K)(I - 1 1^T / K) kron X^T X / n at zero weights; singular, with multiple eigenvalues."""
    classes = 4
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, classes, (50,), generator=generator)
    model = nn.Linear(5, classes, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    between = (torch.eye(classes, dtype=torch.float64) - 1 / classes) / classes
    return ClosedForm(Problem(model, nn.CrossEntropyLoss(), [(x, y)]), torch.kron(between, x.T @ x / 50))


class Chain(nn.Module):
    """x -> w_T ... w_1 x with scalar factors, tied (one parameter used T times) or not."""

    def __init__(self, factors: int, value: float, *, tied: bool) -> None:
        super().__init__()
        self.factors = factors
        self.weight = nn.Parameter(torch.full((1 if tied else factors,), value, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        for t in range(self.factors):
            x = x * self.weight[t % len(self.weight)]
        return x


def scalar_chain(factors: int, s: float = 1.7, *, tied: bool) -> ClosedForm:
    """Loss 1/2 (prod w - s)^2 at the balanced minimum w = s^(1/T): H = s^(2-2/T) 1 1^T untied, T^2 s^(2-2/T) tied."""
    model = Chain(factors, s ** (1 / factors), tied=tied)
    batch = (torch.ones(1, dtype=torch.float64), torch.tensor([s], dtype=torch.float64))
    problem = Problem(model, lambda output, target: 0.5 * (output - target) ** 2, [batch])
    curvature = s ** (2 - 2 / factors)
    shape, entry = ((1, 1), factors**2 * curvature) if tied else ((factors, factors), curvature)
    return ClosedForm(problem, torch.full(shape, entry, dtype=torch.float64))


CLOSED_FORMS: dict[str, Callable[[], ClosedForm]] = {
    "linear regression": linear_regression,
    "logistic regression": logistic_regression,
    "softmax regression": softmax_regression,
    "untied chain": lambda: scalar_chain(5, tied=False),
    "tied chain": lambda: scalar_chain(5, tied=True),
}


class Attention(nn.Module):
    """One causal attention layer through torch's fused operator, with a residual and a head."""

    def __init__(self, vocabulary: int = 5, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)  # (batch, position, width)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.head(x + functional.scaled_dot_product_attention(q, k, v, is_causal=True)).transpose(1, 2)


def call(model: nn.Module, parameters: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    """The model's output with other parameters, for objectives written out by hand."""
    return functional_call(model, parameters, inputs)
