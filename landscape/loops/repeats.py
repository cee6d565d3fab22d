"""Find the module that one forward pass of a model calls several times."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from landscape.errors import InputError
from landscape.problem import Problem
from landscape.reporting.messages import listed


@dataclass(frozen=True)
class Repeated:
    """The modules that a forward pass repeats: one module, or several that are each called equally often.

    Attributes:
        modules: the repeated modules by the first of their names in the model, in the model's order.
        uses: number of calls of each module in one forward pass.
    """

    modules: dict[str, nn.Module]
    uses: int


def find_repeated(problem: Problem, name: str | None = None) -> Repeated:
    """The outermost modules with trainable parameters that the model calls at least twice in one forward pass.

    Calls are counted in one evaluation of the first batch, during the first call of the model itself. Modules that a
    repeated module calls belong to its own calls, however often they are called.

    Args:
        problem: the problem of the model to search; the parameters of its flat vector count as trainable.
        name: name of a module that is called at least twice, or of a container that isn't called itself, such as a
            ``ModuleList``. A container stands for the outermost repeated modules in it. Default: the outermost
            repeated modules of the whole model.

    Raises:
        InputError: no module is repeated, several are repeated with different counts, or ``name`` can't be used.
    """
    survey = _Survey(problem)
    modules = survey.outermost() if name is None else survey.named(name)
    if not modules:
        raise InputError(
            f"no module with trainable parameters is called more than once in a forward pass of "
            f"{type(problem.model).__name__}: there is no loop (weights that different modules share, or that are used "
            "without a call of their module, aren't seen as one)"
        )
    counts = {module: survey.calls[id(module)] for module in modules.values()}
    if len(set(counts.values())) > 1:
        listing = listed(f"{place} ({counts[module]} times)" for place, module in modules.items())
        raise InputError(
            f"a forward pass repeats modules a different number of times: {listing}; choose one with --loop-module NAME"
        )
    return Repeated(modules, next(iter(counts.values())))


class _Survey:
    """The modules of a model with all their names, and the number of calls of each.

    Attributes:
        modules: every module, by each of its names; a shared module has several names.
        calls: number of calls in one forward pass, by the module's id.
    """

    def __init__(self, problem: Problem) -> None:
        model = problem.model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.calls = _count_calls(problem)
        varying = {id(p) for name, p in model.named_parameters() if name in problem.layout.names}
        self._trainable = {id(m) for m in model.modules() if any(id(p) in varying for p in m.parameters())}

    def outermost(self, inside: str = "") -> dict[str, nn.Module]:
        """Repeated modules with trainable parameters, none of whose names lies under another such module's name."""
        prefix = f"{inside}." if inside else ""
        scope = {name: module for name, module in self.modules.items() if name and name.startswith(prefix)}
        repeated = {name for name, module in scope.items() if self.repeats(module)}
        under = {id(scope[name]) for name in repeated if any(parent in repeated for parent in _parents(name))}
        first: dict[int, str] = {}
        for name, module in scope.items():
            if name in repeated and id(module) not in under:
                first.setdefault(id(module), name)
        return {name: scope[name] for name in first.values()}

    def repeats(self, module: nn.Module) -> bool:
        """Whether a module is called at least twice and has trainable parameters."""
        return self.calls[id(module)] > 1 and id(module) in self._trainable

    def named(self, name: str) -> dict[str, nn.Module]:
        """The module of this name, or the repeated modules in a container that isn't called itself."""
        if name not in self.modules:
            close = difflib.get_close_matches(name, self.modules)
            repeated = listed((place for place, module in self.modules.items() if self.repeats(module)), 12)
            hint = f"did you mean {listed(close)}?" if close else f"the repeated modules are {repeated or 'none'}"
            raise InputError(f"{type(self.modules['']).__name__} has no module {name!r}; {hint}")
        module = self.modules[name]
        if self.repeats(module):
            return {name: module}
        calls, inner = self.calls[id(module)], self.outermost(inside=name)
        if calls == 0 and inner:
            return inner
        if calls > 1:
            raise InputError(f"{name} is called {calls} times, but has no trainable parameters; choose another module")
        hint = f"inside it {listed(inner)} is repeated" if inner else "choose one that is repeated"
        often = "once" if calls else "never (other methods than its call don't count)"
        raise InputError(f"{name or 'the model'} is called {often} in a forward pass, which makes no loop; {hint}")


def _parents(name: str) -> Iterator[str]:
    """The names of the modules around a module: ``a.b`` and ``a`` for ``a.b.c``."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _count_calls(problem: Problem) -> Counter[int]:
    """The number of calls of each module, by its id, in the model's first call on the first batch.

    Raises:
        InputError: the loss doesn't call the model itself.
    """
    calls: Counter[int] = Counter()

    def enter(module: nn.Module, _: Any) -> None:
        # Outside the first pass, before or after, only further calls of the model itself are counted.
        if module is problem.model or (calls[id(problem.model)] == 1 and running):
            calls[id(module)] += 1
        if module is problem.model:
            running.append(module)

    def leave(module: nn.Module, *_: Any) -> None:
        if module is problem.model:
            running.clear()

    running: list[nn.Module] = []
    with torch.no_grad(), problem.evaluating(), hooked(problem.model.modules(), enter, leave):
        problem.terms(problem.vector, problem.batches[0])
    if not calls:
        raise InputError(
            "the loss never calls the model itself, only parts of it: there is no pass to look for loops in"
        )
    calls[id(problem.model)] = 1
    return calls


@contextmanager
def hooked(
    modules: Iterable[nn.Module],
    enter: Callable[[nn.Module, Any], None],
    leave: Callable[[nn.Module, Any, Any], None] | None = None,
) -> Iterator[None]:
    """Call ``enter`` before and ``leave`` after every call of these modules, even one that ends in an exception.

    ``enter`` runs before the modules' own hooks, some of which (`torch.nn.utils.weight_norm`) make the weights.
    ``leave`` runs after the modules' own hooks.
    """
    handles = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(enter, prepend=True))
            if leave is not None:
                handles.append(module.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
