"""The objective by its samples: per-sample sums, and the standard error from the spread between samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.problem.forms import EvaluatedTerms
from landscape.reporting.display import HasSummary
from landscape.reporting.messages import counted, one_line


@dataclass(frozen=True)
class LossEstimate(HasSummary):
    """The objective over a data set, seen as a sample of the population it was drawn from.

    Attributes:
        loss: sum w_i l_i / sum w_i over all terms, in the units of the loss.
        standard_error: standard error of ``loss``, from the spread between samples. The terms of one sample (its
            tokens) count as one cluster. NaN for a single sample.
        samples: number of samples of nonzero weight.
        terms: number of terms (samples or tokens) of nonzero weight.
    """

    loss: float
    standard_error: float
    samples: int
    terms: int

    @property
    def summary(self) -> list[str]:
        """See `HasSummary`."""
        error = f"± {self.standard_error:.2g} (standard error over {counted(self.samples, 'sample')})"
        return [f"loss {self.loss:.5g} {'(one sample: no error known)' if self.samples == 1 else error}"]


@dataclass(frozen=True)
class SampleSums:
    """Per-sample sums of the objective: sums over the terms of each of n samples, in the order of the data.

    Attributes:
        losses: sums of w l, (n,) float64.
        weights: sums of w, (n,) float64; 0 for a fully masked sample.
        correct: sums of w over the terms that are right, (n,) float64; None where the loss has no classes.
        terms: number of terms of nonzero weight.
        total_weight: weight W of the whole data.
    """

    losses: Tensor
    weights: Tensor
    correct: Tensor | None
    terms: int
    total_weight: float

    @classmethod
    def of(cls, evaluated_terms: Iterable[EvaluatedTerms], total_weight: float) -> Self:
        """Sum the losses, weights and correctness of every batch, given with the sample's dimension first."""
        pieces, terms = [], 0
        for losses, weights, correct in evaluated_terms:
            float64_weights = weights.detach().to(torch.float64)
            of_right = [] if correct is None else [float64_weights * correct.detach()]
            sums = [float64_weights * losses.detach().to(torch.float64), float64_weights, *of_right]
            pieces.append([each.reshape(len(float64_weights), -1).sum(1) for each in sums])
            terms += int((float64_weights != 0).sum())
        numerators, denominators, *right = (torch.cat(each) for each in zip(*pieces, strict=True))
        return cls(numerators, denominators, right[0] if right else None, terms, total_weight)

    def among(self, places: Tensor, samples: int, total: Callable[[Tensor], Tensor]) -> Self:
        """The sums of all samples, put together from the parts of all processes.

        Args:
            places: positions of these samples among all samples, (n,).
            samples: number of all samples.
            total: function that sums a tensor over all processes.
        """
        own = [self.losses, self.weights, *([] if self.correct is None else [self.correct])]
        whole = self.losses.new_zeros(len(own), samples + 1)
        whole[:, places.to(whole.device)] = torch.stack(own)
        whole[0, -1] = self.terms
        losses, weights, *correct = total(whole)[:, :-1]
        return type(self)(losses, weights, correct[0] if correct else None, int(whole[0, -1]), self.total_weight)

    def raised(self, constant: Tensor) -> Self:
        """These sums with a constant added to the loss of every term; differences between terms don't change."""
        return replace(self, losses=self.losses + float(constant) * self.weights)

    @property
    def mean(self) -> float:
        """The objective, sum w l / W."""
        return float(self.losses.sum()) / self.total_weight

    @property
    def accuracy(self) -> float:
        """Weighted share of the terms that are right; NaN where the loss has no classes."""
        return math.nan if self.correct is None else float(self.correct.sum()) / self.total_weight

    def estimate(self) -> LossEstimate:
        """The objective with its standard error, by the linearisation of a ratio estimator."""
        n, mean = int((self.weights != 0).sum()), self.mean
        deviations = self.losses - mean * self.weights
        spread = float(deviations.square().sum()) * n / (n - 1) if n > 1 else math.nan
        return LossEstimate(mean, math.sqrt(spread) / self.total_weight, n, self.terms)


def about_samples(about: Mapping[str, Sequence[Any] | np.ndarray] | None, samples: int) -> dict[str, np.ndarray]:
    """Check facts about samples, and convert them to arrays (samples,) of text or float64, by name.

    Raises:
        InputError: a name isn't an identifier, or the values aren't one text or one finite number per sample.
    """
    checked = {}
    for name, values in (about or {}).items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise InputError(f"about has the name {one_line(repr(name), 60)}; use letters, digits and _")
        array = np.asarray(values)
        if array.dtype.kind not in "UT":
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise InputError(f"about[{name!r}] holds neither texts alone nor numbers alone") from error
        if array.shape != (samples,):
            hint = "; a loader with drop_last leaves out the last samples" if array.size > samples else ""
            raise InputError(
                f"about[{name!r}] has the shape {array.shape}, and the data have {counted(samples, 'sample')}: one "
                f"value for each, in the order of the batches{hint}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"about[{name!r}] has values that are NaN or infinite")
        checked[name] = array
    return checked
