"""Check a new Problem: finite parameters, a deterministic loss, one non-negative weight per term."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from landscape.errors import InputError
from landscape.machine.memory import ran_out
from landscape.problem.batches import samples_in, select, split
from landscape.problem.data import Data
from landscape.problem.losses import Terms
from landscape.problem.objective import Objective
from landscape.problem.point import Point
from landscape.reporting.messages import listed


class Audit(NamedTuple):
    """Results of the check of a problem.

    Attributes:
        total_weight: weight of the whole data, sum w_i.
        notes: sentences on switches set on the user's behalf.
        terms: losses and weights of the smallest batch of several samples.
    """

    total_weight: float
    notes: tuple[str, ...]
    terms: Terms


def audit(objective: Objective, point: Point, data: Data) -> Audit:
    """Check an objective at a point: evaluate every batch of the data once, and the first batch once more.

    Raises:
        InputError: the objective is ill-defined.
    """
    _refuse_nonfinite_parameters(objective, point)
    _refuse_mixing_in_training(objective, data)
    total, smallest = 0.0, _smallest(data)
    with torch.no_grad(), objective.evaluating(point.dtype), _FunctionsCalled() as called:
        for batch in data.batches:
            losses, weights = objective.checked_terms(point, batch)
            _refuse_wrong_shapes(losses, weights, samples_in(batch))
            total += float(weights.sum(dtype=torch.float64))
            if batch is smallest:
                terms = losses, weights
            if batch is data.batches[0]:
                _refuse_changing_losses(losses, objective.terms(point, point.vector, batch)[0])
    if not total > 0:
        raise InputError(f"the weights of all terms sum to {total:.3g}: is every target masked?")
    if called.functions & {functional.scaled_dot_product_attention, functional.multi_head_attention_forward}:
        notes = ("attention runs on the math kernel: the fused kernels have no double backward",)
        return Audit(total, notes, terms)
    return Audit(total, (), terms)


def first_samples(objective: Objective, point: Point, data: Data, samples: int) -> tuple[Data, float | None]:
    """Select the first samples of the data, for this process only, and find their weight.

    If the objective refuses these samples, the whole first batch is taken. The weight is None where the samples are all
    the data, and where the objective refuses the first batch too.
    """
    whole = data.alone(data.batches)
    if len(data.batches) == 1 and samples_in(data.batches[0]) <= samples:
        return whole, None
    for batches in (data.first(samples), data.batches[:1]):
        part = data.alone(batches)
        try:
            return part, audit(objective, point, part).total_weight
        except Exception as error:  # of any kind: the user's own code gets only a part of a batch
            if ran_out(error):
                raise
    return part, None


def refuse_dependent_samples(objective: Objective, point: Point, data: Data, size: int) -> None:
    """Refuse data whose batches can't be split into micro-batches of ``size`` samples.

    The largest batch is evaluated whole and in micro-batches, since a small batch might not be split at all.

    Raises:
        InputError: ``size`` isn't positive, or the samples of a batch aren't independent or can't be separated.
    """
    whole = data.largest
    pieces = split(whole, size)
    try:
        with torch.no_grad(), objective.evaluating(point.dtype):
            together = objective.terms(point, point.vector, whole)
            parts = (objective.terms(point, point.vector, piece) for piece in pieces)
            apart = map(torch.cat, zip(*parts, strict=True))
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
            f"batches of {samples_in(whole)} samples can't be split into {size}: the losses change, since samples are "
            "mixed (BatchNorm in training mode) or a tensor of the batch isn't by sample"
        )


def _smallest(data: Data) -> Any:
    """The smallest batch of several samples; a batch of one sample where none has more."""
    return min(data.batches, key=lambda batch: (samples_in(batch) == 1, samples_in(batch)))


def _refuse_nonfinite_parameters(objective: Objective, point: Point) -> None:
    tensors = point.tensors()
    for name, _ in objective.model.named_parameters():
        if bad := int((~tensors[name].isfinite()).sum()):
            raise InputError(
                f"parameter {name} has {bad} of {tensors[name].numel()} entries that are NaN or infinite; this "
                "point has no loss landscape, take an earlier checkpoint"
            )


def _refuse_mixing_in_training(objective: Objective, data: Data) -> None:
    for name, module in objective.model.named_modules() if objective.training and len(data.batches) > 1 else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"{name} in training mode mixes the samples of a batch: give the whole data as one batch, or use "
                "training=False"
            )


def _refuse_changing_losses(first: Tensor, again: Tensor) -> None:
    """Refuse losses that differ between two evaluations at one point: a landscape is a function of the point."""
    if not equal_losses(first, again):
        raise InputError(
            "the losses change from one evaluation to the next: the model or the loss draws random numbers "
            "(dropout in training mode?) or changes its own buffers; make it deterministic"
        )


def company_notes(objective: Objective, point: Point, data: Data, terms: Terms) -> tuple[str, ...]:
    """Note company: the terms of a sample depend on the other samples of its batch, and so on how the data are split.

    BatchNorm that normalises by the batch is recognised by its type. Any other dependence is found by evaluating the
    smallest batch of several samples with other samples, see `_dependence`.

    Args:
        objective: audited objective.
        point: point of the audit.
        data: data of the audit.
        terms: losses and weights of the smallest batch.

    Returns:
        One note; empty where no dependence is found.
    """
    mixing = [
        name
        for name, module in objective.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (objective.training or module.running_mean is None)
    ]
    if mixing:
        dependence = f"BatchNorm takes the statistics of each batch ({listed(mixing)})"
    elif not (dependence := _dependence(objective, point, _smallest(data), terms)):
        return ()
    batches = "1 batch" if len(data.batches) == 1 else f"{len(data.batches):,} batches"
    return (
        f"{dependence}: the objective depends on how the data are split, and is computed with the {batches} as given",
    )


def _dependence(objective: Objective, point: Point, batch: Any, given: Terms) -> str:
    """Describe how the terms of a sample depend on the other samples of its batch; empty if they don't.

    Every second sample is replaced by a copy of the first, and one more copy is appended. The samples that stay must
    keep their losses and weights. With copies every index in the data stays within its range; with fewer samples it
    might not.
    """
    samples = samples_in(batch)
    places = torch.arange(samples + 1)
    places[1::2] = places[samples] = 0
    stay = torch.arange(0, samples, 2)
    with torch.no_grad(), objective.evaluating(point.dtype):
        for size in (samples + 1, samples):  # some models take batches of only one size
            try:
                others = objective.terms(point, point.vector, select(batch, places[:size]))
            except Exception as error:  # of any kind: the user's own code gets another batch
                if ran_out(error):
                    raise
                continue
            # Another batch may be summed in another order. Deep networks amplify the rounding: half the digits remain.
            tolerance = math.sqrt(torch.finfo(given[0].dtype).eps)
            same = (
                other.shape == (size, *expected.shape[1:]) and equal_losses(expected[stay], other[stay], tolerance)
                for expected, other in zip(given, others, strict=True)
            )
            return "" if all(same) else "the loss of a sample depends on the other samples of its batch"
    return "the samples of a batch can't be separated, because the model or the loss accepts no other batch"


def equal_losses(first: Tensor, again: Tensor, tolerance: float | None = None) -> bool:
    """Whether two evaluations gave equal losses, up to ``tolerance``, a relative error.

    The default tolerance is 300 roundings, since reductions may run in another order.
    """
    tolerance = 300 * torch.finfo(first.dtype).eps if tolerance is None else tolerance
    scale = float(first.nan_to_num(0, 0, 0).abs().mean())
    return torch.allclose(first, again, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _refuse_wrong_shapes(losses: Tensor, weights: Tensor, samples: int) -> None:
    if losses.ndim == 0 or len(losses) != samples:
        raise InputError(
            f"expected one loss for each of the {samples} samples of a batch, the sample's dimension first, but got "
            f"shape {tuple(losses.shape)}; if a batch has another number of samples, give it by Problem(..., count=...)"
        )
    if weights.shape != losses.shape:
        raise InputError(f"the weights have shape {tuple(weights.shape)}, the losses {tuple(losses.shape)}")
    if (weights < 0).any():
        raise InputError("a weight is negative; weights count samples or tokens, and are 0 or more")


class _FunctionsCalled(TorchFunctionMode):
    """Records which torch functions run, so that the audit notes attention only where attention ran."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[Any] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.functions.add(func)
        return func(*args, **(kwargs or {}))
