"""A Problem: a model, a loss for each sample and a data set, at one point of parameter space."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.machine.device import checked_place, place_of, unwrapped
from landscape.machine.memory import ran_out
from landscape.machine.processes import ALONE, Processes
from landscape.machine.widened import widened
from landscape.problem import batches as data
from landscape.problem.audit import audit, company_notes, equal_losses
from landscape.problem.embeddings import plain_embeddings
from landscape.problem.leaks import refuse_leaks
from landscape.problem.loaders import order_notes
from landscape.problem.losses import Loss, LossTerms, Terms
from landscape.problem.objective import Judged, OwnForm, PairForm, Read, SampleLosses
from landscape.problem.parameters import ParameterLayout
from landscape.problem.penalty import Penalty, name_of, value_of
from landscape.problem.samples import LossEstimate, SampleSums, about_samples
from landscape.problem.swap import slots, swapped
from landscape.problem.switches import differentiating, switched
from landscape.reporting.messages import listed, without_addresses

if TYPE_CHECKING:
    from landscape.curvature.hessian import Hessian


Compile = Literal["auto", "on", "off"]


class Problem:
    """A model, a loss and a data set at one parameter vector; what every measurement of this library is made on.

    The objective is sum w_i l_i / sum w_i over all samples (or tokens) of all batches, whatever their sizes, plus the
    penalty; see `landscape.problem.losses.terms_of` for the terms of each torch loss. The user's model is never
    changed: parameters and buffers go in by `torch.func.functional_call`, and train/eval modes are put back after
    every evaluation. The loss is evaluated inside, so that what it reads of the model (`model.parameters()`) counts.

    Attributes:
        model: the user's model, without what wraps or compiles it.
        layout: names and shapes of the trainable parameters in the flat vector.
        vector: (dim,), the point, on ``device`` and of ``dtype``.
        batches: the data as it was read once, in micro-batches.
        device: where everything is computed.
        dtype: floating-point type of parameters, buffers and data.
        about: what the data set says of its samples: arrays (samples,) of text or numbers, by name.
        notes: what was decided or changed on the user's behalf, a sentence each.
        programs: computations that were traced for this problem or one like it, by their `signature` and kind.
        compiling: whether products of curvature are compiled: ``auto`` where it pays for itself, ``on`` or ``off``.
        memory: bytes that a measurement may take beyond model and data; None leaves it to each.
        processes: that share the work, see `split_over`.
        training: whether the model is evaluated in training mode.
        optimizer: the optimiser's ``state_dict`` at this point, where a checkpoint gave it.
        penalty: what the objective has beside its terms; None for nothing.
        mixing: whether the terms of a sample were seen to depend on the other samples of its batch.
    """

    optimizer: Mapping[str, Any] | None = None
    compiling: Compile = "auto"
    memory: int | None = None
    processes: Processes = ALONE
    penalty: Penalty | None = None

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        micro_batch: int | None = None,
        training: bool = False,
        about: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
        read: Read | None = None,
        penalty: Penalty | None = None,
        count: data.Count | None = None,
    ) -> None:
        """Pose the problem ``loss(model(input), target)`` over batches of ``(input, target)``.

        Args:
            model: any module; of one that is wrapped (`DataParallel`, DDP) or compiled the plain one is taken. A tuple
                or list as input becomes its positional arguments, a mapping its keywords.
            loss: a torch loss module or function as used in training, or a function ``(output, target)``.
            batches: a list or loader of ``(input, target)`` pairs, read once and kept.
            device: where to compute; default: where the first trainable parameter is.
            dtype: float32 or float64; default: that of the first trainable parameter, at least float32.
            micro_batch: split batches into at most this many samples, to save memory.
            training: evaluate in training mode (BatchNorm with the statistics of its one whole batch).
            about: what is known of the samples, in the order of the batches: for each name one text (a type) or one
                number (a difficulty) a sample, by which per-sample losses are grouped. A loader whose order isn't
                known is read again then, and refused where its batches differ.
            read: what the loss takes of the model's output; default for torch losses: of a mapping or an object its
                ``logits``, of several outputs the first.
            penalty: ``penalty(named_parameters)`` gives a scalar tensor that is added to the mean loss, once, whatever
                the batches; it has no part in standard errors over samples. Tied parameters are named once.
            count: ``count(batch)`` gives the number of samples of a batch, where it isn't the leading dimension of the
                batch's first tensor: of ragged lists, of graphs. Lists of as many items are then by sample too.

        Raises:
            InputError: one line that says which of these can't be used and what to do.
        """
        model = unwrapped(model)
        point = place_of(model, device, dtype)
        form = PairForm(model, loss, *point, read)
        self._pose(model, form, batches, point, micro_batch, training, about, penalty, count)

    @classmethod
    def from_sample_losses(
        cls,
        model: nn.Module,
        fn: SampleLosses,
        batches: Iterable[Any],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        micro_batch: int | None = None,
        training: bool = False,
        about: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
        penalty: Penalty | None = None,
        count: data.Count | None = None,
    ) -> Self:
        """Pose any other problem: ``fn(model, batch)`` returns the losses, or ``(losses, weights)``, of one batch.

        Losses and weights have one shape, the sample's dimension first; other arguments as for `Problem`.

        Raises:
            InputError: one line that says what can't be used and what to do.
        """
        if not callable(fn):
            raise InputError(f"fn must be a function (model, batch) -> losses, not {type(fn).__name__}")
        problem = cls.__new__(cls)
        model = unwrapped(model)
        point = place_of(model, device, dtype)
        problem._pose(model, OwnForm(model, fn), batches, point, micro_batch, training, about, penalty, count)
        return problem

    def _pose(
        self,
        model: nn.Module,
        form: PairForm | OwnForm,
        batches: Iterable[Any],
        point: tuple[torch.device, torch.dtype],
        micro_batch: int | None,
        training: bool,
        about: Mapping[str, Sequence[Any] | np.ndarray] | None,
        penalty: Penalty | None,
        count: data.Count | None,
    ) -> None:
        with differentiating():
            self.model = model
            self.layout = ParameterLayout.of(model)
            self._slots = slots(model)
            self.programs: dict[Hashable, Any] = {}
            self.device, self.dtype = point
            self._form = form
            self.training = training
            self.vector, self._constants = self._read_state(model)
            self.batches = data.freeze(batches, *point, count)
            audited = audit(self)
            self.total_weight = audited.total_weight
            self.about = about_samples(about, sum(map(data.samples_in, self.batches)))
            told = {name: values.tolist() for name, values in self.about.items()}
            self.data_sha256 = data.digest([*self.batches, told] if told else self.batches)
            order = order_notes(batches, self.batches, point, bool(self.about))
            company = company_notes(self, audited.terms)
            self.mixing, self.notes = bool(company), order + audited.notes + company + self._form.notes
            self._split(micro_batch)
            if penalty is not None:
                self._add_penalty(penalty)
            self.notes += refuse_leaks(self)

    def _read_state(self, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        trainable = dict(model.named_parameters())
        vector = self._own(self.layout.flatten(trainable))
        frozen = {n: p for n, p in trainable.items() if not p.requires_grad}
        return vector, {name: self._own(t) for name, t in (frozen | dict(model.named_buffers())).items()}

    def _own(self, tensor: Tensor) -> Tensor:
        """A copy of the problem's own, on its device, of its dtype if floating-point."""
        dtype = self.dtype if tensor.dtype.is_floating_point else tensor.dtype
        return tensor.detach().to(self.device, dtype, copy=True)

    def at(self, vector: Tensor) -> Self:
        """The same problem at another point: a flat vector of shape (dim,).

        Raises:
            InputError: it has another shape or isn't finite.
        """
        if vector.shape != (self.layout.dim,):
            raise InputError(
                f"the parameter vector has shape {tuple(vector.shape)}, the model's is ({self.layout.dim},)"
            )
        if not vector.isfinite().all():
            raise InputError("the parameter vector has entries that are NaN or infinite; the loss isn't defined there")
        other = copy.copy(self)
        other.vector = self._own(vector)
        return other

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        micro_batch: int | None = None,
        compiling: Compile | None = None,
        memory: int | None = None,
    ) -> Self:
        """The same problem computed elsewhere or otherwise; see `Problem` for what each is; None keeps what is.

        Raises:
            InputError: the device isn't there, the type isn't float32 or float64, or the batches can't be split.
        """
        other = self._converted(*checked_place(device or self.device, dtype or self.dtype))
        other.compiling, other.memory = compiling or self.compiling, memory or self.memory
        other.total_weight = audit(other).total_weight
        other._split(micro_batch)
        return other

    def in_float64(self, pieces: int = 1) -> Self:
        """The same problem in float64 without a look at it: whether it can be evaluated shows when it is.

        Args:
            pieces: into so many the largest batch is split, and others into as large ones; not where samples mix.
        """
        other = self._converted(self.device, torch.float64)
        if pieces > 1 and not self.mixing:
            other._cut(math.ceil(max(map(data.samples_in, self.batches)) / pieces))
        return other

    def _converted(self, device: torch.device, dtype: torch.dtype) -> Self:
        other = copy.copy(self)
        other.device, other.dtype = device, dtype
        other.vector = other._own(self.vector)
        other._constants = {name: other._own(tensor) for name, tensor in self._constants.items()}
        other._form = self._form.on(device, dtype)
        other.batches = [data.convert(batch, device, dtype) for batch in self.batches]
        return other

    def with_penalty(self, penalty: Penalty) -> Self:
        """The same problem with a penalty in its objective; see `Problem`.

        Raises:
            InputError: it has one, or this one gives no finite number or reads the parameters past their places.
        """
        if self.penalty is not None:
            raise InputError(f"the objective has a penalty, {name_of(self.penalty)}: leave out {name_of(penalty)}")
        other = copy.copy(self)
        other._add_penalty(penalty)
        refuse_leaks(other)
        return other

    def _add_penalty(self, penalty: Penalty) -> None:
        self.penalty = penalty
        with torch.no_grad(), self.evaluating():
            value = float(self.penalty_at(self.vector))
        if not math.isfinite(value):
            raise InputError(f"the penalty, {name_of(penalty)}, is {value} here: correct it")
        self.notes += (
            f"in the objective, beside the mean loss: {name_of(penalty)}; every matrix has its Hessian added",
        )

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        """The same problem at a checkpoint's parameters and buffers, given under the model's own names."""
        other = self.at(self.layout.flatten(state))
        other._constants = {name: self._own(state.get(name, tensor)) for name, tensor in self._constants.items()}
        return other

    def buffers(self) -> dict[str, Tensor]:
        """Buffers and frozen parameters by their first names; without parameters that `restricted` holds fixed."""
        trainable = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in self._constants.items() if name not in trainable}

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Self:
        """The same problem with other buffers or frozen parameters in the place of some, by their first names."""
        other = copy.copy(self)
        other._constants = {**self._constants, **buffers}
        return other

    def restricted(self, patterns: str | Iterable[str]) -> Self:
        """The same problem with some parameters alone left to vary; the others are constants.

        Args:
            patterns: a glob or several, such as ``blocks.*.attention.*``; one that matches a module's name takes all
                parameters under it. A tied parameter goes by each of its names.

        Raises:
            InputError: a pattern matches no parameter of the flat vector, or there is none.
        """
        other = copy.copy(self)
        other.layout = self.layout.subset(self._matching(patterns))
        tensors = self.layout.unflatten(self.vector)
        other.vector = other.layout.flatten(tensors)
        fixed = {name: tensor for name, tensor in tensors.items() if name not in other.layout.names}
        other._constants = self._constants | fixed
        return other

    def _matching(self, patterns: str | Iterable[str]) -> set[str]:
        """The names in the layout that some pattern matches."""
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        if not patterns:
            raise InputError("no parameter is left to vary: name at least one, or a glob of some")
        chosen: set[str] = set()
        places = {place: name for place, name in self._slots.items() if name in self.layout.names}
        for pattern in patterns:
            found = {name for place, name in places.items() if _matches(place, pattern)}
            if not found:
                raise InputError(
                    f"no trainable parameter matches {pattern!r}; there are {listed(self.layout.names)} (globs such as "
                    "'*.weight', or a module's name)"
                )
            chosen |= found
        return chosen

    def with_model(self, model: nn.Module, tensors: Mapping[str, Tensor], penalty: Penalty | None = None) -> Self:
        """The same data and loss on another model, at given values of its parameters and buffers.

        Args:
            model: takes the inputs of the problem's own model.
            tensors: every parameter and buffer under the first of its names in ``model``.
            penalty: of its parameters.
        """
        other = copy.copy(self)
        other.penalty = penalty
        other.model, other._form, other._slots = model, self._form.with_model(model), slots(model)
        other.programs = {}
        other.layout = ParameterLayout.of(model)
        other.vector = other._own(other.layout.flatten(tensors))
        fixed = {name for name in other._slots.values() if name not in other.layout.names}
        other._constants = {name: other._own(tensors[name]) for name in fixed}
        return other

    def few(self, samples: int) -> Self:
        """The same problem on the first of its samples, for this process alone; on a batch, if it can't be split."""
        other, batch = copy.copy(self), self.batches[0]
        other.processes, other.about = ALONE, {}
        if len(self.batches) == 1 and data.samples_in(batch) <= samples:
            return other
        for other.batches in ([data.part(batch, 0, samples)], [batch]):
            try:
                other.total_weight = audit(other).total_weight
            except Exception as error:  # whatever the model or the loss says to a part of a batch
                if ran_out(error):
                    raise
            else:
                break
        return other

    def halves(self) -> tuple[Self, Self]:
        """The same problem on two halves of the data, each with half of every batch.

        Raises:
            InputError: no batch has two samples, or the samples of a batch aren't independent.
        """
        self._refuse_dependent_samples(math.ceil(data.samples_in(max(self.batches, key=data.samples_in)) / 2))
        halved = [data.split(batch, math.ceil(data.samples_in(batch) / 2)) for batch in self.batches]
        # A batch of odd size has a larger half, which goes to either side in turn; one of a single sample likewise.
        parts: tuple[list[Any], list[Any]] = ([], [])
        for index, pieces in enumerate(halved):
            for place, piece in enumerate(pieces):
                parts[(index + place) % 2].append(piece)
        if not (parts[0] and parts[1]):
            raise InputError("a single sample has no two halves")
        return self._on(parts[0]), self._on(parts[1])

    def sampled(self, count: int, seed: int = 0) -> Self:
        """The same problem on so many of its samples, drawn without replacement; all of them where there are no more.

        Raises:
            InputError: the count isn't positive, or the samples of a batch aren't independent.
        """
        sizes = [data.samples_in(batch) for batch in self.batches]
        if count < 1:
            raise InputError(f"a subset has at least 1 sample, not {count}")
        if count >= sum(sizes):
            return self
        self._refuse_dependent_samples(max(1, max(sizes) - 1))
        chosen = np.sort(np.random.default_rng(seed).permutation(sum(sizes))[:count])
        starts = np.cumsum([0, *sizes])
        places = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in itertools.pairwise(starts)]
        kept = [(batch, place) for batch, place in zip(self.batches, places, strict=True) if len(place)]
        other = self._on([data.select(batch, torch.as_tensor(place)) for batch, place in kept])
        other.about = {name: values[chosen] for name, values in self.about.items()}
        return other

    def split_over(self, processes: Processes) -> Self:
        """The same problem, of whose losses, gradients and products each process makes those of a part of every batch.

        Every process calls the same methods in the same order. Losses term by term (`judged`, `sample_losses`) are made
        by each of them, of all samples.

        Raises:
            InputError: the samples of a batch aren't independent, or there are fewer than processes.
        """
        if processes.size == 1:
            return self
        other = copy.copy(self)
        other.processes = processes
        other._refuse_idle_processes()
        self._refuse_dependent_samples(max(1, max(map(data.samples_in, self.batches)) // processes.size))
        return other

    def _refuse_idle_processes(self) -> None:
        """Refuse data of which a process would have nothing."""
        sizes, processes = [data.samples_in(batch) for batch in self.batches], range(self.processes.size)
        if not all(self._parts(sizes, rank) for rank in processes):
            raise InputError(
                f"some of {len(processes)} processes would have none of the {sum(sizes)} samples in {len(sizes)} "
                "batches: start fewer, or give larger batches"
            )

    def own(self) -> Self:
        """The same problem on this process's part of the data alone, still weighed against all of it."""
        if self.processes.size == 1:
            return self
        other = copy.copy(self)
        other.batches = self.own_parts(self.batches)
        return other

    def own_parts(self, batches: list[Any]) -> list[Any]:
        """This process's part of each of the problem's batches, or of what has as many samples; empty ones left out."""
        sizes = [data.samples_in(batch) for batch in batches]
        return [
            data.part(batches[index], start, stop) for index, start, stop in self._parts(sizes, self.processes.rank)
        ]

    def _parts(self, sizes: list[int], rank: int) -> list[tuple[int, int, int]]:
        """For a process: the index of each batch of which it has samples, the first of them and the end."""
        size = self.processes.size
        # Each batch begins with another process, so that none has all that remains of a division.
        parts = [(index, *data.bounds(samples, (rank + index) % size, size)) for index, samples in enumerate(sizes)]
        return [(index, start, stop) for index, start, stop in parts if stop > start]

    def _on(self, batches: list[Any]) -> Self:
        """The same problem on other batches, of which nothing is known."""
        other = copy.copy(self)
        other.batches, other.about = batches, {}
        other._refuse_idle_processes()
        other.total_weight = audit(other).total_weight
        return other

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer at this point, under the first of its names."""
        return self.layout.unflatten(self.vector) | self._constants

    # ------------------------------------------------------------------ evaluation

    def terms(self, vector: Tensor, batch: Any) -> Terms:
        """Losses and weights of one batch at a flat vector, differentiable in the vector; call inside `evaluating`."""
        return self._form.terms(self._state(vector), batch)

    def checked_terms(self, batch: Any) -> Terms:
        """The same at this point, held to the loss as the user gave it; call inside `evaluating`.

        Raises:
            InputError: the loss isn't the weighted mean of these terms.
        """
        return self._form.check(self._state(self.vector), batch)

    def output(self, vector: Tensor, batch: Any) -> Any:
        """The model's output on one batch at a flat vector, differentiable in the vector; call inside `evaluating`.

        Raises:
            InputError: the problem is of the form `from_sample_losses`, in which only the user's function sees it.
        """
        return self._pair_form().output(self._state(vector), batch)

    def penalty_at(self, vector: Tensor) -> Tensor:
        """The penalty at a flat vector, differentiable in the vector, 0 if there is none; call inside `evaluating`.

        Raises:
            InputError: it isn't a scalar tensor.
        """
        penalty, tensors = self.penalty, self.layout.unflatten(vector) | self._constants
        if penalty is None:
            return vector.new_zeros(())
        named = {name: tensors[name] for name, _ in self.model.named_parameters()}
        return swapped(self.model, self._state(vector), lambda: value_of(penalty, named))

    def share_as_is(self, batch: Any) -> Tensor:
        """One batch's part of the objective by the model and the loss as they are, whatever weights are in the model.

        Call inside `evaluating`. The penalty is spread over the batches.
        """
        share = self._form.as_is(batch) / self.total_weight
        if self.penalty is None:
            return share
        return share + value_of(self.penalty, dict(self.model.named_parameters())) / len(self.batches)

    @property
    def loss_terms(self) -> LossTerms:
        """The loss as a function of the model's output and the target.

        Raises:
            InputError: the problem is of the form `from_sample_losses`.
        """
        return self._pair_form().loss

    @property
    def torch_loss(self) -> Loss | None:
        """The torch loss module that the terms are of; None where the loss is the user's own."""
        loss = self._form.loss.reduced if isinstance(self._form, PairForm) else None
        return loss if isinstance(loss, nn.Module) else None

    def _pair_form(self) -> PairForm:
        if isinstance(self._form, PairForm):
            return self._form
        raise InputError(
            "Problem.from_sample_losses doesn't tell the model's output from its loss, which Gauss-Newton and the "
            "Fisher need: use Problem(model, loss, batches), or the Hessian or the empirical Fisher"
        )

    def constants(self) -> Iterable[Tensor]:
        """The buffers and frozen parameters."""
        return self._constants.values()

    def with_tensors(self, constants: Iterable[Tensor], batch: Any) -> Self:
        """The same problem with one batch alone, still weighed against all data, and other buffers in their order."""
        other = copy.copy(self)
        other._constants = dict(zip(self._constants, constants, strict=True))
        other.batches, other.processes = [batch], ALONE
        return other

    def signature(self, batch: Any) -> Hashable:
        """What two points and batches must have in common for a computation traced at one to hold at the other."""
        constants = tuple((name, data.signature(tensor)) for name, tensor in self._constants.items())
        point = self.layout.names, self.vector.dtype, self.device, self.training
        return self._form, self.total_weight, point, constants, data.shape_of(batch)

    def _state(self, vector: Tensor) -> dict[str, Tensor]:
        """Every parameter and buffer of the model, the trainable ones as views of ``vector``."""
        # BatchNorm in training mode writes its running statistics.
        constants = {n: t.clone() for n, t in self._constants.items()} if self.training else self._constants
        tensors = self.layout.unflatten(vector) | constants
        return {slot: tensors[name] for slot, name in self._slots.items()}

    def micro_batched(self, size: int) -> Self:
        """The same problem in micro-batches of at most so many samples.

        Raises:
            InputError: the samples of a batch aren't independent.
        """
        other = copy.copy(self)
        other._split(size)
        return other

    def _split(self, size: int | None) -> None:
        """Go over to micro-batches of at most ``size`` samples, which must give the same losses.

        Raises:
            InputError: ``size`` isn't positive, or the samples of a batch aren't independent or can't be told apart.
        """
        if size is None:
            return
        self._refuse_dependent_samples(size)
        self._cut(size)

    def _cut(self, size: int) -> None:
        self.batches = [piece for batch in self.batches for piece in data.split(batch, size)]

    def _refuse_dependent_samples(self, size: int) -> None:
        """Refuse what `_split` does, by the largest batch: a small one might not be split at all."""
        whole = max(self.batches, key=data.samples_in)
        pieces = data.split(whole, size)
        try:
            with torch.no_grad(), self.evaluating():
                together = self.terms(self.vector, whole)
                apart = map(torch.cat, zip(*(self.terms(self.vector, piece) for piece in pieces), strict=True))
                same = all(
                    one.shape == other.shape and equal_losses(one, other)
                    for one, other in zip(together, apart, strict=True)
                )
        except (RuntimeError, ValueError) as error:  # shapes that no longer fit, or BatchNorm of a single sample
            if ran_out(error):
                raise
            same = False
        if not same:
            raise InputError(
                f"batches of {data.samples_in(whole)} samples can't be split into {size}: the losses change, since "
                "samples are mixed (BatchNorm in training mode) or a tensor of the batch isn't by sample"
            )

    def share(self, vector: Tensor, batch: Any) -> Tensor:
        """One batch's part of the objective, sum w l / W with W the weight of the whole data; a scalar with a graph.

        Raises:
            InputError: the losses don't depend on the vector as far as autograd knows.
        """
        return self._weigh(self.terms(vector, batch))

    def share_of_output(self, vector: Tensor, output: Any, batch: Any) -> Tensor:
        """The same as `share`, from the model's output on the batch at that vector.

        Raises:
            InputError: the problem is of the form `from_sample_losses`, or the losses don't depend on the output.
        """
        return self._weigh(self._pair_form().terms_of_output(self._state(vector), output, batch))

    def _weigh(self, terms: Terms) -> Tensor:
        losses, weights = terms
        if not losses.requires_grad:
            raise InputError(
                "the losses have no gradient: the model or the loss is detached from its parameters (no_grad inside?)"
            )
        return (weights * losses).sum() / self.total_weight

    def sample_losses(self) -> list[Terms]:
        """Losses and weights of every term, a pair for each batch, the sample's dimension first."""
        return [(losses, weights) for losses, weights, _ in self.judged()]

    def judged(self) -> list[Judged]:
        """The same, and which terms are right (1 or 0, or between for several outputs); None where nothing tells."""
        with torch.no_grad(), self.evaluating():
            found = (self._form.judged(self._state(self.vector), batch) for batch in self.batches)
            return [(losses.detach(), weights.detach(), right) for losses, weights, right in found]

    def by_sample(self) -> SampleSums:
        """What every sample adds to the objective, by one evaluation; nothing is refused, a NaN is a NaN.

        The penalty is in the loss of every term, so that the objective is the mean of these losses.
        """
        with torch.no_grad(), self.evaluating():
            return self.sums_at(self.vector)

    def sums_at(self, vector: Tensor) -> SampleSums:
        """The same at another flat vector, finite or not; call inside `evaluating`, entered once for many points."""
        judged = (self._form.judged(self._state(vector), batch) for batch in self.own().batches)
        sums = SampleSums.of(judged, self.total_weight).raised(self.penalty_at(vector))
        if self.processes.size == 1:
            return sums
        sizes = [data.samples_in(batch) for batch in self.batches]
        starts = np.cumsum([0, *sizes])
        parts = self._parts(sizes, self.processes.rank)
        places = torch.cat([starts[index] + torch.arange(start, stop) for index, start, stop in parts])
        return sums.among(places, sum(sizes), self.processes.total)

    def loss(self) -> float:
        """The objective at this point, summed in float64.

        Raises:
            InputError: it is NaN or infinite; says in which batch and for how many terms.
        """
        return self.evaluate().loss

    def evaluate(self) -> LossEstimate:
        """The objective with its standard error; see `LossEstimate`.

        Raises:
            InputError: a loss is NaN or infinite; says in which batch and for how many terms.
        """
        sums = self.by_sample()
        if not sums.losses.isfinite().all():
            self._refuse_nonfinite_losses()
        if not math.isclose(float(sums.weights.sum()), self.total_weight, rel_tol=1e-6):
            raise InputError(
                f"the losses' weights sum to {float(sums.weights.sum()):.6g} here and to {self.total_weight:.6g} where "
                "the problem was posed: they must not depend on the model's parameters"
            )
        return sums.estimate()

    def _refuse_nonfinite_losses(self) -> None:
        for index, (losses, _) in enumerate(self.sample_losses()):
            if bad := int((~losses.isfinite()).sum()):
                raise InputError(
                    f"the loss is NaN or infinite for {bad} of {losses.numel()} terms of batch {index}; check the "
                    "weights, the data and the loss function"
                )
        raise InputError("the penalty is NaN or infinite here; check the weights and the function")

    def gradient(self) -> Tensor:
        """The gradient (dim,) of the objective, accumulated over batches in float64."""
        with differentiating(), self.evaluating():
            total = torch.zeros(self.layout.dim, device=self.device, dtype=torch.float64)
            vector = self.vector.clone().requires_grad_()
            for batch in self.own().batches:
                (part,) = torch.autograd.grad(self.share(vector, batch), vector)
                total += part
            total = self.processes.total(total)
            if (penalty := self.penalty_at(vector)).requires_grad:
                (part,) = torch.autograd.grad(penalty, vector, materialize_grads=True)
                total += part
        return total.to(self.dtype)

    def hessian(self, products: int | None = None) -> Hessian:
        """The Hessian of the objective at this point, as an operator on flat vectors.

        Args:
            products: so many are expected, which decides what is worth preparing; default: those of ten eigenpairs.
        """
        # The one import upwards: a Problem knows its curvature by name, curvature is built on Problem.
        from landscape.curvature.hessian import Hessian

        return Hessian(self, products=products)

    @property
    def description(self) -> str:
        """The model and the loss as they print, to tell one problem from another; not what their code does."""
        penalty = "" if self.penalty is None else f", {name_of(self.penalty)}"
        return without_addresses(f"{self.model!r}, {self._form.loss_name}{penalty}")

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The state in which the model is evaluated and differentiated twice; everything is put back at the end.

        See `landscape.problem.switches.switched`, `landscape.problem.embeddings`, and `landscape.machine.widened` of a
        problem in float64; the model is in the problem's mode.
        """
        modes = {module: module.training for module in self.model.modules()}
        try:
            self.model.train(self.training)
            wide = widened() if self.dtype == torch.float64 else contextlib.nullcontext()
            recurrent = any(isinstance(module, nn.RNNBase) for module in modes)
            with switched(self.dtype, recurrent), wide, plain_embeddings(self.model):
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def _matches(place: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(place, pattern) or fnmatch.fnmatchcase(place, f"{pattern}.*")
