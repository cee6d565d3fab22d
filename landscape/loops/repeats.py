"""Finds the module that one forward pass of a model calls several times."""

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
    """What a forward pass repeats: one module, or several that are each called equally often.

    Attributes:
        modules: by the first of their names in the model, in its order.
        uses: how often each is called.
    """

    modules: dict[str, nn.Module]
    uses: int


def find_repeated(problem: Problem, name: str | None = None) -> Repeated:
    """The outermost modules with trainable parameters that the model calls at least twice in one forward pass.

    Calls are counted in one evaluation of the first batch, during the first call of the model itself. What a repeated
    module calls in its turn belongs to its own calls, however often.

    Args:
        problem: whose model, and whose parameters count as trainable.
        name: a module that is called at least twice, or a container that isn't called itself, such as a
            ``ModuleList``: then the outermost repeated modules in it. Default: those of the whole model.

    Raises:
        InputError: there is none, there are several with different counts, or ``name`` can't be taken.
    """
    survey = _Survey(problem)
    found = survey.outermost() if name is None else survey.named(name)
    if not found:
        raise InputError(
            f"no module with trainable parameters is called more than once in a forward pass of "
            f"{type(problem.model).__name__}: there is no loop (weights that different modules share, or that are used "
            "without a call of their module, aren't seen as one)"
        )
    counts = {module: survey.calls[id(module)] for module in found.values()}
    if len(set(counts.values())) > 1:
        told = listed(f"{place} ({counts[module]} times)" for place, module in found.items())
        raise InputError(
            f"a forward pass repeats modules differently often: {told}; choose one with --loop-module NAME"
        )
    return Repeated(found, next(iter(counts.values())))


class _Survey:
    """The modules of a model with all their names, and how often each is called.

    Attributes:
        modules: by every name; a shared module has several.
        calls: by the module's id.
    """

    def __init__(self, problem: Problem) -> None:
        model = problem.model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.calls = _count_calls(problem)
        varying = {id(p) for name, p in model.named_parameters() if name in problem.layout.names}
        self._trainable = {id(m) for m in model.modules() if any(id(p) in varying for p in m.parameters())}

    def outermost(self, inside: str = "") -> dict[str, nn.Module]:
        """The repeated modules, with trainable parameters, of which no name lies under another one of them."""
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
        """Whether a module is called at least twice and owns something trainable."""
        return self.calls[id(module)] > 1 and id(module) in self._trainable

    def named(self, name: str) -> dict[str, nn.Module]:
        """The module that the user chose, or what a container that isn't called holds."""
        if name not in self.modules:
            close = difflib.get_close_matches(name, self.modules)
            repeated = listed((place for place, module in self.modules.items() if self.repeats(module)), 12)
            hint = f"did you mean {listed(close)}?" if close else f"repeated are {repeated or 'none'}"
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
    """``a.b.c`` lies under ``a.b`` and ``a``."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _count_calls(problem: Problem) -> Counter[int]:
    """How often each module (by its id) is called in the first call of the model on the first batch.

    Raises:
        InputError: the loss doesn't call the model itself.
    """
    calls: Counter[int] = Counter()

    def enter(module: nn.Module, _: Any) -> None:
        # Outside the first pass, before it or after it, nothing but another call of the model is counted.
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

    ``enter`` comes before the modules' own hooks, some of which (`torch.nn.utils.weight_norm`) make the weights, and
    ``leave`` after them.
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
