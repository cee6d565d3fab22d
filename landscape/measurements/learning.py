"""How the samples of a data set are learnt over a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from landscape.errors import InputError
from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.run import History, Run
from landscape.measurements.samples import ABOUT, Samples
from landscape.reporting.messages import counted, listed
from landscape.reporting.progress_bar import ProgressBar

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.dynamics import Grouping, Milestones
    from landscape.problem import Problem

LEAST = 0.05  # of the natural scale: a sample that gains less isn't learnt
_LOSS = "loss"


@dataclass(frozen=True)
class Learning(Measurement):
    """Learning curves of groups of samples, and the step at which each sample is learnt and forgotten.

    Made from the rows of `Samples`; see `landscape.dynamics.learning`. A sample of a single term with classes counts as
    known where it is right, any other where its loss is half way down.

    Attributes:
        group_by: a name of what the data set says of its samples, or ``loss``, which takes thirds by the loss at the
            last checkpoint; None takes the first name of texts, else the first of numbers, else ``loss``.
        seed: of the resamples.
    """

    group_by: str | None = None
    seed: int = 0

    name: ClassVar[str] = "learning"
    flag: ClassVar[Flag] = Samples.flag
    makes_products: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ("learning",)

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> list[Self]:
        """With the losses of samples, of a run."""
        return super().asked(options) if len(options["checkpoints"]) > 1 else []

    over_run: ClassVar[bool] = True

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse a name that the data set doesn't have."""
        if self.group_by not in (None, _LOSS, *problem.about):
            raise InputError(
                f"samples can't be grouped by {self.group_by!r}; there are {listed([*problem.about, _LOSS], 8)}"
            )
        return self

    def check_run(self, run: Run, measured: Sequence[str]) -> None:
        """See `Run.refuse_disorder`."""
        run.refuse_disorder(2, "learning is")

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`."""
        from landscape.dynamics import group_curves, half_steps, half_way, milestones
        from landscape.slices.extent import natural_scale

        rows, steps = history.run.rows(Samples.name), history.run.positions
        losses, accuracies = (np.array([row[each].values for row in rows]) for each in ("loss", "accuracy"))
        weights = rows[0].weight.values
        groups, grouped_by = self._grouping(rows)
        scale = natural_scale(problem)
        one_term = all(each.ndim == 1 for each, _ in problem.sample_losses())
        single = one_term and bool(np.isfinite(accuracies[:, weights > 0]).all())
        known = accuracies == 1 if single else half_way(losses, LEAST * scale)
        criterion = "right" if single else f"half of its gain, of at least {LEAST * scale:.2g}"
        found = milestones(steps, known)
        of_losses, of_accuracies, halves = (
            group_curves(losses, groups, weights),
            group_curves(accuracies, groups, weights),
            half_steps(steps, losses, groups, weights, least=LEAST * scale, seed=self.seed),
        )
        at, shares = ("run", "group"), group_curves(known, groups, weights > 0).means
        return RowData(
            {
                "run_step": variable("run", steps, "step of each checkpoint; its place where steps aren't known"),
                "grouped_by": variable((), grouped_by, "what the groups are by", ""),
                "criterion": variable((), criterion, "when a sample counts as known", ""),
                "group_name": variable("group", groups.names, "group of samples", ""),
                "group_size": variable("group", of_losses.sizes, "samples in it"),
                "group_loss": variable(at, of_losses.means, "mean loss of a group", "loss"),
                "group_loss_interval": variable((*at, "bound"), of_losses.intervals, "95 %, over samples", "loss"),
                "group_accuracy": variable(at, of_accuracies.means, "accuracy of a group"),
                "group_accuracy_interval": variable(
                    (*at, "bound"), np.clip(of_accuracies.intervals, 0, 1), "95 %, over samples"
                ),
                "group_known": variable(at, shares, "share of a group's samples that are known"),
                "group_half_step": variable("group", halves.steps, "step of half of a group's progress"),
                "group_half_step_interval": variable(
                    ("group", "bound"), halves.intervals, "95 %, samples resampled, to the checkpoints about it"
                ),
                "group_delay": variable("group", halves.delays, "steps of this after the first group's"),
                "group_delay_interval": variable(("group", "bound"), halves.delay_intervals, "95 %"),
                "group_of": variable("sample", groups.of, "index of a sample's group"),
            }
            | _milestones(found)
        )

    def _grouping(self, rows: list[xr.Dataset]) -> tuple[Grouping, str]:
        """The groups of the samples that count, and what they are by."""
        from landscape.dynamics import Grouping

        kept = rows[0].weight.values > 0
        about = {str(name).removeprefix(ABOUT): rows[0][name].values for name in rows[0] if str(name).startswith(ABOUT)}
        texts = [name for name, values in about.items() if values.dtype.kind not in "fi"]
        name = self.group_by or next(iter([*texts, *about]), _LOSS)
        values = (about[name] if name in about else rows[-1].loss.values)[kept]
        found, title = _grouped(values, name, name in texts)
        of = np.full(len(kept), -1)
        of[kept] = found.of
        return Grouping(found.names, of), title

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """What isn't learnt is a result."""
        return []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line for each group."""
        lines: list[RenderableType] = [
            f"learning over {counted(row.sizes['run'], 'checkpoint')}, groups by {row.grouped_by.values}; a sample is "
            f"known by: {row.criterion.values}"
        ]
        for i in range(row.sizes["group"]):
            each = row.isel(group=i)
            first, last = each.group_loss.values[[0, -1]]
            low, high = each.group_loss_interval.values[-1]
            lines.append(
                f"{each.group_name.values} ({counted(int(each.group_size), 'sample')}): loss {first:.3g} to {last:.3g} "
                f"[{low:.3g}, {high:.3g}], {_progress(each, str(row.group_name.values[0]) if i else '')}"
                + f"; {float(each.group_known[-1]):.0%} known at the end"
            )
        forgotten = int((row.times_forgotten.values > 0).sum())
        lines.append(f"{forgotten} of {counted(int(row.group_size.sum()), 'sample')} forgotten at least once")
        return lines


def _grouped(values: np.ndarray, name: str, text: bool) -> tuple[Grouping, str]:
    """Groups by a text or by thirds of a number, and what they are by."""
    from landscape.dynamics import Grouping

    title = name.replace("_", " ")
    if text:
        return Grouping.by_label(values), title
    try:
        groups = Grouping.by_quantile(values, title)
    except InputError:
        return Grouping.by_label(["all"] * len(values)), f"nothing: {title} hardly differs"
    return groups, "loss at the last checkpoint, which is the outcome itself" if name == _LOSS else title


def _progress(group: xr.Dataset, first: str) -> str:
    """When half of a group's progress was made, and how long after the first group's."""
    if not np.isfinite(group.group_half_step):
        return "no progress"
    later = (
        f", {_stepped(group, 'group_delay')} steps after {first}" if first and np.isfinite(group.group_delay) else ""
    )
    return f"half of it by step {_stepped(group, 'group_half_step')}{later}"


def _stepped(group: xr.Dataset, name: str) -> str:
    low, high = group[f"{name}_interval"].values
    return f"{float(group[name]):.0f} [{low:.0f}, {high:.0f}]"


def _milestones(found: Milestones) -> dict[str, xr.Variable]:
    return {
        "known": variable(("run", "sample"), found.known, "whether a sample is known"),
        "learnt": variable("sample", found.learnt, "step at which a sample is first known; NaN if never"),
        "learnt_after": variable("sample", found.learnt_after, "step of the checkpoint before; NaN if there is none"),
        "forgotten": variable("sample", found.forgotten, "step at which it is last known no more; NaN if never"),
        "times_forgotten": variable("sample", found.times_forgotten, "how often that happened"),
    }
