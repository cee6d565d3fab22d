"""Conversion of a training loss into terms: one loss and one weight for each sample or token.

The objective of this library is sum w_i l_i / sum w_i over the whole data set. A torch loss reduces by a mean over the
batch and drops the denominator. Batches of unequal size, masked tokens or class weights then bias every average of
batch means. So a loss is converted into *terms* (l_i, w_i), one for each sample or token. Their weighted mean
sum w_i l_i / sum w_i over one batch is the loss itself. `LossTerms.check` checks this equality on the data at hand.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.errors import InputError
from landscape.problem.cross_entropy import cross_entropy, large

Loss = Callable[[Any, Any], Tensor]
Terms = tuple[Tensor, Tensor]  # losses and weights, of one shape whose first dimension is the sample's


@dataclass(frozen=True)
class LossTerms:
    """A loss and its terms.

    Attributes:
        reduced: ``(output, target) -> scalar``, the loss as the user gave it, with its own tensors converted.
        terms: ``(output, target) -> (losses, weights)``.
        correct: ``(output, target) -> share``, in the shape of the terms: 1 where the most likely class is the
            target's, else 0; for several yes-or-no outputs the share of right outputs. None for a loss without classes.
    """

    reduced: Loss
    terms: Callable[[Any, Any], Terms]
    correct: Callable[[Any, Any], Tensor] | None = None

    def check(self, output: Any, target: Any) -> Terms:
        """Terms of one batch, after sum w l / sum w is compared with the loss itself.

        Raises:
            InputError: the two differ by more than rounding, so the loss isn't the weighted mean of these terms.
        """
        pair = self.terms(output, target)
        losses, weights = (t.detach().to(torch.float64) for t in pair)
        reduced = self.reduced(output, target).detach()
        if reduced.ndim or not weights.sum() or not reduced.isfinite():
            return pair
        mean = float((weights * losses).sum() / weights.sum())
        scale = float((weights * losses.abs()).sum() / weights.sum())
        # Two orders of summation of n terms differ by about sqrt(n) roundings; the loss's own arithmetic has ten more.
        rounding = torch.finfo(reduced.dtype).eps * (10 + losses.numel() ** 0.5) * scale
        if not abs(mean - float(reduced)) <= rounding:  # not <= also catches NaN, from a sample that is fully masked
            raise InputError(
                f"the loss of a batch, {float(reduced):.6g}, isn't the mean of its samples' losses, {mean:.6g} "
                f"{self._cause(output, target)}"
            )
        return pair

    def _cause(self, output: Any, target: Any) -> str:
        """Explain why a loss may not be the mean of its terms, and what to do."""
        weights = getattr(self.reduced, "weight", None)
        if getattr(self.reduced, "label_smoothing", 0) and weights is not None and not weights.all():
            return (
                "(label smoothing gives samples of class weight 0 a loss and no weight): leave these samples out, or "
                "give their class a small weight"
            )
        if shapes := broadcast(output, target):
            return f"({shapes}): give both one shape"
        return "(a mask or weights inside the function?); pass torch's loss module or use Problem.from_sample_losses"


def broadcast(output: Any, target: Any) -> str:
    """Describe how an output and a target are broadcast against each other; empty if they aren't."""
    if not (isinstance(output, Tensor) and isinstance(target, Tensor)) or output.shape == target.shape:
        return ""
    try:
        shape = torch.broadcast_shapes(output.shape, target.shape)
    except RuntimeError:
        return ""
    return f"the output {tuple(output.shape)} and the target {tuple(target.shape)} are broadcast to {tuple(shape)}"


def terms_of(loss: Loss, device: torch.device, dtype: torch.dtype, model: nn.Module | None = None) -> LossTerms:
    """Convert a loss into terms.

    - ``CrossEntropyLoss`` and ``NLLLoss`` with class indices: one term for each index, weighted by the class weight of
      its target and by 0 at ``ignore_index``.
    - Every other torch loss: one term for each sample, the mean over its output elements (their sum for
      ``batchmean``), of weight 1.
    - Among these, a loss of more than two arguments takes several outputs of the model: mean and variance
      (``GaussianNLLLoss``), or two or three inputs (``CosineEmbeddingLoss``, ``MarginRankingLoss``, the triplet
      losses). ``CTCLoss`` takes ``(targets, input lengths, target lengths)`` as the target.
    - A function that returns several losses: these losses are the terms, of weight 1.
    - A function that returns one number is taken as a mean over samples and evaluated sample by sample. So is a torch
      loss that holds parts of the model, since a copy of the loss would copy these parts.

    Args:
        loss: a torch loss module, a torch loss function (or a partial of one), or a function of the user's own.
        device: device of the outputs; the loss's own tensors (class weights) are copied there.
        dtype: floating-point type of the outputs.
        model: model whose outputs the loss takes.

    Raises:
        InputError: the loss isn't callable, or sums over the batch.
    """
    if not callable(loss):
        raise InputError(f"the loss must be a torch loss module or a function, not {type(loss).__name__}")
    loss = _torch_function_as_module(loss)
    if not isinstance(loss, nn.Module) or not hasattr(loss, "reduction") or _parts_of(loss) & _parts_of(model):
        return LossTerms(loss, functools.partial(_own_terms, loss))
    if loss.reduction == "sum":
        raise InputError("a loss with reduction='sum' grows with the data set; use reduction='mean'")
    # Parts of the model that the loss holds elsewhere, such as in a list, aren't copied either.
    reduced = copy.deepcopy(loss, {id(part): part for part in _parts_of(model)}).to(device=device, dtype=dtype)
    unreduced: Any = copy.copy(reduced)
    unreduced.reduction = "none"
    if isinstance(unreduced, nn.CrossEntropyLoss | nn.NLLLoss):
        return LossTerms(reduced, functools.partial(_class_terms, unreduced), _class_correct)
    if (arguments := _ARGUMENTS.get(type(unreduced))) is not None:
        return LossTerms(
            lambda output, target: reduced(*arguments(output, target)),
            functools.partial(_arranged_terms, unreduced, arguments),
        )
    yes_or_no = {nn.BCEWithLogitsLoss: 0.0, nn.BCELoss: 0.5}.get(type(unreduced))
    return LossTerms(
        reduced,
        functools.partial(_element_terms, unreduced, loss.reduction == "batchmean"),
        None if yes_or_no is None else functools.partial(_binary_correct, yes_or_no),
    )


def _parts_of(module: nn.Module | None) -> set[Any]:
    """Every module and parameter in a module, compared by identity."""
    return set() if module is None else {*module.modules(), *module.parameters()}


class FunctionAsModule(nn.Module):
    """A function of torch.nn.functional with a ``reduction``, as a module; tensors in its keywords become buffers."""

    def __init__(self, function: Callable[..., Tensor], keywords: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.keywords = {k: v for k, v in keywords.items() if not isinstance(v, Tensor)}
        self.reduction: str = self.keywords.pop("reduction", "mean")
        for name, value in keywords.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)

    def forward(self, output: Any, target: Any) -> Tensor:
        return self.function(output, target, **self.keywords, **dict(self.named_buffers()), reduction=self.reduction)


def _torch_function_as_module(loss: Loss) -> Loss:
    """``F.mse_loss`` or ``partial(F.cross_entropy, ignore_index=0)`` as a module; any other loss unchanged."""
    function, keywords = (loss.func, loss.keywords) if isinstance(loss, functools.partial) else (loss, {})
    if function in (functional.cross_entropy, functional.nll_loss):
        return (nn.CrossEntropyLoss if function is functional.cross_entropy else nn.NLLLoss)(**keywords)
    if getattr(functional, getattr(function, "__name__", ""), None) is not function:
        return loss
    return FunctionAsModule(function, keywords) if "reduction" in inspect.signature(function).parameters else loss


def _class_terms(unreduced: nn.CrossEntropyLoss | nn.NLLLoss, output: Tensor, target: Tensor) -> Terms:
    if large(unreduced, output, target):
        losses = cross_entropy(output, target, unreduced.ignore_index)
    else:
        losses = unreduced(output, target)
    if target.dtype.is_floating_point:  # class probabilities: torch divides by the number of samples
        return losses, torch.ones_like(losses)
    kept = target != unreduced.ignore_index
    if unreduced.weight is None:
        return losses, kept.to(losses.dtype)
    # Class 0 stands in for ignore_index, which is no index into the weights.
    weights = unreduced.weight[torch.where(kept, target, 0)] * kept
    return torch.where(weights > 0, losses / torch.where(weights > 0, weights, 1.0), 0.0), weights


_ARGUMENTS: dict[type, Callable[[Any, Any], tuple[Any, ...]]] = {
    nn.GaussianNLLLoss: lambda output, target: (output[0], target, output[1]),
    nn.CTCLoss: lambda output, target: (output, *target),
    nn.CosineEmbeddingLoss: lambda output, target: (*output, target),
    nn.MarginRankingLoss: lambda output, target: (*output, target),
    nn.TripletMarginLoss: lambda output, _: tuple(output),
    nn.TripletMarginWithDistanceLoss: lambda output, _: tuple(output),
}
"""How a loss of more than two arguments takes them from the output and the target."""


def _arranged_terms(
    unreduced: nn.Module, arguments: Callable[[Any, Any], tuple[Any, ...]], output: Any, target: Any
) -> Terms:
    losses = unreduced(*arguments(output, target))
    if isinstance(unreduced, nn.CTCLoss):  # its mean divides each loss by the length of its target
        losses = losses / torch.as_tensor(target[-1]).to(losses).clamp(min=1)
    losses = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
    return losses, torch.ones_like(losses)


def _class_correct(output: Tensor, target: Tensor) -> Tensor:
    classes = target.argmax(1) if target.dtype.is_floating_point else target
    return (output.argmax(1 if output.ndim > 1 else 0) == classes).to(output.dtype)


def _binary_correct(threshold: float, output: Tensor, target: Tensor) -> Tensor:
    right = ((output > threshold) == (target > 0.5)).to(output.dtype)
    return right.flatten(1).mean(1) if right.ndim > 1 else right


def _element_terms(unreduced: nn.Module, summed: bool, output: Any, target: Any) -> Terms:
    elements = unreduced(output, target)
    if elements.ndim > 1:
        elements = elements.flatten(1).sum(1) if summed else elements.flatten(1).mean(1)
    return elements, torch.ones_like(elements)


def _own_terms(loss: Loss, output: Any, target: Any) -> Terms:
    losses = loss(output, target)
    if not isinstance(losses, Tensor):
        raise InputError(f"the loss function returned {type(losses).__name__}, not a tensor")
    if losses.ndim == 0:
        if not isinstance(output, Tensor) or not isinstance(target, Tensor):
            raise InputError(
                "a loss function that returns one number needs tensors as output and target, to be evaluated sample by "
                "sample; use Problem.from_sample_losses"
            )
        losses = torch.stack([loss(output[i : i + 1], target[i : i + 1]) for i in range(len(target))])
    return losses, torch.ones_like(losses)
