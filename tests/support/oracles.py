"""Problems whose Hessian is known independently of this package, and matrices with a given spectrum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import Problem
from models.attention import AttentionModel


def symmetric(eigenvalues: np.ndarray | list[float], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    values = np.asarray(eigenvalues, dtype=float)
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    matrix = (vectors * values) @ vectors.T
    return torch.tensor((matrix + matrix.T) / 2, dtype=dtype)


def exact_hessian(problem: Problem, objective: Callable[[nn.Module, dict[str, Tensor]], Tensor]) -> Tensor:
    """The Hessian (n, n) of an objective written out by hand, forward over reverse, one column at a time.

    `torch.func.hessian` isn't used. On PyTorch 2.13 its vmap gives a wrong, asymmetric Hessian for LayerNorm, as
    central differences of the gradient show.
    """
    gradient = torch.func.grad(lambda vector: objective(problem.model, problem.layout.unflatten(vector)))
    basis = torch.eye(problem.layout.dim, dtype=problem.dtype)
    return torch.stack([torch.func.jvp(gradient, (problem.vector,), (column,))[1] for column in basis], dim=1)


def dense(operator) -> Tensor:
    """The dense matrix (n, n) of an operator."""
    return operator.matmat(torch.eye(operator.dim, dtype=operator.dtype))


@dataclass(frozen=True)
class ClosedForm:
    """A problem and its Hessian in closed form, both in float64."""

    problem: Problem
    hessian: Tensor


def linear_regression() -> ClosedForm:
    """Linear regression with the mean squared error of one output: H = (2/n) X^T X."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 7, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(7, 1, bias=False, dtype=torch.float64)
    return ClosedForm(Problem(model, nn.MSELoss(), [(x, y)]), 2 / 40 * x.T @ x)


def logistic_regression() -> ClosedForm:
    """Logistic regression with the binary cross-entropy of logits: H = X^T diag(s (1 - s)) X / n."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (60, 1), generator=generator).double()
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    s = torch.sigmoid(model(x)).detach()
    return ClosedForm(Problem(model, nn.BCEWithLogitsLoss(), [(x, y)]), x.T @ (s * (1 - s) * x) / 60)


def softmax_regression() -> ClosedForm:
    """Softmax regression at zero weights: H = (1/K)(I - 1 1^T / K) kron X^T X / n, with multiple eigenvalues and 0."""
    classes = 4
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, classes, (50,), generator=generator)
    model = nn.Linear(5, classes, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    between = (torch.eye(classes, dtype=torch.float64) - 1 / classes) / classes
    return ClosedForm(Problem(model, nn.CrossEntropyLoss(), [(x, y)]), torch.kron(between, x.T @ x / 50))


class Chain(nn.Module):
    """The map x -> w_T ... w_1 x with scalar factors, tied (one parameter used T times) or untied."""

    def __init__(self, factors: int, value: float, *, tied: bool) -> None:
        super().__init__()
        self.factors = factors
        self.weight = nn.Parameter(torch.full((1 if tied else factors,), value, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        for t in range(self.factors):
            x = x * self.weight[t % len(self.weight)]
        return x


def scalar_chain(factors: int, s: float = 1.7, *, tied: bool) -> ClosedForm:
    """A chain of T factors with the loss 1/2 (prod w - s)^2, at the balanced minimum w = s^(1/T).

    Untied H = s^(2-2/T) 1 1^T; tied H = T^2 s^(2-2/T).
    """
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


def exact_jacobian(problem: Problem, function: Callable[[nn.Module, dict[str, Tensor]], Tensor]) -> Tensor:
    """The Jacobian (*shape, n) of a tensor-valued function, forward mode, one column at a time."""

    def at(vector: Tensor) -> Tensor:
        return function(problem.model, problem.layout.unflatten(vector))

    basis = torch.eye(problem.layout.dim, dtype=problem.dtype)
    return torch.stack([torch.func.jvp(at, (problem.vector,), (column,))[1] for column in basis], dim=-1)


def second_derivative(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The second derivative (m, m) of a scalar function at a tensor of m elements, forward over reverse, by columns."""
    gradient = torch.func.grad(lambda flat: function(flat.view(point.shape)))
    basis = torch.eye(point.numel(), dtype=point.dtype)
    return torch.stack([torch.func.jvp(gradient, (point.flatten(),), (column,))[1] for column in basis], dim=1)


@dataclass(frozen=True)
class Network:
    """A model in float64, its inputs, and a class for each sample, or for each sample and position, of its logits."""

    model: nn.Module
    inputs: Tensor
    classes: Tensor

    def problem(self, loss: object, parts: list[int] | None = None, target: Tensor | None = None) -> Problem:
        """The problem of a loss on the data, in batches of the sizes ``parts``; by default one batch."""
        target = self.classes if target is None else target
        parts = [len(self.inputs)] if parts is None else parts
        return Problem(self.model, loss, list(zip(self.inputs.split(parts), target.split(parts), strict=True)))

    @cached_property
    def jacobian(self) -> Tensor:
        """The Jacobian of all outputs, (sample, class, ..., parameter)."""
        with sdpa_kernel(SDPBackend.MATH):
            return exact_jacobian(self.problem(nn.CrossEntropyLoss()), lambda m, p: call(m.eval(), p, self.inputs))

    @cached_property
    def output(self) -> Tensor:
        """All outputs, (sample, class, ...)."""
        return self.model.eval()(self.inputs).detach()


def token_network(model: Callable[..., nn.Module], **settings: object) -> Network:
    """A language model of 5 symbols on random tokens.

    The initial weights are doubled, because otherwise all curvature is small.

    Args:
        model: class of the model.
        settings: settings of the model, without the number of symbols.
    """
    tokens = torch.randint(0, 5, (5, 7), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    network = Network(model(5, **settings).double(), tokens[:, :-1], tokens[:, 1:])
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.mul_(2)
    return network


def perceptron() -> Network:
    """A perceptron of two layers on five samples of four classes."""
    g = torch.Generator().manual_seed(6)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    return Network(model, torch.randn(5, 3, generator=g).double(), torch.randint(0, 4, (5,), generator=g))


def convolutional() -> Network:
    """A convolutional network with normalisations and a head on five images of three classes."""
    g = torch.Generator().manual_seed(7)
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.GroupNorm(1, 3), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(12, 3),
    ).double()  # fmt: skip
    return Network(model, torch.randn(5, 2, 6, 6, generator=g).double(), torch.randint(0, 3, (5,), generator=g))


def _tied_attention(vocabulary: int) -> nn.Module:
    """Fused attention whose head shares the embedding's weights."""
    model = Attention(vocabulary, width=4)
    model.head.weight = model.embedding.weight
    return model


_SMALL = {"width": 4, "heads": 2, "head_width": 2}

NETWORKS: dict[str, Callable[[], Network]] = {
    "single": partial(token_network, AttentionModel, loops=1, **_SMALL),
    "looped": partial(token_network, AttentionModel, loops=3, **_SMALL),
    "linear attention": partial(token_network, AttentionModel, loops=2, attention="linear", **_SMALL),
    "normalised": partial(token_network, AttentionModel, loops=1, layer_norm=True, mlp=3, **_SMALL),
    "tied": partial(token_network, _tied_attention),
    "perceptron": perceptron,
    "convolutional": convolutional,
}


@cache
def network(name: str) -> Network:
    """One of `NETWORKS`, which is made once for all tests, with its Jacobian; tests must not change its model."""
    return NETWORKS[name]()
