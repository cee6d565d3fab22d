"""The task of a Hugging Face architecture, and the inputs, target and loss that follow from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.loading.pretrained.arrays import IGNORED, Arrays
from landscape.loading.pretrained.hugging_face import given_to, heads, tokens_of
from landscape.loading.pretrained.tokenizers import Tokenizer
from landscape.problem.forms import predicted
from landscape.reporting.messages import cause, listed

LOSSES: dict[str, type[nn.Module]] = {
    "cross-entropy": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
    "bce": nn.BCEWithLogitsLoss,
}
MASKED_SHARE = 0.15  # share of the tokens, as in Devlin et al. (2019), section 3.1
_MASKING_SEED = 0
_MASKED = "MASKED_LM"
_HELD, _TOLERANCE = 2, 1e-3  # samples whose loss is compared with the library's, which may be in half precision


@dataclass(frozen=True)
class Posed:
    """The parts of a problem other than the model.

    Attributes:
        inputs: keyword arguments of the model, with the sample's dimension first.
        target: target of the loss.
        loss: a torch loss.
        read: function that takes the loss's argument from the model's output; None reads it as `landscape.Problem`
            does.
        notes: decisions taken, a sentence each.
        labels: labels from which transformers computes its own loss; None takes ``target``.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    loss: nn.Module
    read: Callable[[Any], Tensor] | None = None
    notes: tuple[str, ...] = ()
    labels: Tensor | None = None


def pose(model: nn.Module, arrays: Arrays, tokenizer: Tokenizer | None, loss: str | None) -> Posed:
    """The inputs, target and loss for a model and its data.

    Args:
        model: a model of transformers, or an adapter on one.
        arrays: the data, in sequences.
        tokenizer: the model's tokenizer; None if none is needed.
        loss: a name in `LOSSES`; None takes the loss of the architecture, which is compared with the library's own.

    Raises:
        InputError: the architecture has no known loss, its loss differs from the library's, or the data don't fit the
            model.
    """
    base: Any = given_to(model)
    name, task = type(base).__name__, _task(base)
    if task is None:
        raise InputError(
            f"the loss of {name} isn't known: define the loss in a problem factory, --problem path/to/file.py:name"
        )
    if loss not in (None, "cross-entropy") and task not in _WITHOUT_PLACES:
        raise InputError(f"{name} predicts tokens, whose loss is cross-entropy: leave out --loss {loss}")
    _check_inputs(base, arrays.inputs)
    posed = _TASKS[task](base, _filled_up(base, arrays), tokenizer, loss)
    _check_tokens(base, posed.inputs)
    if loss is None:
        _check_against_library(model, posed)
    return posed


def draws_masks(model: nn.Module, arrays: Arrays) -> bool:
    """Whether tokens are masked here; the tokenizer then has to name the mask token."""
    return _task(given_to(model)) == _MASKED and arrays.target is None


def _task(base: nn.Module) -> str | None:
    return next((task for task, names in heads().items() if type(base).__name__ in names), None)


def _check_tokens(base: Any, inputs: dict[str, Tensor]) -> None:
    """Refuse tokens outside the model's embedding table; some kernels would read past its end."""
    tokens, size = inputs.get("input_ids"), tokens_of(base)
    if tokens is not None and size is not None and not bool(((tokens >= 0) & (tokens < size)).all()):
        raise InputError(
            f"input_ids has tokens from {int(tokens.min())} to {int(tokens.max())}, and the model those from 0 to "
            f"{size - 1}: give tokens, or a tokenizer, that belong to the model"
        )


def _filled_up(base: Any, arrays: Arrays) -> Arrays:
    """Put the model's padding token where the mask is 0, because some models find a text's end by this token."""
    mask, tokens = arrays.inputs.get("attention_mask"), arrays.inputs.get("input_ids")
    filling = getattr(base.config, "pad_token_id", None)
    if mask is None or tokens is None or filling is None:
        return arrays
    return replace(arrays, inputs=arrays.inputs | {"input_ids": torch.where(mask == 0, filling, tokens)})


def _check_against_library(model: nn.Module, posed: Posed) -> None:
    """Refuse a loss that differs from the loss that transformers computes on the first samples.

    Raises:
        InputError: the losses differ by more than ``_TOLERANCE``, or transformers can't compute its loss.
    """
    if "labels" not in inspect.signature(given_to(model).forward).parameters:
        return
    samples = {name: tensor[:_HELD] for name, tensor in posed.inputs.items()}
    labels = posed.target if posed.labels is None else posed.labels
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output: Any = model(**samples, labels=labels[:_HELD])
            logits = predicted(output) if posed.read is None else posed.read(output)
            ours, theirs = float(posed.loss(logits.float(), posed.target[:_HELD])), float(output.loss)
    except Exception as error:  # raised by the library for data that don't fit
        raise InputError(
            f"{type(given_to(model)).__name__} can't compute its loss on these data ({cause(error)})"
        ) from error
    finally:
        model.train(training)
    if not abs(ours - theirs) <= _TOLERANCE * max(1.0, abs(theirs)) and not (isnan(ours) and isnan(theirs)):
        raise InputError(
            f"the loss of {type(given_to(model)).__name__} in transformers is {theirs:.6g} on some of these data, and "
            f"{ours:.6g} by the plain loss here: name a loss (--loss) to take the plain loss, or define the other in "
            "a problem factory"
        )


def _check_inputs(base: nn.Module, inputs: dict[str, Tensor]) -> None:
    taken = inspect.signature(base.forward).parameters
    if unknown := [name for name in inputs if name not in taken]:
        raise InputError(f"{type(base).__name__} doesn't take {listed(unknown)}: it takes {listed(taken, 12)}")


def _target(base: nn.Module, arrays: Arrays) -> Tensor:
    if arrays.target is None:
        raise InputError(f"{type(base).__name__} needs targets: add an array called 'labels' to the data")
    return arrays.target


def _tokens(arrays: Arrays) -> Tensor:
    if "input_ids" not in arrays.inputs:
        raise InputError(f"there are no tokens: name them 'input_ids', not {listed(arrays.inputs) or 'nothing'}")
    return arrays.inputs["input_ids"].long()


def _classes_second(output: Any) -> Tensor:
    """Logits of shape (samples, classes, places), from the (samples, places, classes) of an output."""
    logits: Tensor = output.logits
    return logits.transpose(1, 2)


def _next_token(base: Any, arrays: Arrays, tokenizer: Tokenizer | None, loss: str | None) -> Posed:
    tokens = _tokens(arrays)
    labels = tokens if arrays.target is None else arrays.target.long()
    if "attention_mask" in arrays.inputs:
        labels = torch.where(arrays.inputs["attention_mask"] == 0, IGNORED, labels)
    target = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], dim=1)
    inputs = arrays.inputs | {"input_ids": tokens}
    return Posed(inputs, target, nn.CrossEntropyLoss(), _classes_second, labels=labels)


def _masked_token(base: Any, arrays: Arrays, tokenizer: Tokenizer | None, loss: str | None) -> Posed:
    tokens = _tokens(arrays)
    if arrays.target is not None:
        inputs = arrays.inputs | {"input_ids": tokens}
        return Posed(inputs, arrays.target.long(), nn.CrossEntropyLoss(), _classes_second)
    mask = None if tokenizer is None else tokenizer.mask()
    if tokenizer is None or mask is None:
        raise InputError(
            "no tokenizer names a mask token: mask some of input_ids, and give their tokens as 'labels', with "
            f"{IGNORED} for all others"
        )
    marks = [tokenizer.made.get_special_tokens_mask(row, already_has_special_tokens=True) for row in tokens.tolist()]
    drawn = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(_MASKING_SEED)) < MASKED_SHARE
    drawn &= (torch.tensor(marks) == 0) & (arrays.inputs.get("attention_mask", torch.tensor(1)) != 0)
    return Posed(
        arrays.inputs | {"input_ids": torch.where(drawn, mask, tokens)},
        torch.where(drawn, tokens, IGNORED),
        nn.CrossEntropyLoss(),
        _classes_second,
        (f"{int(drawn.sum()):,} of {tokens.numel():,} tokens were drawn once, masked, and are predicted",),
    )


def _translation(base: Any, arrays: Arrays, tokenizer: Tokenizer | None, loss: str | None) -> Posed:
    target = _target(base, arrays).long()
    if not hasattr(base, "prepare_decoder_input_ids_from_labels"):
        raise InputError(
            f"{type(base).__name__} doesn't define the inputs of its decoder: define the problem in a problem factory"
        )
    inputs = {"decoder_input_ids": base.prepare_decoder_input_ids_from_labels(labels=target)}
    return Posed(inputs | arrays.inputs, target, nn.CrossEntropyLoss(), _classes_second)


def _token_class(base: Any, arrays: Arrays, tokenizer: Tokenizer | None, loss: str | None) -> Posed:
    return Posed(arrays.inputs, _target(base, arrays).long(), nn.CrossEntropyLoss(), _classes_second)


def _class(base: Any, arrays: Arrays, tokenizer: Tokenizer | None, loss: str | None) -> Posed:
    """Pose a classification of sequences or images: one class, several labels, or numbers, as transformers decides."""
    target, kinds = _target(base, arrays), {"regression": "mse", "multi_label_classification": "bce"}
    known = kinds.get(str(getattr(base.config, "problem_type", None)))
    guess = "mse" if base.config.num_labels == 1 else "bce" if target.ndim > 1 else "cross-entropy"
    chosen = loss or known or guess
    if chosen == "cross-entropy":
        return Posed(arrays.inputs, target.long(), nn.CrossEntropyLoss())
    shaped = (target[:, None] if target.ndim == 1 else target).float()
    if shaped.shape[1:] != (base.config.num_labels,) or bool(target.eq(IGNORED).any()):
        raise InputError(
            f"{type(base).__name__} gives {base.config.num_labels} numbers a sample, and the target has shape "
            f"{tuple(target.shape)}, or has filled-up places: give {base.config.num_labels} numbers for each sample"
        )
    return Posed(arrays.inputs, shaped, LOSSES[chosen](), labels=target.float())


_TASKS: dict[str, Callable[[Any, Arrays, Tokenizer | None, str | None], Posed]] = {
    "CAUSAL_LM": _next_token,
    _MASKED: _masked_token,
    "SEQ_TO_SEQ_CAUSAL_LM": _translation,
    "SEQUENCE_CLASSIFICATION": _class,
    "TOKEN_CLASSIFICATION": _token_class,
    "IMAGE_CLASSIFICATION": _class,
}
_WITHOUT_PLACES = ("SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION")
