"""The measurements for each criterion once an epoch, and their cost."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import landscape
from models.cost import counted
from models.settings import SwitchSettings

Data = tuple[Tensor, Tensor]
EIGENVALUE_TOLERANCE = 1e-2


class Watch:
    """A criterion, and its measurements on a fixed subset of data.

    Attributes:
        criterion: the criterion, see `landscape.dynamics.plateau` and `models.criteria`.
    """

    def __init__(self, switch: SwitchSettings, subset: Callable[[], Data]) -> None:
        """Make the criterion of these settings, and the subset if the criterion measures anything on it."""
        self.criterion = switch.criterion_object()
        self._latest = math.inf if switch.latest is None else switch.latest
        self._measure = {"shift": _gradient_norm, "gradient": _gradient_norm, "curvature": _top_eigenvalue}.get(
            switch.criterion
        )
        self._subset = subset() if self._measure else None

    def look(self, model: nn.Module) -> dict[str, float]:
        """Measure a model for the criterion; empty if the criterion needs no measurement."""
        return {} if self._measure is None or self._subset is None else self._measure(model, self._subset)

    def cost(self, model: nn.Module) -> int:
        """The floating-point operations of `look`, by one more call: counting would disturb the timing of the first."""
        with counted() as flops:
            self.look(model)
        return int(flops.get_total_flops())

    def tell(self, epoch: int, values: dict[str, float]) -> bool:
        """Pass the numbers of an epoch, counted from 1, to the criterion, and return whether to switch after it."""
        fires = self.criterion.watch(values)
        return fires or epoch >= self._latest


def _gradient_norm(model: nn.Module, data: Data) -> dict[str, float]:
    loss = nn.functional.cross_entropy(model(data[0]), data[1])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return {"grad_norm": math.sqrt(sum(float(each.double().square().sum()) for each in gradients))}


def _top_eigenvalue(model: nn.Module, data: Data) -> dict[str, float]:
    problem = landscape.Problem(model, nn.CrossEntropyLoss(), [data])
    pairs = landscape.top_eigenpairs(problem.hessian(), k=1, which="LA", tol=EIGENVALUE_TOLERANCE)
    # A NaN is never calm, so an eigenvalue that didn't converge can't lead to a switch.
    return {"top_eigenvalue": float(pairs.eigenvalues[0]) if pairs.converged.all() else math.nan}
