"""Ratio of an eigenvalue to the threshold at which an optimiser's steps on a quadratic stop converging.

On a quadratic each eigendirection follows its own linear recurrence. A direction is unstable once a root of the
recurrence's characteristic polynomial leaves the unit circle. For these optimisers the first root leaves at z = -1,
where the iterate jumps from side to side. This happens at the eigenvalue lambda of the Hessian whose ratio is 1
(learning rate eta, momentum b):

    gradient descent   lambda eta / 2
    heavy ball         lambda eta / (2 (1 + b))
    Nesterov           lambda eta (1 + 2 b) / (2 (1 + b))
    Adam, AdamW        lambda eta (1 - b1) / ((1 + b1) (2 - eta w)), lambda of D^-1 H with Adam's D held fixed

The first three ratios are from Cohen, Kaur, Li, Kolter and Talwalkar (2021, "Gradient descent on neural networks
typically occurs at the edge of stability"). The last is from Cohen et al. (2022, "Adaptive gradient methods at the edge
of stability"), with w = 0 there. Weight decay w of SGD is coupled: w is added to lambda. Weight decay of AdamW is
decoupled: theta is multiplied by 1 - eta w beside the step. The polynomial is then
z^2 - (1 + b1 - eta w - eta (1 - b1) lambda) z + b1 (1 - eta w).

The ratios hold for full gradients and a fixed quadratic. Minibatches are unstable earlier, and bias correction makes
the first steps of Adam longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from landscape.errors import InputError
from landscape.reporting.messages import listed

# Keys of param_groups in torch 2.13 that change a step, without `maximize`. Keys in _SILENT don't change a step.
_SGD = {"lr", "momentum", "dampening", "weight_decay", "nesterov"}
_ADAM = {"lr", "betas", "eps", "weight_decay", "amsgrad"}
_DECOUPLED = "decoupled_weight_decay"
UNKNOWN_DECAY = "whether this is Adam or AdamW, which differ in their weight decay, isn't in the state"
_SILENT = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
_OF_SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}


@dataclass(frozen=True)
class Stability:
    """An optimiser's threshold of stability, or the reason why none is claimed.

    Attributes:
        name: ``gradient descent``, ``heavy ball``, ``Nesterov``, ``Adam`` or ``AdamW``; empty without a claim.
        learning_rate: learning rate eta; NaN without a claim.
        momentum: momentum b, or b1 of Adam; NaN without a claim.
        weight_decay: weight decay w; NaN without a claim.
        preconditioned: whether the ratio takes an eigenvalue of D^-1 H instead of H.
        threshold: eigenvalue at which the ratio is 1; infinite for a learning rate of 0, NaN without a claim. Weight
            decay of SGD may make the threshold negative.
        reason: why no threshold is claimed; empty otherwise.
    """

    name: str
    learning_rate: float
    momentum: float
    weight_decay: float
    preconditioned: bool
    threshold: float
    reason: str

    def ratio(self, eigenvalue: float) -> float:
        """Ratio of an eigenvalue to the threshold: above 1 the direction is unstable; NaN without a claim.

        Below 0 the loss (with SGD's weight decay) falls along the direction for ever. A smaller step size doesn't make
        such a direction stable.

        Args:
            eigenvalue: eigenvalue of the Hessian of the loss without weight decay, or of D^-1 H: see
                ``preconditioned``.
        """
        if self.reason:
            return math.nan
        decay = 0.0 if self.preconditioned else self.weight_decay
        return (eigenvalue + decay) / (self.threshold + decay)


def stability(optimizer_state_dict: Mapping[str, Any] | None) -> Stability:
    """Recognise an optimiser by the settings in its state, and compute its threshold of stability.

    Only the exact sets of settings of torch's SGD, Adam and AdamW are recognised. An optimiser of another library with
    exactly these settings can't be distinguished from torch's.

    Args:
        optimizer_state_dict: ``state_dict`` of a torch optimiser; None where there is none.

    Raises:
        InputError: the mapping isn't the ``state_dict`` of a torch optimiser.
    """
    if optimizer_state_dict is None:
        return _nothing("there is no state of an optimiser")
    try:
        return _of_groups([dict(group) for group in optimizer_state_dict["param_groups"]])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError("this isn't the state_dict of a torch optimiser: give optimizer.state_dict()") from error


def _of_groups(groups: list[dict[str, Any]]) -> Stability:
    if not groups:
        return _nothing("the optimiser has no parameters")
    settings = [{key: value for key, value in group.items() if key not in _SILENT | _OF_SCHEDULERS} for group in groups]
    unequal = sorted(
        {key for each in settings for key in each.keys() | settings[0].keys() if _differ(key, each, settings)}
    )
    if unequal:
        return _nothing(f"the groups of parameters differ in {listed(unequal)}")
    return _recognised(settings[0])


def _differ(key: str, one: Mapping[str, Any], settings: list[dict[str, Any]]) -> bool:
    return key not in one or key not in settings[0] or bool(one[key] != settings[0][key])


def family(group: Mapping[str, Any]) -> Literal["SGD", "Adam"] | None:
    """The optimiser that a group of parameters is of, by its settings: ``Adam`` for AdamW too; None if unknown."""
    keys = set(group) - _SILENT - _OF_SCHEDULERS - {"maximize", _DECOUPLED}
    return "SGD" if keys == _SGD else "Adam" if keys == _ADAM else None


def _recognised(settings: dict[str, Any]) -> Stability:
    if settings.pop("maximize", False):
        return _nothing("the optimiser maximises")
    keys = set(settings)
    if family(settings) == "SGD":
        return _sgd(settings)
    if family(settings) == "Adam":
        return _adam(settings)
    return _nothing(f"no threshold is known for an optimiser with the settings {listed(sorted(keys), 12)}")


def _sgd(settings: Mapping[str, Any]) -> Stability:
    eta, b, decay = (float(settings[key]) for key in ("lr", "momentum", "weight_decay"))
    if b and settings["dampening"]:
        return _nothing("no threshold is known for momentum with dampening")
    name = "gradient descent" if not b else "Nesterov" if settings["nesterov"] else "heavy ball"
    steps = 2 * (1 + b) / (1 + 2 * b) if name == "Nesterov" else 2 * (1 + b)
    return Stability(name, eta, b, decay, False, _over(steps, eta) - decay, "")


def _adam(settings: Mapping[str, Any]) -> Stability:
    eta, b, decay = float(settings["lr"]), float(settings["betas"][0]), float(settings["weight_decay"])
    decoupled = settings.get(_DECOUPLED)
    if decay and decoupled is None:
        return _nothing(UNKNOWN_DECAY)
    if decay and not decoupled:
        return _nothing("Adam's weight decay is preconditioned with the gradient, so D^-1 H doesn't give the threshold")
    if not eta * decay < 2:
        return _nothing("the weight decay alone is unstable at this learning rate")
    threshold = _over((1 + b) * (2 - eta * decay), eta * (1 - b))
    return Stability("AdamW" if decoupled else "Adam", eta, b, decay, True, threshold, "")


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.inf


def _nothing(reason: str) -> Stability:
    return Stability("", math.nan, math.nan, math.nan, False, math.nan, reason)
