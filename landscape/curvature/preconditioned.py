"""An operator in coordinates that a positive diagonal rescales, and the diagonal that Adam has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from landscape.checkpoint import fitting_names
from landscape.errors import InputError
from landscape.operator import SymmetricOperator
from landscape.parameters import ParameterLayout
from landscape.wording import listed

_MOST_ORDERS = 10_000


@final
class Preconditioned(SymmetricOperator):
    """D^(-1/2) A D^(-1/2) with a positive diagonal D: the curvature A in the coordinates D^(1/2) theta.

    It is symmetric, and has the eigenvalues of D^(-1) A, the curvature that a step preconditioned by D sees (for Adam:
    Cohen et al. 2022, "Adaptive gradient methods at the edge of stability"). Products are counted here and in A.

    Attributes:
        scale: (dim,), the diagonal of D^(-1/2): an eigenvector u belongs to the direction ``scale * u`` of parameters.
    """

    def __init__(self, operator: SymmetricOperator, diagonal: Tensor | np.ndarray | Sequence[float]) -> None:
        """Rescale an operator.

        Args:
            operator: A.
            diagonal: (dim,), the entries of D, on any device and of any real type.

        Raises:
            InputError: see `inverse_root`.
        """
        super().__init__(operator.dim, operator.device, operator.dtype, operator.memory, operator.processes)
        self.eps, self.error = operator.eps, operator.error
        self.scale = inverse_root(diagonal, operator.dim, operator.dtype).to(operator.device)
        self._operator, self._diagonal = operator, diagonal

    @property
    def wide_bytes(self) -> int:
        """See `SymmetricOperator.wide_bytes`."""
        return self._operator.wide_bytes

    def full_precision(self) -> SymmetricOperator:
        """See `SymmetricOperator.full_precision`."""
        return Preconditioned(self._operator.full_precision(), self._diagonal)

    def _product(self, vectors: Tensor) -> Tensor:
        scale = self.scale.unsqueeze(1)
        return scale * self._operator.matmat(scale * vectors)


def inverse_root(diagonal: Tensor | np.ndarray | Sequence[float], dim: int, dtype: torch.dtype) -> Tensor:
    """The entries of D^(-1/2) for a diagonal D, computed in float64.

    Args:
        diagonal: (dim,), the entries of D.
        dim: of the operator.
        dtype: of the result.

    Returns:
        (dim,), on the CPU.

    Raises:
        InputError: another shape; an entry that isn't positive and finite, or whose inverse root isn't in ``dtype``.
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


def adam_diagonal(optimizer_state_dict: Mapping[str, Any], model: nn.Module, layout: ParameterLayout) -> Tensor:
    """What Adam divides its steps by: D = sqrt(v / (1 - beta_2^t)) + eps (Kingma and Ba 2015, algorithm 1).

    Of an AMSGrad optimiser v is the largest that there was, as torch has it. NAdam divides by the same D. RAdam's
    states can't be told from Adam's, so they get this D too, but its first steps divide by nothing and later ones by D
    up to a common factor.

    Args:
        optimizer_state_dict: of torch.optim.Adam or AdamW. It numbers parameters; they are found by the names in it (an
            optimiser made of ``model.named_parameters()``, of the model wrapped or not), else by their order, which
            must be that of the model's parameters (all, or the trainable ones) within each group and leave one way to
            place the groups' shapes.
        model: whose parameters were optimised.
        layout: the parameters that are wanted, in the order of the flat vector.

    Returns:
        (dim,), float64 on the CPU.

    Raises:
        InputError: there are no second moments for some parameter, or it can't be told whose they are.
    """
    entries = _entries(optimizer_state_dict)
    by_name = _by_name(entries, model)
    return torch.cat(
        [_denominator(name, shape, by_name) for name, shape in zip(layout.names, layout.shapes, strict=True)]
    )


@dataclass(frozen=True)
class _Entry:
    """What an optimiser keeps for one parameter, and the settings of its group."""

    state: Mapping[str, Any]
    group: Mapping[str, Any]
    name: str | None

    def fits(self, shape: torch.Size) -> bool:
        """Whether it may belong to a parameter of this shape; without a state it may belong to any."""
        moment = self.state.get("exp_avg_sq")
        return not isinstance(moment, Tensor) or moment.shape == shape


def _entries(optimizer: Mapping[str, Any]) -> list[list[_Entry]]:
    """An optimiser's parameters, a list for each of its groups."""
    try:
        return [
            [
                _Entry(optimizer["state"].get(key, {}), group, name)
                for key, name in zip(
                    group["params"], group.get("param_names", [None] * len(group["params"])), strict=True
                )
            ]
            for group in optimizer["param_groups"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError("this isn't the state_dict of a torch optimiser: give optimizer.state_dict()") from error


def _by_name(groups: Sequence[Sequence[_Entry]], model: nn.Module) -> dict[str, _Entry]:
    """The entries under the names of the model's parameters."""
    entries = list(chain.from_iterable(groups))
    named = {entry.name: entry for entry in entries if entry.name is not None}
    everything = dict(model.named_parameters())
    if named and len(named) == len(entries):
        return {new: named[old] for old, new in fitting_names(named, everything)[0].items()}
    candidates = [everything, {name: p for name, p in everything.items() if p.requires_grad}]
    parameters = next((each for each in candidates if len(each) == len(entries)), None)
    if parameters is None:
        raise InputError(
            f"the optimiser has {len(entries)} parameters, the model {len(everything)}, {len(candidates[1])} of them "
            "trainable, and no names tell them apart; make the optimiser of model.named_parameters()"
        )
    orders = _orders([[*group] for group in groups], [p.shape for p in parameters.values()])
    if len(orders) != 1:
        how = "in no way" if not orders else "in more than one way"
        raise InputError(
            f"the optimiser's parameters, in {len(groups)} groups, fit the shapes of the model's {how}, so it can't be "
            "told which is which; make the optimiser of model.named_parameters()"
        )
    return dict(zip(parameters, orders[0], strict=True))


def _orders(groups: Sequence[Sequence[_Entry]], shapes: Sequence[torch.Size]) -> list[list[_Entry]]:
    """Up to two ways to merge the groups, each in its own order, into a sequence of these shapes.

    Of each state of the merge (how many entries of each group are placed) two ways to get there are enough: both can
    be continued alike. Two empty ways stand for a merge with too many states to follow.
    """
    reached: dict[tuple[int, ...], list[list[_Entry]]] = {(0,) * len(groups): [[]]}
    for shape in shapes:
        following: dict[tuple[int, ...], list[list[_Entry]]] = {}
        for placed, ways in reached.items():
            for further, entry in _steps(groups, placed, shape):
                grown = following.setdefault(further, [])
                grown += [[*way, entry] for way in ways[: 2 - len(grown)]]
        if len(following) > _MOST_ORDERS:
            return [[], []]
        reached = following
    return list(chain.from_iterable(reached.values()))


def _steps(
    groups: Sequence[Sequence[_Entry]], placed: tuple[int, ...], shape: torch.Size
) -> Iterator[tuple[tuple[int, ...], _Entry]]:
    """Every group whose next entry fits the shape: the state of the merge after it is placed, and the entry."""
    for index, (group, done) in enumerate(zip(groups, placed, strict=True)):
        if done < len(group) and group[done].fits(shape):
            yield (*placed[:index], done + 1, *placed[index + 1 :]), group[done]


def _denominator(name: str, shape: torch.Size, by_name: Mapping[str, _Entry]) -> Tensor:
    """One parameter's part of the diagonal, flat."""
    if name not in by_name:
        raise InputError(f"the optimiser has no parameter {name}; it has {listed(by_name)}")
    entry = by_name[name]
    state, group = entry.state, entry.group
    if not state:
        raise InputError(
            f"the optimiser keeps nothing for {name} (frozen, or before its first step); restrict the parameters to "
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
