"""A looped model with a copy of the loop's weights for each pass, and the Problem posed on these copies.

For weights that a model uses T times, let E map them to T copies, one for each use. Then the loss is L(E w), and by the
chain rule its Hessian is H_tied = E^T H_untied E = sum_ij H_ij, with the blocks H_ij of the untied model's Hessian.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from landscape.errors import InputError
from landscape.loops.repeats import Repeated, find_repeated, hooked
from landscape.machine.memory import ran_out
from landscape.problem import Problem
from landscape.problem.audit import equal_losses
from landscape.problem.losses import Terms
from landscape.problem.penalty import Penalty
from landscape.reporting.messages import cause, listed


@dataclass(frozen=True)
class Loop:
    """The part of a model that is used several times.

    Attributes:
        modules: names of the modules that one pass of the loop calls.
        uses: T, how often each is called in one forward pass of the model.
        parameters: names of the trainable parameters that have a copy for each use, in the order of the flat vector.
        dim: n, their number of entries; the untied flat vector is [copy 1; ...; copy T], of length T n.
        notes: what was decided on the user's behalf, a sentence each.
    """

    modules: tuple[str, ...]
    uses: int
    parameters: tuple[str, ...]
    dim: int
    notes: tuple[str, ...]

    def spread(self, vectors: Tensor) -> Tensor:
        """E: a vector (n,) or block (n, m), once for each use: (T n,) or (T n, m)."""
        return torch.cat([vectors] * self.uses)

    def gather(self, vectors: Tensor) -> Tensor:
        """E^T: the sum over uses of a vector (T n,) or block (T n, m): (n,) or (n, m)."""
        return vectors.unflatten(0, (self.uses, self.dim)).sum(0)


def untied(problem: Problem, module: str | None = None) -> tuple[Problem, Loop]:
    """The same objective with separate weights for every use of a repeated module.

    Its flat vector holds T copies of the loop's trainable parameters and nothing else, all equal to the tied ones;
    every other parameter is a constant. The user's model isn't changed: while it runs, hooks put the t-th copy into the
    loop's places at its t-th call. Parameters that are used outside these calls too, by another module or the loss,
    can't be separated: they stay tied, among the constants, and the loop's notes say so. Buffers are shared.

    Args:
        problem: in which a module is called several times in each forward pass.
        module: which, by name; default: found, see `landscape.loops.repeats.find_repeated`.

    Raises:
        InputError: there is no such loop, or its uses can't be told apart; one line that says why.
    """
    _refuse_compiled(problem.model)
    repeated = find_repeated(problem, module)
    names, notes = _separable(problem, repeated)
    posed = _pose(problem, repeated, names)
    _refuse_recomputation(posed, repeated)
    loop = Loop(tuple(repeated.modules), repeated.uses, names, posed.layout.dim // repeated.uses, notes)
    return posed, loop


class Untied(nn.Module):
    """A model around another one, whose repeated modules find other parameters at each of their calls.

    Attributes that it doesn't have itself are the inner model's, so that a loss function may read them.
    """

    def __init__(self, model: nn.Module, repeated: Repeated, parameters: Sequence[nn.Parameter]) -> None:
        """Wrap a model.

        Args:
            model: the user's, which is never written to but for the time of a call.
            repeated: whose calls are told apart.
            parameters: the model's own, to have a copy for each use. The copies share their memory.
        """
        super().__init__()
        self._inner = model
        copies = ([nn.Parameter(p.detach()) for p in parameters] for _ in range(repeated.uses))
        self._copies = nn.ModuleList(map(nn.ParameterList, copies))
        self._repeated = repeated
        self._places = {id(module): _places(module, parameters) for module in repeated.modules.values()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The inner model's output, with the t-th copies in use at the t-th call of each repeated module.

        Raises:
            InputError: a module isn't called as often as in the pass that was counted.
        """
        exchange = _Exchange([list(copy.parameters()) for copy in self._copies], self._places)
        try:
            with hooked(self._repeated.modules.values(), exchange.enter, exchange.leave):
                output = self._inner(*args, **kwargs)
        finally:
            exchange.undo_all()
        for name, module in self._repeated.modules.items():
            if exchange.calls[id(module)] != self._repeated.uses:
                raise InputError(
                    f"{name} is called {exchange.calls[id(module)]} times in one forward pass and "
                    f"{self._repeated.uses} times in the first: every batch must go through the same number of loops"
                )
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_inner"), name)


@dataclass(frozen=True)
class _Place:
    """Where a module holds a parameter, and which of the copied ones it is."""

    owner: nn.Module
    attribute: str
    index: int


def _places(module: nn.Module, parameters: Sequence[nn.Parameter]) -> list[_Place]:
    """Every place in or under a module that holds one of these parameters; a tied one has several."""
    index = {id(parameter): i for i, parameter in enumerate(parameters)}
    return [
        _Place(owner, attribute, index[id(parameter)])
        for owner in module.modules()
        for attribute, parameter in owner._parameters.items()
        if id(parameter) in index
    ]


class _Exchange:
    """Puts copies into their places for the time of each call of a module, during one forward pass.

    Straight into ``_parameters``, as `functional_call` does, whose own tensors stand there and are put back.

    Attributes:
        calls: how often each module, by its id, was called.
    """

    def __init__(self, copies: list[list[Tensor]], places: dict[int, list[_Place]]) -> None:
        self.calls: Counter[int] = Counter()
        self._copies, self._places = copies, places
        self._replaced: list[tuple[nn.Module, list[tuple[_Place, Any]]]] = []  # of the calls that are running

    def enter(self, module: nn.Module, _: Any) -> None:
        if parametrize._cache_enabled:
            raise InputError(
                "torch's parametrize.cached() keeps one weight for all passes of the loop: leave it out of the forward "
                "pass"
            )
        copy = self._copies[min(self.calls[id(module)], len(self._copies) - 1)]  # too many calls are told afterwards
        self.calls[id(module)] += 1
        places = self._places[id(module)]
        self._replaced.append((module, [(place, place.owner._parameters[place.attribute]) for place in places]))
        for place in places:
            place.owner._parameters[place.attribute] = copy[place.index]  # type: ignore[assignment]

    def leave(self, module: nn.Module, *_: Any) -> None:
        if self._replaced and self._replaced[-1][0] is module:  # not if its call failed before `enter`
            self._undo()

    def undo_all(self) -> None:
        """Put back what calls left that ended in more than an `Exception`, such as an interrupt."""
        while self._replaced:
            self._undo()

    def _undo(self) -> None:
        for place, tensor in self._replaced.pop()[1]:
            place.owner._parameters[place.attribute] = tensor


# ---------------------------------------------------------------------- posing the problem, and what can go wrong


def _pose(problem: Problem, repeated: Repeated, names: Iterable[str], poisoned: Iterable[str] = ()) -> Problem:
    """The problem on the untied model, varying copies of the parameters ``names``.

    Args:
        problem: the tied one.
        repeated: the loop.
        names: of parameters in it.
        poisoned: of parameters whose value outside the loop is NaN.
    """
    parameters, tensors = dict(problem.model.named_parameters()), problem.tensors()
    copies = {f"_copies.{use}.{i}": tensors[name] for use in range(repeated.uses) for i, name in enumerate(names)}
    inner = {f"_inner.{name}": tensor for name, tensor in tensors.items()}
    inner |= {f"_inner.{name}": torch.full_like(tensors[name], torch.nan) for name in poisoned}
    model = Untied(problem.model, repeated, [parameters[name] for name in names])
    penalty = None if problem.penalty is None else _SpreadPenalty(problem.penalty, repeated.uses, tuple(names))
    return problem.with_model(model, inner | copies, penalty).restricted(["_copies"])


@dataclass(frozen=True)
class _SpreadPenalty:
    """A penalty of the tied model, as the mean over the uses of the penalty with the copy of that use.

    For equal copies it is the tied one, E^T H E is its Hessian, and it couples no copy with another.
    """

    tied: Penalty
    uses: int
    names: tuple[str, ...]

    def __call__(self, named: dict[str, Tensor]) -> Tensor:
        inner = {name.removeprefix("_inner."): each for name, each in named.items() if name.startswith("_inner.")}
        copies = ({name: named[f"_copies.{use}.{i}"] for i, name in enumerate(self.names)} for use in range(self.uses))
        return torch.stack([self.tied(inner | copy) for copy in copies]).mean()


def _separable(problem: Problem, repeated: Repeated) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The loop's trainable parameters that nothing outside it uses, and a note on those that are left out.

    With separate copies in the loop, a parameter's own value is used nowhere: the losses stay the same when it is NaN.
    """
    parameters = {id(p): name for name, p in problem.model.named_parameters() if name in problem.layout.names}
    inside = {id(p) for module in repeated.modules.values() for p in module.parameters()}
    names = tuple(name for address, name in parameters.items() if address in inside)
    reference = problem.sample_losses()

    def unchanged(poisoned: Iterable[str]) -> bool:
        return _same(reference, _pose(problem, repeated, names, poisoned))

    if unchanged(names):
        return names, ()
    if not _same(reference, _pose(problem, repeated, names), poisoned=False):
        raise InputError(
            f"with a copy of the weights for each call of {listed(repeated.modules)} the losses differ or fail: does "
            "the model or the loss read model.parameters(), the model's class or what an earlier call left?"
        )
    outside = [name for name in names if not unchanged([name])]
    kept = tuple(name for name in names if name not in outside)
    if not kept:
        raise InputError(
            f"all trainable parameters of {listed(repeated.modules)} are also used outside its calls (tied to another "
            "module, or read by the loss): their uses can't be told apart; a term over the parameters goes into "
            "Problem(penalty=...)"
        )
    return kept, (f"{listed(outside)}: also used outside the loop, so tied still and left out of its curvature",)


def _same(reference: list[Terms], other: Problem, poisoned: bool = True) -> bool:
    """Whether a problem has these losses.

    Not, if it can't be evaluated: a model may refuse NaN, or go round its loop another number of times. Without NaN a
    refusal of our own, such as a number of passes that varies, is the user's to see.
    """
    try:
        losses = [losses for losses, _ in other.sample_losses()]
    except Exception as error:
        if ran_out(error) or (isinstance(error, InputError) and not poisoned):
            raise
        return False
    pairs = zip(reference, losses, strict=True)
    return all(found.shape == expected.shape and equal_losses(expected, found) for (expected, _), found in pairs)


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        compiled = "_orig_mod" in module._modules or module._compiled_call_impl is not None
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{name or 'the model'} is compiled, and no calls are seen inside it: pass the plain module"
            )


def _refuse_recomputation(posed: Problem, repeated: Repeated) -> None:
    """Activation checkpointing calls modules in the backward pass, when the copies are no longer in their places."""
    again: list[nn.Module] = []
    modules = {id(m): m for module in repeated.modules.values() for m in module.modules()}
    vector = posed.vector.clone().requires_grad_()
    with posed.evaluating():
        try:
            share = posed.share(vector, posed.batches[0])
        except InputError as error:
            raise InputError(
                f"no gradient reaches the weights of {listed(repeated.modules)}: the model detaches them, or runs them "
                "under reentrant activation checkpointing; switch that off"
            ) from error
        try:
            with hooked(modules.values(), lambda module, _: again.append(module)):
                torch.autograd.grad(share, vector)
        except RuntimeError as error:
            if ran_out(error):
                raise
            if not again:
                raise InputError(f"the loss can't be differentiated ({cause(error)})") from error
    if again:
        raise InputError(
            f"{listed(repeated.modules)} runs again in the backward pass (activation checkpointing?), where its passes "
            "can't be told apart: switch that off"
        )
