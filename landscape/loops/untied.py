"""A looped model with a copy of the loop's weights for each pass, and the Problem posed on these copies.

Let a model use its weights w T times, and let E map w to T copies, one for each use. The loss is then L(E w). By the
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
        uses: T, the number of calls of each module in one forward pass of the model.
        parameters: names of the trainable parameters that have a copy for each use, in the order of the flat vector.
        dim: n, the number of entries of these parameters. The untied flat vector is [copy 1; ...; copy T], of length
            T n.
        notes: decisions made on the user's behalf, a sentence each.
    """

    modules: tuple[str, ...]
    uses: int
    parameters: tuple[str, ...]
    dim: int
    notes: tuple[str, ...]

    def spread(self, vectors: Tensor) -> Tensor:
        """E, which repeats a vector (n,) or block (n, m) once for each use: (T n,) or (T n, m)."""
        return torch.cat([vectors] * self.uses)

    def gather(self, vectors: Tensor) -> Tensor:
        """E^T, which sums a vector (T n,) or block (T n, m) over the uses: (n,) or (n, m)."""
        return vectors.unflatten(0, (self.uses, self.dim)).sum(0)


def untied(problem: Problem, module: str | None = None) -> tuple[Problem, Loop]:
    """The problem's objective with separate weights for every use of a repeated module, and the loop.

    The new problem's flat vector holds T copies of the loop's trainable parameters and nothing else. All copies equal
    the tied parameters, and every other parameter is a constant. The user's model isn't changed: while it runs, hooks
    put the t-th copy into the loop's places at its t-th call.

    Parameters that another module or the loss also uses outside these calls can't be separated. They stay tied, among
    the constants, and the loop's notes name them. Buffers are shared.

    Args:
        problem: a problem whose model calls a module several times in each forward pass.
        module: name of this module; default: see `landscape.loops.repeats.find_repeated`.

    Raises:
        InputError: there is no such loop, or its uses can't be separated; the message gives the reason in one line.
    """
    _refuse_compiled(problem.model)
    repeated = find_repeated(problem, module)
    names, notes = _separable(problem, repeated)
    posed = _pose(problem, repeated, names)
    _refuse_recomputation(posed, repeated)
    loop = Loop(tuple(repeated.modules), repeated.uses, names, posed.layout.dim // repeated.uses, notes)
    return posed, loop


class Untied(nn.Module):
    """A wrapper of a model that gives its repeated modules other parameters at each of their calls.

    Attributes that the wrapper doesn't have are the inner model's. A loss function can therefore read them.
    """

    def __init__(self, model: nn.Module, repeated: Repeated, parameters: Sequence[nn.Parameter]) -> None:
        """Wrap a model.

        Args:
            model: the user's model, which is written to only during a call.
            repeated: the modules whose calls get separate weights.
            parameters: the parameters of the model that get a copy for each use. The copies share the parameters'
                memory.
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
            InputError: the number of calls of a module differs from that in the counted pass.
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
    """A place where a module holds a parameter, and the parameter's index among the copied ones."""

    owner: nn.Module
    attribute: str
    index: int


def _places(module: nn.Module, parameters: Sequence[nn.Parameter]) -> list[_Place]:
    """Every place in or under a module that holds one of these parameters; a tied parameter has several."""
    index = {id(parameter): i for i, parameter in enumerate(parameters)}
    return [
        _Place(owner, attribute, index[id(parameter)])
        for owner in module.modules()
        for attribute, parameter in owner._parameters.items()
        if id(parameter) in index
    ]


class _Exchange:
    """Puts copies of parameters into their places during each call of a module, in one forward pass.

    A copy goes straight into ``_parameters``, as in `functional_call`. The tensor that `functional_call` put there is
    put back afterwards.

    Attributes:
        calls: number of calls of each module so far, by its id.
    """

    def __init__(self, copies: list[list[Tensor]], places: dict[int, list[_Place]]) -> None:
        self.calls: Counter[int] = Counter()
        self._copies, self._places = copies, places
        self._replaced: list[tuple[nn.Module, list[tuple[_Place, Any]]]] = []  # for the calls that are running

    def enter(self, module: nn.Module, _: Any) -> None:
        if parametrize._cache_enabled:
            raise InputError(
                "torch's parametrize.cached() keeps one weight for all passes of the loop: leave it out of the forward "
                "pass"
            )
        copy = self._copies[min(self.calls[id(module)], len(self._copies) - 1)]  # `forward` refuses too many calls
        self.calls[id(module)] += 1
        places = self._places[id(module)]
        self._replaced.append((module, [(place, place.owner._parameters[place.attribute]) for place in places]))
        for place in places:
            place.owner._parameters[place.attribute] = copy[place.index]  # type: ignore[assignment]

    def leave(self, module: nn.Module, *_: Any) -> None:
        if self._replaced and self._replaced[-1][0] is module:  # not if its call failed before `enter`
            self._undo()

    def undo_all(self) -> None:
        """Put back the tensors of calls that ended without `leave`, such as by an interrupt."""
        while self._replaced:
            self._undo()

    def _undo(self) -> None:
        for place, tensor in self._replaced.pop()[1]:
            place.owner._parameters[place.attribute] = tensor


# ---------------------------------------------------------------------- posing the problem, and what can go wrong


def _pose(problem: Problem, repeated: Repeated, names: Iterable[str], poisoned: Iterable[str] = ()) -> Problem:
    """The problem on the untied model, with copies of the parameters ``names`` as its flat vector.

    Args:
        problem: the tied problem.
        repeated: the loop.
        names: names of the parameters to copy, all of them in the loop.
        poisoned: names of the parameters whose value outside the loop is set to NaN.
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
    """The tied model's penalty, evaluated with the copy of each use and averaged over the uses.

    For equal copies the mean is the tied penalty. With H the mean's Hessian, E^T H E is the tied penalty's Hessian. The
    mean couples no copy with another.
    """

    tied: Penalty
    uses: int
    names: tuple[str, ...]

    def __call__(self, named: dict[str, Tensor]) -> Tensor:
        inner = {name.removeprefix("_inner."): each for name, each in named.items() if name.startswith("_inner.")}
        copies = ({name: named[f"_copies.{use}.{i}"] for i, name in enumerate(self.names)} for use in range(self.uses))
        return torch.stack([self.tied(inner | copy) for copy in copies]).mean()


def _separable(problem: Problem, repeated: Repeated) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the loop's trainable parameters that nothing outside it uses, and a note on the parameters left out.

    With separate copies in the loop, nothing uses such a parameter's own value. The losses therefore don't change when
    this value is NaN.
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
            "module, or read by the loss): their uses can't be separated; a term over the parameters goes into "
            "Problem(penalty=...)"
        )
    return kept, (f"{listed(outside)}: also used outside the loop, so still tied and left out of the loop's curvature",)


def _same(reference: list[Terms], other: Problem, poisoned: bool = True) -> bool:
    """Whether a problem has these losses.

    The answer is no for a problem that can't be evaluated: a model may refuse NaN, or run its loop another number of
    times. Without NaN (``poisoned`` false) an InputError, such as for a number of passes that varies, goes on to the
    user.
    """
    try:
        losses = [losses for losses, _ in other.sample_losses()]
    except Exception as error:
        if ran_out(error) or (isinstance(error, InputError) and not poisoned):
            raise
        return False
    pairs = zip(reference, losses, strict=True)
    return all(actual.shape == expected.shape and equal_losses(expected, actual) for (expected, _), actual in pairs)


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        compiled = "_orig_mod" in module._modules or module._compiled_call_impl is not None
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{name or 'the model'} is compiled, and no calls are seen inside it: pass the plain module"
            )


def _refuse_recomputation(posed: Problem, repeated: Repeated) -> None:
    """Refuse activation checkpointing: it calls modules in the backward pass, after the copies left their places."""
    recomputed: list[nn.Module] = []
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
            with hooked(modules.values(), lambda module, _: recomputed.append(module)):
                torch.autograd.grad(share, vector)
        except RuntimeError as error:
            if ran_out(error):
                raise
            if not recomputed:
                raise InputError(f"the loss can't be differentiated ({cause(error)})") from error
    if recomputed:
        raise InputError(
            f"{listed(repeated.modules)} runs again in the backward pass (activation checkpointing?), where its "
            "passes can't be separated: switch off the checkpointing"
        )
