"""``python -m benchmarks.accuracy.invariances``: which measure of sharpness a symmetry of a network changes.

Each symmetry leaves the network's function and the loss unchanged (Dinh, Pascanu, Bengio and Bengio 2017, section 5),
or turns the axes of parameter space. Every measure is taken before and after, in float64, and the table has the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from cyclopts import App
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.support.tables import Table
from landscape import Problem, full_spectrum
from landscape.sharpness.average_case import average_case
from landscape.sharpness.neighbourhood import Name, worst_case
from landscape.sharpness.rises import Rises

MEASURES = ("largest eigenvalue", "trace", "ball", "adaptive ball", "box", "isotropic noise", "adaptive noise")
RADII: dict[Name, float] = {"ball": 0.05, "adaptive": 0.05, "box": 0.01}
RADIUS_OF_NOISE, PAIRS = 0.05, 300
FACTOR = 3.0
app = App(help="Measure what symmetries of a network do to measures of sharpness.", version_flags=[])


def network(between: Callable[[int], nn.Module] = lambda width: nn.Identity(), bias: bool = True) -> nn.Sequential:
    """A trained ReLU network of one hidden layer, with a layer between the first weights and the ReLU."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(4, 6, bias=bias), between(6), nn.ReLU(), nn.Linear(6, 3)
    model, (x, y) = nn.Sequential(*layers).double(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return model


def data() -> tuple[Tensor, Tensor]:
    """Fixed random inputs (32, 4) and targets (32, 3)."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(32, size, generator=generator, dtype=torch.float64) for size in (4, 3))
    return x, y


def posed(model: nn.Module) -> Problem:
    """The mean squared error of a model on `data`; BatchNorm normalises by the batch."""
    return Problem(model, nn.MSELoss(), [data()], dtype=torch.float64, training=True)


def scaled(model: nn.Sequential, factors: Tensor) -> nn.Sequential:
    """The network with the inputs of its hidden units multiplied and their outputs divided by factors (6,)."""
    state = model.state_dict()
    state["0.weight"] *= factors[:, None]
    state["0.bias"] *= factors
    state["3.weight"] /= factors
    return model


def scaled_before_norm(model: nn.Sequential) -> nn.Sequential:
    """The network with the weights in front of its normalisation multiplied by `FACTOR`."""
    model.state_dict()["0.weight"].mul_(FACTOR)
    return model


def permuted(model: nn.Sequential) -> nn.Sequential:
    """The network with its hidden units in the opposite order."""
    state = model.state_dict()
    for name, axis in (("0.weight", 0), ("0.bias", 0), ("3.weight", 1)):
        state[name].copy_(state[name].flip(axis))
    return model


class Rotated(nn.Module):
    """A network as a function of its flat parameter vector in rotated axes."""

    rotation: Tensor

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        flat = torch.cat([each.detach().flatten() for each in model.parameters()])
        generator = torch.Generator().manual_seed(2)
        square = torch.randn(len(flat), len(flat), generator=generator, dtype=torch.float64)
        self.register_buffer("rotation", torch.linalg.qr(square).Q)
        self.theta = nn.Parameter(self.rotation.T @ flat)
        self.shapes = {name: each.shape for name, each in model.named_parameters()}
        self.inner = [model.requires_grad_(False)]  # in a list, so that its parameters aren't this module's

    def forward(self, x: Tensor) -> Tensor:
        """The output of the network whose parameters are the rotated ``theta``."""
        pieces = (self.rotation @ self.theta).split([shape.numel() for shape in self.shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
        return functional_call(self.inner[0], named, (x,))


def _norm(kind: type[nn.BatchNorm1d] | type[nn.LayerNorm]) -> nn.Sequential:
    return network(lambda width: kind(width, eps=1e-30), bias=False)


SYMMETRIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "layer-wise rescaling of a ReLU network": (network, lambda: scaled(network(), torch.full((6,), FACTOR).double())),
    "neuron-wise rescaling of a ReLU network": (
        network, lambda: scaled(network(), torch.tensor([0.25, 0.5, 1, 2, 3, 4]).double())
    ),
    "scale of weights before BatchNorm": (
        lambda: _norm(nn.BatchNorm1d), lambda: scaled_before_norm(_norm(nn.BatchNorm1d))
    ),
    "scale of weights before LayerNorm": (lambda: _norm(nn.LayerNorm), lambda: scaled_before_norm(_norm(nn.LayerNorm))),
    "permutation of hidden units": (network, lambda: permuted(network())),
    "rotation of parameter space": (network, lambda: Rotated(network())),
}  # fmt: skip


def measures(problem: Problem) -> dict[str, tuple[float, float]]:
    """Each measure of `MEASURES` with its standard error over draws; 0 for a measure without draws."""
    rises, spectrum = Rises(problem), full_spectrum(problem.hessian()).eigenvalues
    largest = [float(worst_case(rises, name, [radius]).rises[0]) for name, radius in RADII.items()]
    noise = [
        average_case(rises, kind, [RADIUS_OF_NOISE], pairs=PAIRS).estimates[0] for kind in ("isotropic", "adaptive")
    ]
    values = [(float(each), 0.0) for each in (spectrum.max(), spectrum.sum(), *largest)]
    return dict(zip(MEASURES, [*values, *((each.value, each.standard_error) for each in noise)], strict=True))


def ratios(symmetry: str) -> dict[str, tuple[float, float]]:
    """Each measure after a symmetry divided by the measure before, with the standard error of independent draws."""
    before, after = (posed(make()) for make in SYMMETRIES[symmetry])
    if not math.isclose(before.loss(), after.loss(), rel_tol=1e-12):
        raise AssertionError(f"the {symmetry} changes the loss from {before.loss()} to {after.loss()}")
    old, new = measures(before), measures(after)
    found = {}
    for name in MEASURES:
        (x, error_x), (y, error_y) = old[name], new[name]
        found[name] = y / x, abs(y / x) * math.hypot(error_x / x, error_y / y)
    return found


def cell(ratio: float, error: float) -> str:
    """A ratio for the table, with its error where the draws before and after differ."""
    if abs(ratio - 1) < 1e-6 or not error:
        return f"{ratio:.3g}"
    return f"{ratio:.2f} ± {error:.2f}"


@app.default
def main() -> None:
    """Print, as Markdown, the ratio of every measure after and before every symmetry."""
    rows = [(symmetry, *(cell(*each) for each in ratios(symmetry).values())) for symmetry in SYMMETRIES]
    print(Table("Measures after a symmetry divided by measures before", ("symmetry", *MEASURES), rows).markdown())


if __name__ == "__main__":
    app()
