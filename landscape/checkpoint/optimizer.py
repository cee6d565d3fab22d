"""Match the entries of a torch optimiser's ``state_dict`` to the parameters of a model.

A ``state_dict`` numbers the parameters, and seldom names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from landscape.checkpoint import fitting_names
from landscape.errors import InputError

_MOST_ORDERS = 10_000  # states of a merge that are followed at a time


@dataclass(frozen=True)
class Entry:
    """State that an optimiser keeps for one parameter, and the settings of the parameter's group."""

    state: Mapping[str, Any]
    group: Mapping[str, Any]
    name: str | None

    def fits(self, shape: torch.Size) -> bool:
        """Whether the entry may belong to a parameter of this shape; an entry without moments may belong to any."""
        moments = (self.state.get(name) for name in ("exp_avg_sq", "momentum_buffer"))
        return all(moment.shape == shape for moment in moments if isinstance(moment, Tensor))


def entries_by_name(optimizer: Mapping[str, Any], model: nn.Module) -> dict[str, Entry]:
    """An optimiser's entries under the names of the model's parameters.

    Args:
        optimizer: an optimiser's ``state_dict``. Its entries are matched by name if it stores names, as an optimiser
            made of ``model.named_parameters()`` does; that model may have been wrapped. Otherwise the entries are
            matched by order. Within each group the order must be that of the model's parameters (all, or the trainable
            ones). The shapes must then allow only one way to merge the groups.
        model: the model whose parameters were optimised.

    Raises:
        InputError: ``optimizer`` is no ``state_dict`` of an optimiser, or its entries can't be matched in exactly one
            way.
    """
    return _by_name(_entries(optimizer), model)


def decayed(optimizer: Mapping[str, Any], model: nn.Module) -> tuple[str, ...]:
    """Names of the model's parameters that an optimiser decays: those in groups with a positive ``weight_decay``.

    Raises:
        InputError: see `entries_by_name`; or a weight decay is no number.
    """
    groups = [entry.group.get("weight_decay", 0) for group in _entries(optimizer) for entry in group[:1]]
    if bad := [each for each in groups if not isinstance(each, int | float)]:
        raise InputError(f"the optimiser's weight_decay is {bad[0]!r}, not a number")
    if not any(each > 0 for each in groups):
        return ()
    entries = entries_by_name(optimizer, model)
    return tuple(name for name, entry in entries.items() if entry.group.get("weight_decay", 0) > 0)


def decays_apart(optimizer: Mapping[str, Any]) -> bool:
    """Whether the optimiser's weight decay is decoupled from the gradient, as in AdamW.

    torch before 2.7 doesn't store this setting. An optimiser with Adam's second moments is then taken for AdamW.
    """
    entries = list(chain.from_iterable(_entries(optimizer)))
    adam = any("exp_avg_sq" in entry.state for entry in entries)
    return any(
        entry.group.get("weight_decay", 0) > 0 and entry.group.get("decoupled_weight_decay", adam) for entry in entries
    )


def _entries(optimizer: Mapping[str, Any]) -> list[list[Entry]]:
    """An optimiser's entries, one list for each of its groups."""
    try:
        return [
            [
                Entry(optimizer["state"].get(key, {}), group, name)
                for key, name in zip(
                    group["params"], group.get("param_names", [None] * len(group["params"])), strict=True
                )
            ]
            for group in optimizer["param_groups"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError("this isn't the state_dict of a torch optimiser: give optimizer.state_dict()") from error


def _by_name(groups: Sequence[Sequence[Entry]], model: nn.Module) -> dict[str, Entry]:
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
            "trainable, and no names match them; make the optimiser of model.named_parameters()"
        )
    orders = _orders([[*group] for group in groups], [p.shape for p in parameters.values()])
    if len(orders) != 1:
        how = "in no way" if not orders else "in more than one way"
        raise InputError(
            f"the optimiser's parameters, in {len(groups)} groups, fit the shapes of the model's {how}, so they can't "
            "be matched; make the optimiser of model.named_parameters()"
        )
    return dict(zip(parameters, orders[0], strict=True))


def _orders(groups: Sequence[Sequence[Entry]], shapes: Sequence[torch.Size]) -> list[list[Entry]]:
    """Up to two ways to merge the groups into a sequence of these shapes, with each group in its own order.

    A state of the merge is the number of entries placed from each group. Two ways to reach a state are enough, because
    both have the same continuations. Two empty ways stand for a merge with too many states to follow.
    """
    reached: dict[tuple[int, ...], list[list[Entry]]] = {(0,) * len(groups): [[]]}
    for shape in shapes:
        following: dict[tuple[int, ...], list[list[Entry]]] = {}
        for placed, ways in reached.items():
            for further, entry in _steps(groups, placed, shape):
                grown = following.setdefault(further, [])
                grown += [[*way, entry] for way in ways[: 2 - len(grown)]]
        if len(following) > _MOST_ORDERS:
            return [[], []]
        reached = following
    return list(chain.from_iterable(reached.values()))


def _steps(
    groups: Sequence[Sequence[Entry]], placed: tuple[int, ...], shape: torch.Size
) -> Iterator[tuple[tuple[int, ...], Entry]]:
    """For each group whose next entry fits the shape: the state of the merge after placing the entry, and the entry."""
    for index, (group, done) in enumerate(zip(groups, placed, strict=True)):
        if done < len(group) and group[done].fits(shape):
            yield (*placed[:index], done + 1, *placed[index + 1 :]), group[done]
