"""A Problem: a model, a loss for each sample and a data set, at one point of parameter space."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.machine.device import checked_device_and_dtype, resolve_device_and_dtype, unwrapped
from landscape.machine.processes import SINGLE_PROCESS, Processes
from landscape.problem.audit import audit, company_notes, first_samples, refuse_dependent_samples
from landscape.problem.batches import Count, samples_in
from landscape.problem.data import Data
from landscape.problem.evaluation import Evaluation
from landscape.problem.forms import OwnForm, PairForm, Read, SampleLosses
from landscape.problem.leaks import refuse_leaks
from landscape.problem.loaders import order_notes
from landscape.problem.losses import Loss
from landscape.problem.objective import Objective
from landscape.problem.penalty import Penalty, name_of
from landscape.problem.point import Point
from landscape.problem.programs import Programs
from landscape.problem.switches import differentiating
from landscape.reporting.deprecation import renamed_arguments, renamed_members

if TYPE_CHECKING:
    from landscape.curvature.hessian import Hessian


Compile = Literal["auto", "on", "off"]


@renamed_members(compiling="compile_products", split_over="distributed_over")
class Problem(Evaluation):
    """A model, a loss and a data set at one parameter vector: the input of every measurement of this library.

    The objective is sum w_i l_i / sum w_i over all samples (or tokens) of all batches, whatever their sizes, plus the
    penalty. See `landscape.problem.losses.terms_of` for the terms of each torch loss.

    The user's model is never changed. Parameters and buffers go in by `torch.func.functional_call`, and train/eval
    modes are restored after every evaluation. The loss is evaluated inside that call, so parameters that the loss reads
    from the model (`model.parameters()`) count.

    A problem doesn't change. Methods that give another problem (`at`, `to`, `restricted`, ...) share with this problem
    everything that they don't name.

    Attributes:
        data: the batches as they were read once, in micro-batches, with facts about their samples.
        objective: the model, the loss and the penalty.
        point: the flat vector and the model's other tensors.
        total_weight: weight of the whole data, sum w_i.
        notes: sentences on decisions and changes on the user's behalf.
        mixing: whether the terms of a sample were seen to depend on the other samples of its batch.
        compile_products: whether products of curvature are compiled: ``on``, ``off``, or ``auto`` (where it pays).
        memory: bytes that a measurement may take beyond model and data; None leaves the limit to each measurement.
        optimizer: the optimiser's ``state_dict`` at this point, where a checkpoint gave it.
        programs: traced programs, shared with the problems made from this one.
    """

    mixing: bool = False
    notes: tuple[str, ...] = ()
    compile_products: Compile = "auto"
    memory: int | None = None
    optimizer: Mapping[str, Any] | None = None
    programs: Programs

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
        count: Count | None = None,
    ) -> None:
        """Pose the problem ``loss(model(input), target)`` over batches of ``(input, target)``.

        Args:
            model: any module. Of a wrapped (`DataParallel`, DDP) or compiled module the plain module is taken. A tuple
                or list as input becomes the model's positional arguments, a mapping its keywords.
            loss: a torch loss module or function as used in training, or a function ``(output, target)``.
            batches: a list or loader of ``(input, target)`` pairs, read once and kept.
            device: device of the computation; default: the device of the first trainable parameter.
            dtype: float32 or float64; default: that of the first trainable parameter, at least float32.
            micro_batch: split batches into at most this many samples, to save memory; default: no split.
            training: evaluate in training mode (BatchNorm with the statistics of its one whole batch); default: no.
            about: facts about the samples, in the order of the batches: for each name one text (a type) or one number
                (a difficulty) per sample. Per-sample losses are grouped by these facts. A loader of unknown order is
                then read again, and refused where its batches differ.
            read: function from the model's output to the input of the loss. Default for torch losses: the ``logits``
                of a mapping or an object, or the first of several outputs.
            penalty: ``penalty(named_parameters)`` gives a scalar tensor, which is added to the mean loss once, whatever
                the batches. It has no part in standard errors over samples. Tied parameters are named once.
            count: ``count(batch)`` gives the number of samples of a batch. Needed where this isn't the leading
                dimension of the batch's first tensor, as for ragged lists and graphs. Lists of as many items are then
                by sample too.

        Raises:
            InputError: an argument can't be used; the message is one line that says which and what to do.
        """
        model = unwrapped(model)
        place = resolve_device_and_dtype(model, device, dtype)
        self._pose(PairForm(model, loss, *place, read), batches, place, micro_batch, training, about, penalty, count)

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
        count: Count | None = None,
    ) -> Self:
        """Pose any other problem: ``fn(model, batch)`` returns the losses, or ``(losses, weights)``, of one batch.

        Losses and weights have one shape, with the sample's dimension first. Other arguments are those of `Problem`.

        Raises:
            InputError: an argument can't be used; the message is one line that says which and what to do.
        """
        if not callable(fn):
            raise InputError(f"fn must be a function (model, batch) -> losses, not {type(fn).__name__}")
        model = unwrapped(model)
        place = resolve_device_and_dtype(model, device, dtype)
        problem = cls.__new__(cls)
        problem._pose(OwnForm(model, fn), batches, place, micro_batch, training, about, penalty, count)
        return problem

    def _pose(
        self,
        form: PairForm | OwnForm,
        batches: Iterable[Any],
        place: tuple[torch.device, torch.dtype],
        micro_batch: int | None,
        training: bool,
        about: Mapping[str, Sequence[Any] | np.ndarray] | None,
        penalty: Penalty | None,
        count: Count | None,
    ) -> None:
        with differentiating():
            self.programs = Programs()
            self.objective, self.point = Objective(form, training), Point.of(form.model, *place)
            data = Data.read(batches, *place, count)
            audited = audit(self.objective, self.point, data)
            self.total_weight, self.data = audited.total_weight, data.described(about)
            order = order_notes(batches, self.batches, place, bool(self.about))
            company = company_notes(self.objective, self.point, self.data, audited.terms)
            self.mixing, self.notes = bool(company), order + audited.notes + company + form.notes
            if micro_batch is not None:
                self.data = self._cut(micro_batch)
            if penalty is not None:
                self._add_penalty(penalty)
            self.notes += refuse_leaks(self.objective, self.point, self.data)

    def _replace(self, **changes: Any) -> Self:
        """This problem with some attributes changed; nothing is evaluated."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    # ------------------------------------------------------------------ other points

    def at(self, vector: Tensor) -> Self:
        """This problem at another point: a flat vector of shape (dim,).

        Raises:
            InputError: the vector has another shape or isn't finite.
        """
        return self._replace(point=self.point.at(vector))

    def with_state(self, state: Mapping[str, Tensor]) -> Self:
        """This problem at a checkpoint's parameters and buffers, given by the model's own names."""
        return self._replace(point=self.point.with_state(state))

    def restricted(self, patterns: str | Iterable[str]) -> Self:
        """This problem with only some parameters left to vary; the others become constants.

        Args:
            patterns: one glob or several, such as ``blocks.*.attention.*``. A glob that matches a module's name takes
                all parameters under the module. A tied parameter matches by any of its names.

        Raises:
            InputError: a pattern matches no parameter of the flat vector, or there is no pattern.
        """
        return self._replace(point=self.point.restricted(patterns))

    def buffers(self) -> dict[str, Tensor]:
        """Buffers and frozen parameters by their first names, without the parameters that `restricted` fixed."""
        trainable = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in self.point.constants.items() if name not in trainable}

    def with_buffers(self, buffers: Mapping[str, Tensor]) -> Self:
        """This problem with some buffers or frozen parameters replaced, given by their first names."""
        return self._replace(point=self.point.with_constants(buffers))

    # ------------------------------------------------------------------ computed elsewhere or otherwise

    @renamed_arguments("Problem.to", compiling="compile_products")
    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        micro_batch: int | None = None,
        compile_products: Compile | None = None,
        memory: int | None = None,
    ) -> Self:
        """This problem on another device, in another type or with other settings.

        None keeps the present setting. See `Problem` for each setting.

        Raises:
            InputError: the device isn't available, the type isn't float32 or float64, or the batches can't be split.
        """
        other = self._replace(compile_products=compile_products or self.compile_products, memory=memory or self.memory)
        place = checked_device_and_dtype(device or self.device, dtype or self.dtype)
        if place != (self.device, self.dtype):
            other = other._converted(*place)._weighed()
        return other if micro_batch is None else other.micro_batched(micro_batch)

    def in_float64(self, pieces: int = 1) -> Self:
        """This problem in float64, without a check: an error shows only at the first evaluation.

        Args:
            pieces: number of micro-batches that the largest batch is split into; other batches are split to that size.
                No batch is split where samples mix. Default: 1.
        """
        other = self._converted(self.device, torch.float64)
        if pieces == 1 or self.mixing:
            return other
        return other._replace(data=other.data.cut(math.ceil(samples_in(self.data.largest) / pieces)))

    def _converted(self, device: torch.device, dtype: torch.dtype) -> Self:
        place = device, dtype
        return self._replace(
            point=self.point.on(*place), objective=self.objective.on(*place), data=self.data.on(*place)
        )

    def _weighed(self) -> Self:
        """This problem with its total weight, from an audit like that of a new problem."""
        return self._replace(total_weight=audit(self.objective, self.point, self.data).total_weight)

    def limited(self, memory: int) -> Self:
        """This problem with ``memory`` bytes for a measurement."""
        return self._replace(memory=memory)

    def noted(self, *notes: str) -> Self:
        """This problem with more notes."""
        return self._replace(notes=(*self.notes, *notes))

    def with_optimizer(self, optimizer: Mapping[str, Any] | None) -> Self:
        """This problem with the ``state_dict`` of an optimiser."""
        return self._replace(optimizer=optimizer)

    def with_penalty(self, penalty: Penalty) -> Self:
        """This problem with a penalty in its objective; see `Problem`.

        Raises:
            InputError: the problem has a penalty already, or the new penalty gives no finite number or reads the
                parameters past their places.
        """
        if self.penalty is not None:
            raise InputError(f"the objective has a penalty, {name_of(self.penalty)}: leave out {name_of(penalty)}")
        other = copy.copy(self)
        other._add_penalty(penalty)
        refuse_leaks(other.objective, other.point, other.data)
        return other

    def _add_penalty(self, penalty: Penalty) -> None:
        self.objective = Objective(self.objective.form, self.training, penalty)
        with torch.no_grad(), self.evaluating():
            value = float(self.penalty_at(self.vector))
        if not math.isfinite(value):
            raise InputError(f"the penalty, {name_of(penalty)}, is {value} here: correct it")
        self.notes += (
            f"the objective is the mean loss plus {name_of(penalty)}; every matrix includes the Hessian of this "
            "penalty",
        )

    def with_model(self, model: nn.Module, tensors: Mapping[str, Tensor], penalty: Penalty | None = None) -> Self:
        """This problem's data and loss on another model, at given values of its parameters and buffers.

        Args:
            model: a model that takes the inputs of the problem's own model.
            tensors: every parameter and buffer by the first of its names in ``model``.
            penalty: a penalty on the parameters of ``model``; default: none.
        """
        return self._replace(
            objective=self.objective.with_model(model, penalty),
            point=Point.of(model, self.device, self.dtype, tensors),
            programs=Programs(),
        )

    # ------------------------------------------------------------------ other data

    def first_samples(self, samples: int) -> Self:
        """This problem on its first samples, for this process only; on the first batch, if it can't be split."""
        data, weight = first_samples(self.objective, self.point, self.data, samples)
        return self._replace(data=data, total_weight=self.total_weight if weight is None else weight)

    def halves(self) -> tuple[Self, Self]:
        """This problem on two halves of the data, each with half of every batch.

        Raises:
            InputError: there is only one sample, or the samples of a batch aren't independent.
        """
        self.refuse_dependent_samples(math.ceil(samples_in(self.data.largest) / 2))
        one, other = (self._replace(data=half)._weighed() for half in self.data.halves())
        return one, other

    def sampled(self, count: int, seed: int = 0) -> Self:
        """This problem on ``count`` of its samples, drawn without replacement; on all where there are no more.

        Raises:
            InputError: the count isn't positive, or the samples of a batch aren't independent.
        """
        if count < 1:
            raise InputError(f"a subset has at least 1 sample, not {count}")
        if count >= self.data.samples:
            return self
        self.refuse_dependent_samples()
        return self.on_samples(np.sort(np.random.default_rng(seed).permutation(self.data.samples)[:count]))

    def on_samples(self, places: np.ndarray) -> Self:
        """This problem on the samples at these places, ascending, which `refuse_dependent_samples` allows."""
        return self._replace(data=self.data.on_samples(places))._weighed()

    def micro_batched(self, size: int) -> Self:
        """This problem in micro-batches of at most ``size`` samples, which give equal losses.

        Raises:
            InputError: the size isn't positive, or the samples of a batch aren't independent or can't be separated.
        """
        return self._replace(data=self._cut(size))

    def _cut(self, size: int) -> Data:
        self.refuse_dependent_samples(size)
        return self.data.cut(size)

    def refuse_dependent_samples(self, size: int | None = None) -> None:
        """Refuse batches that can't be split into ``size`` samples, by default one fewer; see `micro_batched`."""
        size = size or max(1, samples_in(self.data.largest) - 1)
        refuse_dependent_samples(self.objective, self.point, self.data, size)

    def distributed_over(self, processes: Processes) -> Self:
        """Share this problem: each process computes losses, gradients and products of its shard of every batch.

        All processes must call the problem's methods in one common order. Only the losses of single terms
        (`evaluated_terms`, `sample_losses`) are computed by every process for all samples.

        Raises:
            InputError: the samples of a batch aren't independent, or a process would have no sample.
        """
        if processes == self.processes:
            return self
        other = self._replace(data=self.data.shared(processes))
        if processes.size > 1:
            self.refuse_dependent_samples(max(1, samples_in(self.data.largest) // processes.size))
        return other

    def local_shard(self) -> Self:
        """This problem on this process's shard only; the total weight is still that of all data."""
        return self._replace(data=self.data.local_shard())

    def with_tensors(self, constants: Iterable[Tensor], batch: Any) -> Self:
        """This problem on one batch, with other constants in order; the total weight is still that of all data."""
        others = dict(zip(self.point.constants, constants, strict=True))
        data = Data([batch], self.about, self.data_sha256, SINGLE_PROCESS)
        return self._replace(point=self.point.with_constants(others), data=data)

    def hessian(self, products: int | None = None) -> Hessian:
        """The Hessian of the objective at this point, as an operator on flat vectors.

        Args:
            products: expected number of products, which decides how much preparation pays; default: the number for ten
                eigenpairs.
        """
        # The one upward import: a Problem only names its Hessian, while curvature is built on Problem.
        from landscape.curvature.hessian import Hessian

        return Hessian(self, products=products)
