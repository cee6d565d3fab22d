"""Measure how the samples of a data set are learnt over a run."""

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

LEAST = 0.05  # smallest fall of a learnt sample's loss, as a share of the natural scale
_LOSS = "loss"


@dataclass(frozen=True)
class Learning(Measurement):
    """Learning curves of groups of samples, and the step at which each sample is learnt and forgotten.

    Computed from the rows of `Samples`; see `landscape.dynamics.learning`. If every sample has a single term with
    classes, a sample counts as known where it is classified rightly. Otherwise a sample counts as known where its loss
    has made half of its fall, if that fall is above `LEAST` of the natural scale.

    Attributes:
        group_by: name of an annotation of the samples (`Problem.about`), or ``loss`` for thirds by the loss at the last
            checkpoint. Default: None, the first annotation with texts, else the first with numbers, else ``loss``.
        seed: seed of the bootstrap. Default: 0.
    """

    group_by: str | None = None
    seed: int = 0

    name: ClassVar[str] = "learning"
    flag: ClassVar[Flag] = Samples.flag
    makes_products: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ("learning",)

    @classmethod
    def asked(cls, options: Mapping[str, Any]) -> list[Self]:
        """The measurement, where the command asks for `Samples` at more than one checkpoint."""
        return super().asked(options) if len(options["checkpoints"]) > 1 else []

    over_run: ClassVar[bool] = True

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse to group by an annotation that the data set doesn't have."""
        if self.group_by not in (None, _LOSS, *problem.about):
            raise InputError(
                f"samples can't be grouped by {self.group_by!r}; they can be grouped by "
                f"{listed([*problem.about, _LOSS], 8)}"
            )
        return self

    def of_run(self, run: Run, measured: Sequence[str]) -> Self:
        """See `Run.refuse_disorder`."""
        run.refuse_disorder(2, "learning is")
        return self

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
        times = milestones(steps, known)
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
            | _milestones(times)
        )

    def _grouping(self, rows: list[xr.Dataset]) -> tuple[Grouping, str]:
        """The groups of the samples of positive weight, and a title for what the groups are by."""
        from landscape.dynamics import Grouping

        weighted = rows[0].weight.values > 0
        about = {str(name).removeprefix(ABOUT): rows[0][name].values for name in rows[0] if str(name).startswith(ABOUT)}
        texts = [name for name, values in about.items() if values.dtype.kind not in "fi"]
        name = self.group_by or next(iter([*texts, *about]), _LOSS)
        values = (about[name] if name in about else rows[-1].loss.values)[weighted]
        grouping, title = _grouped(values, name, name in texts)
        of = np.full(len(weighted), -1)
        of[weighted] = grouping.of
        return Grouping(grouping.names, of), title

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """No lines: a sample that isn't learnt is a result."""
        return []

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A line for each group, and a line for the forgotten samples."""
        lines: list[RenderableType] = [
            f"learning over {counted(row.sizes['run'], 'checkpoint')}, groups by {row.grouped_by.values}; a sample "
            f"counts as known by: {row.criterion.values}"
        ]
        for i in range(row.sizes["group"]):
            each = row.isel(group=i)
            first, end = each.group_loss.values[[0, -1]]
            low, high = each.group_loss_interval.values[-1]
            lines.append(
                f"{each.group_name.values} ({counted(int(each.group_size), 'sample')}): loss {first:.3g} to {end:.3g} "
                f"[{low:.3g}, {high:.3g}], {_progress(each, str(row.group_name.values[0]) if i else '')}"
                + f"; {float(each.group_known[-1]):.0%} known at the end"
            )
        forgotten = int((row.times_forgotten.values > 0).sum())
        lines.append(f"{forgotten} of {counted(int(row.group_size.sum()), 'sample')} forgotten at least once")
        return lines


def _grouped(values: np.ndarray, name: str, text: bool) -> tuple[Grouping, str]:
    """Groups by a text or by thirds of a number, and a title for what the groups are by."""
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
    """The step of half of a group's progress, and the delay after the group named `first`."""
    if not np.isfinite(group.group_half_step):
        return "no progress"
    later = (
        f", {_stepped(group, 'group_delay')} steps after {first}" if first and np.isfinite(group.group_delay) else ""
    )
    return f"half of the progress by step {_stepped(group, 'group_half_step')}{later}"


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
