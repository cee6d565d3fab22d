"""Measure the loss of each sample, and of its terms, at a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.cost import Cost
from landscape.measurements.run import History
from landscape.reporting.messages import counted
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType
    from torch import Tensor

    from landscape.problem import Problem
    from landscape.problem.forms import EvaluatedTerms

ABOUT = "about_"

_TERMS_STORED = 1e8  # bytes over a run, up to which the losses of single terms are stored
_UNTOLD = -1


@dataclass(frozen=True)
class Samples(Measurement):
    """Loss and accuracy of each sample, and the data set's annotations of it (`Problem.about`).

    Attributes:
        terms: whether to store the losses of single terms (tokens) too, where samples have several terms. Default:
            None, which stores up to 100 MB over the run.
    """

    terms: bool | None = None

    name: ClassVar[str] = "samples"
    flag: ClassVar[Flag] = Flag("samples", "Loss of every sample, and when it is learnt.")
    makes_products: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ("samples",)

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Decide whether to store terms: samples have several, and by default the run's terms take at most 100 MB."""
        shapes = [losses.shape for losses, _ in problem.sample_losses()]
        several = any(len(shape) > 1 for shape in shapes)
        size = checkpoints * sum(shape.numel() for shape in shapes) * (problem.dtype.itemsize + 1)
        return replace(self, terms=several and (size <= _TERMS_STORED if self.terms is None else self.terms))

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`."""
        return Cost(losses=1)

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.problem.samples import SampleSums

        evaluated_terms = problem.evaluated_terms()
        sums = SampleSums.of(evaluated_terms, problem.total_weight)
        weights = sums.weights.cpu().numpy()
        right = np.full(len(weights), np.nan) if sums.correct is None else sums.correct.cpu().numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            losses, accuracies = sums.losses.cpu().numpy() / weights, right / weights
        variables = {
            "loss": variable("sample", losses, "mean loss of a sample's terms; NaN where it is masked", "loss"),
            "accuracy": variable("sample", accuracies, "share of a sample's terms that are right"),
            "weight": variable("sample", weights, "weight of a sample's terms in the objective"),
        }
        return RowData(variables | about_variables(problem) | (_of_terms(evaluated_terms) if self.terms else {}))

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """No lines: a loss has no goal."""
        return []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line with quantiles of the samples' losses."""
        losses = row.loss.values[row.weight.values > 0]
        low, median, high = np.quantile(losses, (0.1, 0.5, 0.9)) if len(losses) else [np.nan] * 3
        names = [name.removeprefix(ABOUT).replace("_", " ") for name in map(str, row) if name.startswith(ABOUT)]
        known = f"; the data set gives the {' and '.join(names)} of each" if names else ""
        return [
            f"losses of {counted(len(losses), 'sample')}: 10 % below {low:.4g}, half below {median:.4g}, 90 % below "
            f"{high:.4g}{known}"
        ]


def about_variables(problem: Problem) -> dict[str, xr.Variable]:
    """Variables for the data set's annotations of each sample."""
    return {
        ABOUT + name: variable(
            "sample",
            values,
            f"{name.replace('_', ' ')}, as the data set says",
            "" if values.dtype.kind in "UT" else "1",
        )
        for name, values in problem.about.items()
    }


def _of_terms(evaluated_terms: list[EvaluatedTerms]) -> dict[str, xr.Variable]:
    """Variables for single terms: losses (samples, terms) in their own precision, and whether each term is right.

    Samples with fewer terms are padded.
    """
    import torch

    width = max(losses[0].numel() for losses, _, _ in evaluated_terms)

    def joined(pieces: list[Tensor], padding: float) -> np.ndarray:
        wide = [torch.nn.functional.pad(each, (0, width - each.shape[1]), value=padding) for each in pieces]
        return torch.cat(wide).cpu().numpy()

    losses = [
        torch.where(weights > 0, losses, torch.nan).reshape(len(losses), -1) for losses, weights, _ in evaluated_terms
    ]
    right = [
        torch.full_like(weights, _UNTOLD) if correct is None else torch.where(weights > 0, correct, _UNTOLD)
        for _, weights, correct in evaluated_terms
    ]
    correctness = joined([each.reshape(len(each), -1) for each in right], _UNTOLD).round().astype(np.int8)
    return {
        "term_loss": variable(("sample", "term"), joined(losses, torch.nan), "loss of a term; NaN if masked", "loss"),
        "term_correct": variable(("sample", "term"), correctness, "1 right, 0 wrong, -1 masked or nothing tells"),
    }
