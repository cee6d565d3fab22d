"""SHIFT against single and looped training, on the toy and on each algorithmic task: claim 8, and R6.

The first questions compare accuracy and cost. Is staged training as accurate as pure looped training? At which share of
its cost? Is it more accurate than looped training of equal cost? The other questions are about the switch. When do the
criteria switch, and how does this depend on their thresholds? What does the switch cost, and what softens it?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from analysis.studies.shape import shape_units, shapes_of
from analysis.support.intervals import Interval, difference_of, mean_of, share_of
from analysis.support.runs import training_units
from analysis.support.study import Report, Results, Scale, Stage, Study, markdown_table
from analysis.support.units import Unit
from data.algorithmic import ALGORITHMS
from landscape.dynamics.plateau import ShiftCriterion
from landscape.figures import COLOURS
from models.settings import AFTER_SWITCH, SwitchSettings, TaskName, TrainingSettings

TASKS: tuple[TaskName, ...] = (
    "markov", "parity", "copy", "addition", "binary-sum", "multiplication", "unique-set",
)  # fmt: skip

PARITY = 0.02
"""Accuracies are equal if the paired interval of their difference lies within plus or minus this margin."""

LEARNT = 0.9
"""A task is learnt if the mean accuracy of pure looped training reaches this value."""

ARMS = """`shift` switches abruptly by loss and gradient norm, with thresholds from their noise and a patience of 10
epochs; `-loops` adds a pass at a time over 10 epochs, `-gain` lets the new passes go the farther the later it is,
`-rate` warms the learning rate up anew, `-fresh` drops Adam's moments. `loss`, `gradient` and `curvature` (the
Hessian's largest eigenvalue) are criteria of one quantity; `epoch-N` switches after N epochs; `untied` has three layers
of its own."""

EPOCHS: dict[TaskName, int] = {"unique-set": 200, "copy": 600, "binary-sum": 600}
"""Number of epochs of algorithmic tasks that don't take 400 epochs of 20 steps.

In the last quarter of the epochs the learning rate falls to nearly 0.
"""

SHORTER = 0.65
"""Fraction of the epochs in the shorter looped training, which shows the accuracy of fewer operations."""

NEVER = 1_000_000
"""Patience of the run ``watched``, so large that the run never switches."""

_SWITCHES = {
    "shift": SwitchSettings("shift"),
    "shift-loops": SwitchSettings("shift", soften="loops"),
    "shift-gain": SwitchSettings("shift", soften="gain"),
}
_TOY_SWITCHES = {
    **_SWITCHES,
    "shift-rate": SwitchSettings("shift", soften="rate"),
    "shift-fresh": SwitchSettings("shift", keep_moments=False),
    "loss": SwitchSettings("loss"),
    "gradient": SwitchSettings("gradient"),
    "curvature": SwitchSettings("curvature"),
    **{f"epoch-{epoch}": SwitchSettings("epoch", latest=epoch) for epoch in (10, 25, 50, 100)},
}


@dataclass(frozen=True)
class Contest:
    """A task, the arms that are trained on it, and the metrics that are compared.

    Attributes:
        task: name of the task.
        single: settings of single training.
        looped: settings of pure looped training.
        others: further arms without a switch.
        switches: switches of the staged arms, by name.
        accuracy: name of the compared accuracy among the checkpoints' metrics.
        kept: name of the accuracy on the part that was learnt before the switch, which shows the switch's cost.
        kept_loss: name of the loss on this part.
        learnt: mean accuracy that pure looped training must reach for the task to count as learnt.
        seeds: number of seeds.
    """

    task: TaskName
    single: TrainingSettings
    looped: TrainingSettings
    others: Mapping[str, TrainingSettings]
    switches: Mapping[str, SwitchSettings]
    accuracy: str
    kept: str
    kept_loss: str
    learnt: float
    seeds: int

    @property
    def unstaged(self) -> dict[str, TrainingSettings]:
        """The arms without a switch, by name."""
        return {"single": self.single, "looped": self.looped, **self.others}

    @property
    def shorter(self) -> dict[str, TrainingSettings]:
        """Pure looped training of fewer epochs, by name; empty if the learning rate doesn't fall at the end.

        Where the rate falls at the end, a checkpoint halfway through a run still has the full rate. So a checkpoint of
        the full run doesn't show what shorter training reaches.
        """
        if not self.looped.cooldown:
            return {}
        epochs = int(SHORTER * self.looped.epochs)
        return {"looped-short": replace(self.looped, epochs=epochs, cooldown=int(SHORTER * self.looped.cooldown))}

    @property
    def staged(self) -> dict[str, TrainingSettings]:
        """The arms with a switch, by name. The arm ``watched`` never switches; it records the criterion's numbers."""
        every = {**self.switches, "watched": SwitchSettings("shift", patience=NEVER)}
        return {name: replace(self.looped, switch=switch) for name, switch in every.items()}

    @property
    def reported(self) -> list[str]:
        """The arms that are compared where the task is learnt."""
        return [*self.unstaged, *self.shorter, *self.switches]

    @property
    def has_shapes(self) -> bool:
        """Whether this study measures the valleys; the toy's valleys are measured by other studies."""
        return self.task != "markov"

    def is_learnt(self, found: Results) -> bool:
        """Whether the mean accuracy of pure looped training reaches ``learnt``."""
        reached = [found[f"train-looped-{seed}"]["metrics"][self.accuracy][-1] for seed in range(self.seeds)]
        return float(np.mean(reached)) >= self.learnt


def contest_of(task: TaskName, scale: Scale) -> Contest:
    """The contest on a task."""
    if task == "markov":
        looped = TrainingSettings("looped", epochs=scale.pick(200, 4), steps_per_epoch=scale.pick(20, 2))
        single, others, switches = replace(looped, model="single"), {}, _TOY_SWITCHES
        metrics = ("evaluation_accuracy_complex", "evaluation_accuracy_simple", "evaluation_loss_simple")
    else:
        epochs, steps = scale.pick(EPOCHS.get(task, 400), 4), scale.pick(20, 2)
        looped = TrainingSettings(
            "gpt", task=task, epochs=epochs, steps_per_epoch=steps, learning_rate=1e-3, warmup=scale.pick(200, 2),
            cooldown=epochs * steps // 4, width=scale.pick(64, 2), heads=scale.pick(4, 1), positions="none",
        )  # fmt: skip
        single, switches = replace(looped, model="gpt-single"), _SWITCHES
        others = {"untied": replace(looped, model="gpt-untied")}
        metrics = ("evaluation_accuracy", "evaluation_accuracy", "evaluation_loss")
    if scale.quick:
        switches, others = (
            {"shift-gain": SwitchSettings("shift", latest=2, soften="gain", soften_epochs=1, subset=16)},
            {},
        )
    toy = task == "markov"  # which has a ceiling of its own below 0.9
    learnt = 0.0 if toy or scale.quick else LEARNT
    return Contest(task, single, looped, others, switches, *metrics, learnt, scale.pick(5 if toy else 3, 2))


def report_on(contest: Contest, found: Results) -> Report:
    """Tables of accuracies and costs and, if the task is learnt, of the switches and the thresholds."""
    learnt = contest.is_learnt(found)
    data = _dataset(contest, found, contest.reported if learnt else list(contest.unstaged))
    text = f"""Accuracy is `{contest.accuracy}` at the last checkpoint. Operations are those of the matrix products,
what the criterion measures included; time is processor time on one thread. Equal: the paired interval of the
difference lies within {100 * PARITY:.0f} points; different: it lies beyond them; not lower: it lies above
-{100 * PARITY:.0f} points; else it can't be told. {_EQUAL[bool(contest.looped.cooldown)]}

{_reached(data)}
{_longer(data)}{_staged(contest, data, found) if learnt else NOT_LEARNT}"""
    figures = {"accuracy": _figure(contest, data)}
    if contest.has_shapes:
        data = data.merge(shapes_of(found, contest.unstaged, contest.seeds))
    return Report(text, data, figures)


_EQUAL = {
    False: "At equal operations: at those of the arm, along the run of pure looped training.",
    True: f"""At equal operations: between the ends of pure looped training and of the same with {SHORTER:.0%} of
the epochs (`looped-short`), as the rate falls at the end of either.""",
}

NOT_LEARNT = f"""The mean of pure looped training over seeds stays below {LEARNT:.0%}: the task isn't learnt within this
budget, and staged training isn't tried.
"""


def _staged(contest: Contest, data: xr.Dataset, found: Results) -> str:
    """The text on the switches and on the thresholds, with their tables."""
    return f"""{ARMS}

At the switch, with medians over seeds and the lowest and highest: its epoch, the accuracy (`{contest.kept}`)
before and of the same weights after it, the lowest within {AFTER_SWITCH} epochs of it, and the epochs until
`{contest.kept_loss}` is back to what it was.

{_switches(contest, data)}
R6: the epoch at which the criterion would switch, of a run that stays single, by its thresholds and patience: the
median over seeds and the lowest and highest; "never" where it doesn't within {contest.looped.epochs} epochs. "noise"
takes a threshold from the run itself.

{_thresholds(contest, found)}"""


def _dataset(contest: Contest, found: Results, arms: list[str]) -> xr.Dataset:
    """All numbers by arm and seed."""
    runs = [[found[f"train-{arm}-{seed}"] for seed in range(contest.seeds)] for arm in arms]
    at, over = ("arm", "seed"), ("arm", "seed", "step")
    steps = sorted({step for row in runs for run in row for step in run["steps"]})

    def every(of: Callable[[Mapping[str, Any]], Any]) -> list[list[Any]]:
        return [[of(run) for run in row] for row in runs]

    def curves(metric: str) -> list[list[Any]]:
        """A metric of every run at all steps; NaN where a run has no checkpoint."""
        return every(lambda run: xr.DataArray(_column(run, metric), {"step": run["steps"]}).reindex(step=steps).values)

    flops = np.array(every(lambda run: float(np.sum(run["flops"]))))
    ways = [arm for arm in ("looped-short", "looped") if arm in arms]
    looped = list(zip(*(runs[arms.index(arm)] for arm in ways), strict=True))

    def at_equal_flops(metrics: Sequence[str]) -> list[list[float]]:
        """The mean of some metrics that pure looped training reaches with the operations of each arm and seed."""
        return [
            [_at_flops(whole, contest, spent, metrics) for whole, spent in zip(looped, row, strict=True)]
            for row in flops
        ]

    variables = {
        "accuracy": (at, every(lambda run: run["metrics"][contest.accuracy][-1])),
        "flops": (at, flops),
        "seconds": (at, every(lambda run: float(np.sum(run["seconds"])))),
        "looped_at_equal_flops": (at, at_equal_flops([contest.accuracy])),
        "curve_accuracy": (over, curves(contest.accuracy)),
        "curve_kept": (over, curves(contest.kept)),
    }  # fmt: skip
    lengths = ALGORITHMS[contest.task].longer if contest.task in ALGORITHMS else ()
    if lengths:
        names = [f"evaluation_accuracy_{length}" for length in lengths]
        variables["longer"] = ((*at, "length"), every(lambda run: [run["metrics"][name][-1] for name in names]))
        variables["looped_longer_at_equal_flops"] = (at, at_equal_flops(names))
    for name in ("switched", "before", "after", "lowest", "recovered"):
        variables[name] = (at, [[_switch(run, contest)[name] for run in row] for row in runs])
    coordinates = {"arm": arms, "seed": list(range(contest.seeds)), "step": steps, "length": list(lengths)}
    told = {"task": contest.task, "steps_per_epoch": contest.looped.steps_per_epoch}
    return xr.Dataset(variables, coordinates, told)


def _column(run: Mapping[str, Any], metric: str) -> np.ndarray:
    return np.array(run["metrics"][metric], dtype=float)


def _at_flops(runs: Sequence[Mapping[str, Any]], contest: Contest, flops: float, metrics: Sequence[str]) -> float:
    """The accuracy that pure looped training reaches with ``flops`` operations, by linear interpolation.

    If the learning rate falls at the end, the interpolation is between the ends of the shorter and of the whole run.
    Otherwise it is between checkpoints of the one run. The result is NaN for more operations than the whole run takes,
    and for fewer than the shorter run takes.

    Args:
        runs: runs of one seed, the shorter one first.
        contest: contest of these runs.
        flops: number of floating-point operations.
        metrics: names of the accuracies whose mean is taken.
    """
    reached = [np.mean([_column(run, metric) for metric in metrics], axis=0) for run in runs]
    if contest.looped.cooldown:
        ends = [float(np.sum(run["flops"])) for run in runs]
        last = [each[-1] for each in reached]
        return float(np.interp(flops, ends, last, np.nan, np.nan)) if len(runs) > 1 else float("nan")
    (run,) = runs
    spent = [0.0, *np.cumsum(run["flops"])]
    steps = np.interp(flops, spent, contest.looped.steps_per_epoch * np.arange(len(spent)), right=np.nan)
    return float(np.interp(steps, run["steps"], reached[0]))


def _switch(run: Mapping[str, Any], contest: Contest) -> dict[str, float]:
    """Epoch and effects of a run's switch; all NaN without a switch.

    The number of epochs until recovery is infinite if the loss doesn't recover.
    """
    nothing = dict.fromkeys(("switched", "before", "after", "lowest", "recovered"), float("nan"))
    epochs, per_epoch = len(run["flops"]), contest.looped.steps_per_epoch
    if run["switched"] is None or run["switched"] >= epochs or set(run["loops"]) == {1}:
        return nothing
    since = np.array(run["steps"]) / per_epoch - run["switched"]  # epochs
    (place,) = np.flatnonzero(since == 0)
    kept, losses = _column(run, contest.kept), _column(run, contest.kept_loss)
    after = _column(run, f"switched_{contest.kept}")[place]
    back = np.flatnonzero((since > 0) & (losses <= losses[place]))
    return {
        "switched": run["switched"],
        "before": kept[place],
        "after": after,
        "lowest": min(after, kept[(since > 0) & (since <= AFTER_SWITCH)].min()),
        "recovered": since[back[0]] if len(back) else float("inf"),
    }


def _reached(data: xr.Dataset) -> str:
    looped = data.sel(arm="looped")
    rows = []
    for arm in data.arm.values:
        own = data.sel(arm=arm)
        row = [str(arm), share_of(own.accuracy.values).text(3)]
        if arm == "looped":
            rows.append([*row, "", "", "1", "1", ""])
            continue
        difference = difference_of(own.accuracy.values, looped.accuracy.values)
        rows.append([
            *row, difference.text(3, "+"), _verdict(difference), mean_of((own.flops / looped.flops).values).text(3),
            mean_of((own.seconds / looped.seconds).values).text(3),
            _minus(own.accuracy, own.looped_at_equal_flops),
        ])  # fmt: skip
    header = ["", "accuracy", "minus looped", "verdict", "operations by looped", "time by looped",
              "minus looped at equal operations"]  # fmt: skip
    return markdown_table(header, rows)


def _longer(data: xr.Dataset) -> str:
    """The table of accuracies on questions longer than the trained ones; empty if the task has none."""
    if "longer" not in data:
        return ""
    rows = []
    for arm in data.arm.values:
        own, mean = data.sel(arm=arm).longer, data.sel(arm=arm).longer.mean("length")
        rows.append([
            str(arm), *(share_of(own.sel(length=length)).text(3) for length in data.length.values),
            difference_of(mean, data.longer.sel(arm="looped").mean("length")).text(3, "+"),
            _minus(mean, data.sel(arm=arm).looped_longer_at_equal_flops),
        ])  # fmt: skip
    lengths = (f"length {length}" for length in data.length.values)
    table = markdown_table(["", *lengths, "mean, minus looped", "minus looped at equal operations"], rows)
    return f"Accuracy on longer questions than any trained on, at the last checkpoint:\n\n{table}\n"


def _minus(own: xr.DataArray, looped: xr.DataArray) -> str:
    """The difference from pure looped training with equal operations, as text; ``not known`` if a seed's is unknown."""
    return difference_of(own, looped).text(3, "+") if np.isfinite(looped).all() else "not known"


def _verdict(difference: Interval) -> str:
    if difference.low >= -PARITY and difference.high <= PARITY:
        return "equal"
    if difference.low > PARITY or difference.high < -PARITY:
        return "different"
    return "not lower" if difference.low >= -PARITY else "can't be told"


def _switches(contest: Contest, data: xr.Dataset) -> str:
    rows = []
    for arm in contest.switches:
        own = data.sel(arm=arm)
        happened = np.isfinite(own.switched.values)
        cells = [_spread(own[name].values[happened], digits) for name, digits in
                 (("switched", 0), ("before", 3), ("after", 3), ("lowest", 3), ("recovered", 0))]  # fmt: skip
        rows.append([arm, f"{happened.sum()} of {len(happened)}", *cells])
    return markdown_table(["", "switched", "epoch", "before", "after", "lowest", "epochs to recover"], rows)


def _spread(values: np.ndarray, digits: int = 0) -> str:
    """Median and extremes as text, with ``never`` for infinity.

    There is no interval by Student's t, because epochs of switches aren't normally distributed.
    """
    if not len(values) or np.isinf(values).all():
        return "never"
    middle, least, most = ("never" if np.isinf(each) else f"{each:.{digits}f}"
                           for each in (np.median(values), values.min(), values.max()))  # fmt: skip
    return f"{middle} ({least} to {most})"


def _thresholds(contest: Contest, found: Results) -> str:
    runs = [found[f"train-watched-{seed}"] for seed in range(contest.seeds)]
    losses = [None, *(np.array((0.003, 0.01, 0.03, 0.1)))]
    norms = [None, *(np.array((0.003, 0.01, 0.03, 0.1)))]
    rows = []
    for loss, norm in product(losses, norms):
        cells = []
        for patience in (3, 10, 30):
            epochs = [_fires(run, loss, norm, patience) for run in runs]
            cells.append(_spread(np.array([np.inf if epoch is None else epoch for epoch in epochs])))
        rows.append([*("noise" if each is None else f"{each:g}" for each in (loss, norm)), *cells])
    return markdown_table(["delta_1, loss", "delta_2, gradient norm", "W = 3", "W = 10", "W = 30"], rows)


def _fires(run: Mapping[str, Any], loss: float | None, norm: float | None, patience: int) -> int | None:
    """The epoch at which a criterion with these settings would switch; None if never."""
    criterion = ShiftCriterion(loss, norm, patience)
    pairs = zip(run["loss"], run["gradient_norms"], strict=True)
    return next((epoch for epoch, told in enumerate(pairs, 1) if criterion.update(*told)), None)


def _figure(contest: Contest, data: xr.Dataset) -> Figure:
    """A figure of the accuracy over training, with a line for each seed.

    If there are switches, a second panel shows the accuracy ``kept`` around each switch.
    """
    staged = [arm for arm in list(contest.switches)[:3] if arm in data.arm.values]
    arms = ["single", "looped", *(staged or contest.others)]
    figure = Figure(figsize=(6.9 if staged else 3.35, 2.6), layout="constrained")
    left, *right = figure.subplots(1, 2 if staged else 1, squeeze=False)[0]
    for arm, colour in zip(arms, COLOURS, strict=False):
        for seed in data.seed.values:
            own = data.sel(arm=arm, seed=seed)
            curve = own.curve_accuracy.dropna("step")
            style: dict[str, Any] = {"color": colour, "alpha": 0.6, "linewidth": 0.6}
            left.plot(curve.step, curve, label=arm if seed == 0 else None, **style)
            if right and np.isfinite(own.switched):
                right[0].plot(*_about_the_switch(own, data.steps_per_epoch), **style)
    left.set(xlabel="training step", ylabel=contest.accuracy)
    for axes in right:
        axes.set(xlabel="epochs from the switch", ylabel=contest.kept)
    left.legend()
    return figure


def _about_the_switch(run: xr.Dataset, steps_per_epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Epochs from the switch, and the accuracy ``kept`` of a run at these epochs.

    Epoch 0 has two values: with the passes before the switch, and then with the passes after it.
    """
    kept = run.curve_kept.dropna("step")
    since = kept.step.values / steps_per_epoch - float(run.switched)
    near = (since >= -5) & (since <= AFTER_SWITCH)
    since, known = since[near], kept.values[near]
    place = int(np.searchsorted(since, 0)) + 1
    return np.insert(since, place, 0), np.insert(known, place, run.after)


def study_of(task: TaskName) -> Study:
    """The study that compares the arms on a task."""

    def stages(scale: Scale) -> list[Stage]:
        contest = contest_of(task, scale)

        def rest(found: Results) -> list[Unit]:
            later = contest.staged | contest.shorter if contest.is_learnt(found) else {}
            staged = training_units(scale.runs, later, contest.seeds)
            return staged + (shape_units(scale, contest.unstaged, contest.seeds) if contest.has_shapes else [])

        return [training_units(scale.runs, contest.unstaged, contest.seeds), rest]

    def report(scale: Scale, found: Results) -> Report:
        return report_on(contest_of(task, scale), found)

    toy = task == "markov"
    name = "shift" if toy else f"shift-{task}"
    return Study(
        name,
        f"{'Toy' if toy else task.capitalize()}: is SHIFT as accurate as looped training, for less?",
        stages,
        report,
    )


STUDIES = tuple(study_of(task) for task in TASKS)
