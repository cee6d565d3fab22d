"""An operator preconditioned by a positive diagonal, and Adam's diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from landscape.checkpoint import OPTIMIZER_KEYS
from landscape.checkpoint.optimizer import Entry, entries_by_name
from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.problem.parameters import ParameterLayout
from landscape.reporting.messages import listed


@final
class Preconditioned(SymmetricOperator):
    """D^(-1/2) A D^(-1/2) with a positive diagonal D: the curvature A in the coordinates D^(1/2) theta.

    The operator is symmetric and has the eigenvalues of D^(-1) A, the curvature that a step preconditioned by D sees
    (for Adam: Cohen et al. 2022, "Adaptive gradient methods at the edge of stability"). Products are counted here and
    in A.

    Attributes:
        scale: diagonal of D^(-1/2), (dim,). An eigenvector u belongs to the direction ``scale * u`` of parameters.
    """

    def __init__(self, operator: SymmetricOperator, diagonal: Tensor | np.ndarray | Sequence[float]) -> None:
        """Rescale an operator.

        Args:
            operator: the operator A.
            diagonal: entries of D, (dim,), on any device and of any real type.

        Raises:
            InputError: see `inverse_root`.
        """
        super().__init__(operator.dim, operator.device, operator.dtype, operator.memory, operator.processes)
        self.eps, self.error = operator.eps, operator.error
        self.scale = inverse_root(diagonal, operator.dim, operator.dtype).to(operator.device)
        self._operator, self._diagonal = operator, diagonal

    @property
    def float64_bytes(self) -> int:
        """See `SymmetricOperator.float64_bytes`."""
        return self._operator.float64_bytes

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`."""
        return Preconditioned(self._operator.full_precision(), self._diagonal)

    def _product(self, vectors: Tensor) -> Tensor:
        scale = self.scale.unsqueeze(1)
        return scale * self._operator.matmat(scale * vectors)


def inverse_root(diagonal: Tensor | np.ndarray | Sequence[float], dim: int, dtype: torch.dtype) -> Tensor:
    """The entries of D^(-1/2) for a diagonal D, computed in float64.

    Args:
        diagonal: entries of D, (dim,).
        dim: dimension of the operator.
        dtype: dtype of the result.

    Returns:
        Entries of D^(-1/2), (dim,), on the CPU.

    Raises:
        InputError: ``diagonal`` has another shape, an entry isn't positive and finite, or an entry's inverse root isn't
            representable in ``dtype``.
    """
    diagonal = torch.as_tensor(diagonal).detach().cpu()
    if diagonal.shape != (dim,) or diagonal.is_complex():
        raise InputError(
            f"the diagonal has shape {tuple(diagonal.shape)} ({diagonal.dtype}), the operator takes real ({dim},)"
        )
    scale = diagonal.to(torch.float64).rsqrt().to(dtype)
    bad = ~(diagonal.isfinite() & scale.isfinite() & (scale > 0))
    if bad.any():
        place = int(bad.nonzero()[0])
        raise InputError(
            f"{int(bad.sum())} of {dim} entries of the diagonal aren't positive and finite, or their inverse roots "
            f"aren't in {dtype}, the first is {float(diagonal[place]):.3g} at {place}; a preconditioner is positive"
        )
    return scale


def adam_diagonal_of(problem: Problem) -> Tensor:
    """The diagonal (dim,) by which Adam preconditions a problem, from the state of the problem's optimiser.

    Raises:
        InputError: the problem has no optimiser state, or `adam_diagonal` refuses this state.
    """
    if problem.optimizer is None:
        raise InputError(
            f"the checkpoint has no optimiser's state_dict under {listed(OPTIMIZER_KEYS, 7)}; give a file of a diagonal"
        )
    return adam_diagonal(problem.optimizer, problem.model, problem.layout)


def adam_diagonal(optimizer_state_dict: Mapping[str, Any], model: nn.Module, layout: ParameterLayout) -> Tensor:
    """The divisor of Adam's steps: D = sqrt(v / (1 - beta_2^t)) + eps (Kingma and Ba 2015, algorithm 1).

    For an AMSGrad optimiser v is the largest second moment so far, as in torch. NAdam divides by this D too. RAdam's
    states look like Adam's and therefore also get this D. But RAdam's first steps divide by nothing, and its later
    steps divide by D up to a common factor.

    Args:
        optimizer_state_dict: ``state_dict`` of torch.optim.Adam or AdamW, which numbers the parameters. Parameters are
            found by the names in it (an optimiser made of ``model.named_parameters()``, of the model wrapped or not),
            else by their order. Within each group this must be the order of the model's parameters (all, or the
            trainable ones), and it must leave one way to place the groups' shapes.
        model: the model whose parameters were optimised.
        layout: parameters of the diagonal, in the order of the flat vector.

    Returns:
        Diagonal of D, (dim,), float64 on the CPU.

    Raises:
        InputError: a parameter has no second moments, or can't be matched to its second moments.
    """
    by_name = entries_by_name(optimizer_state_dict, model)
    return torch.cat(
        [_denominator(name, shape, by_name) for name, shape in zip(layout.names, layout.shapes, strict=True)]
    )


def _denominator(name: str, shape: torch.Size, by_name: Mapping[str, Entry]) -> Tensor:
    """One parameter's part of the diagonal, flattened."""
    if name not in by_name:
        raise InputError(f"the optimiser has no parameter {name}; it has {listed(by_name)}")
    entry = by_name[name]
    state, group = entry.state, entry.group
    if not state:
        raise InputError(
            f"the optimiser has no state for {name} (frozen, or before its first step); restrict the parameters to "
            "those that were trained"
        )
    moment = state.get("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
    if not isinstance(moment, Tensor) or "step" not in state or not {"betas", "eps"} <= set(group):
        raise InputError(
            f"the optimiser keeps {listed(sorted(state))} for {name} and no second moments (exp_avg_sq): it isn't Adam "
            "or AdamW; give a diagonal of your own"
        )
    try:
        step, decay, eps = float(state["step"]), float(group["betas"][1]), float(group["eps"])
    except (IndexError, TypeError, ValueError) as error:
        raise InputError(f"the optimiser's step, betas or eps for {name} are no numbers ({error})") from error
    if moment.shape != shape or not step >= 1:
        raise InputError(
            f"the optimiser's second moments for {name} have shape {tuple(moment.shape)} after {step:g} steps, the "
            f"parameter has {tuple(shape)}; is it this model's optimiser?"
        )
    unbiased = moment.detach().to("cpu", torch.float64) / (1 - decay**step)
    return (unbiased.sqrt() + eps).reshape(-1)
