"""Compare groups of runs: read their records, and put the statistics of every scalar and step into one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import numpy as np
import xarray as xr

from landscape.dynamics.inference import LEVEL, difference_of_means, holm, mean_of_runs
from landscape.errors import InputError
from landscape.groups.comparison import GroupComparison
from landscape.groups.files import Patterns, files_of_groups, pairing, seed_of
from landscape.groups.scalars import RunRecord, Scalar, chosen_scalars
from landscape.reporting.messages import counted, listed

_PLACES = ("scalar", "step")


def compare_groups(
    groups: Mapping[str, Patterns], scalars: str | Sequence[str] | None = None, paired: bool | None = None
) -> GroupComparison:
    """Compare groups of runs: means with t intervals, and the differences between the groups.

    Runs are compared at the steps that all records have. Values that aren't finite, or whose computation did not
    converge, are left out and counted.

    Two groups are compared in pairs where every name of a file has a number (after ``seed``, else the last one), the
    numbers are distinct within each group, and both groups have the same numbers. Otherwise Welch's interval is used,
    which needs no pairs. Holm's correction is over all p-values of the result: pairs of groups, scalars and steps.

    Args:
        groups: name of each group, with the paths of its records, or patterns of a shell: ``{"looped":
            "runs/looped-*.h5", "single": "runs/single-*.h5"}``. A record is one run.
        scalars: names of scalars (``loss/loss``) or patterns (``trace/*``), or ``main`` for those of `MAIN` that all
            records have. A name is the record's group and a variable without a further dimension;
            ``eigenpairs/largest`` and ``spectrum/largest`` are the largest eigenvalue. Default: every scalar that all
            records have, without counts, settings, and errors of other numbers.
        paired: whether runs are paired. Default: None, as above.

    Returns:
        The means and differences; see `GroupComparison`.

    Raises:
        InputError: a pattern matches nothing, a record is named twice, isn't readable, or is of the same checkpoints as
            another of its group; the records share no scalar or no step; or pairs are demanded where there are none.
    """
    files = files_of_groups(groups)
    runs = {name: [RunRecord.read(path) for path in paths] for name, paths in files.items()}
    everyone = list(chain(*runs.values()))
    for name, own in runs.items():
        _refuse_repeated(name, own)
    names = chosen_scalars(everyone, [scalars] if isinstance(scalars, str) else scalars)
    steps, notes = _common_steps(everyone, names)
    kept = [name for name in names if steps[name]]
    if not kept:
        raise InputError(f"no step of {listed(names)} is in all records: compare runs with checkpoints of equal steps")
    axis = sorted(set(chain(*(steps[name] for name in kept))))
    readings = {name: [_Reading.of(run, kept, steps, axis) for run in own] for name, own in runs.items()}
    values = {name: np.stack([each.values for each in own]) for name, own in readings.items()}
    pairs, more = _pairs(runs, values, paired)
    p_adjusted = holm(np.stack([each["p_value"] for each in pairs])) if pairs else np.empty((0, len(kept), len(axis)))
    comparisons = int(np.isfinite(p_adjusted).sum())
    variables = _of_runs(runs, values) | _of_groups(values, readings) | _of_pairs(pairs, p_adjusted, comparisons)
    first = [everyone[0].scalars[name] for name in kept]
    variables["long_name"] = ("scalar", [each.long_name for each in first])
    variables["units"] = ("scalar", [each.units for each in first])
    coordinates = {
        "group": list(runs),
        "scalar": kept,
        "step": axis,
        "pair": [" - ".join(each) for each in combinations(runs, 2)],
    }
    told = [*more, *notes, *_left_out(readings), *_differing(everyone, kept)]
    return GroupComparison(xr.Dataset(variables, coordinates), comparisons, tuple(told))


def _refuse_repeated(name: str, runs: Sequence[RunRecord]) -> None:
    """Refuse two records of one training in a group, which would count as two runs."""
    for one, other in combinations(runs, 2):
        if one.checkpoints <= other.checkpoints or other.checkpoints <= one.checkpoints:
            raise InputError(
                f"{one.path} and {other.path} of the group {name} are of the same checkpoints, and one training is one "
                "run: leave one of them out"
            )


@dataclass(frozen=True)
class _Reading:
    """One run's values (scalar, step), NaN where left out; and where they were left out, and why."""

    values: np.ndarray
    not_finite: np.ndarray
    not_converged: np.ndarray

    @classmethod
    def of(cls, run: RunRecord, names: Sequence[str], steps: Mapping[str, Sequence[int]], axis: list[int]) -> _Reading:
        values = np.full((len(names), len(axis)), np.nan)
        not_finite, not_converged = np.zeros(values.shape, bool), np.zeros(values.shape, bool)
        for row, name in enumerate(names):
            scalar = run.scalars[name]
            for step in steps[name]:
                (place,) = np.flatnonzero(scalar.steps == step)
                where = row, axis.index(step)
                not_finite[where] = not np.isfinite(scalar.values[place])
                not_converged[where] = not (scalar.converged[place] or not_finite[where])
                if not (not_finite[where] or not_converged[where]):
                    values[where] = scalar.values[place]
        return cls(values, not_finite, not_converged)


def _common_steps(runs: Sequence[RunRecord], names: Sequence[str]) -> tuple[dict[str, list[int]], list[str]]:
    """The steps of each scalar that all records have, and a note for each list of steps that was left out.

    A step that a record has twice is left out. An unknown step is one like any other, if each record has one row of it.
    """
    common, left_out = {}, dict[str, list[str]]()
    for name in names:
        every = [_once(run.scalars[name]) for run in runs]
        shared, union = set.intersection(*every), set.union(*(set(run.scalars[name].steps.tolist()) for run in runs))
        common[name] = sorted(shared)
        if missing := sorted(union - shared):
            left_out.setdefault(listed(missing, 8), []).append(name)
    notes = [
        f"left out of {listed(scalars, 6)}: step{'' if len(steps.split(', ')) == 1 else 's'} {steps}, which not every "
        "record has exactly once"
        for steps, scalars in left_out.items()
    ]
    return common, notes


def _once(scalar: Scalar) -> set[int]:
    steps, count = np.unique(scalar.steps, return_counts=True)
    return set(steps[count == 1].tolist())


def _pairs(
    runs: Mapping[str, Sequence[RunRecord]], values: Mapping[str, np.ndarray], paired: bool | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The differences between each two groups, and how their runs were paired."""
    found, notes = [], []
    for one, other in combinations(runs, 2):
        partners, reason = pairing(*([run.path for run in runs[name]] for name in (one, other)))
        if paired and not partners:
            raise InputError(f"{one} and {other} can't be paired: {reason}; name pairs by equal seeds")
        in_pairs = bool(partners) if paired is None else paired
        second = values[other][partners] if in_pairs else values[other]
        difference = difference_of_means(values[one], second, in_pairs)
        if in_pairs:
            notes.append(f"{one} and {other}: paired by the seeds {listed(seed_of(run.path) for run in runs[one])}")
        else:
            notes.append(f"{one} and {other}: not paired (Welch)" + (f", because {reason}" if reason else ""))
        found.append({"paired": in_pairs, "result": difference, "p_value": difference.p_value})
    return found, notes


def _of_runs(runs: Mapping[str, Sequence[RunRecord]], values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    everyone = list(chain(*runs.values()))
    seeds = [seed_of(run.path) for run in everyone]
    return {
        "value": (("run", *_PLACES), np.concatenate(list(values.values()))),
        "run_group": ("run", [name for name, own in runs.items() for _ in own]),
        "run_fingerprint": ("run", [run.request.fingerprint for run in everyone]),
        "run_path": ("run", [str(run.path) for run in everyone]),
        "run_seed": ("run", [-1 if seed is None else seed for seed in seeds]),
    }


def _of_groups(values: Mapping[str, np.ndarray], readings: Mapping[str, Sequence[_Reading]]) -> dict[str, Any]:
    means, dims = [mean_of_runs(each) for each in values.values()], ("group", *_PLACES)
    counts = {
        name: (dims, np.stack([sum(getattr(each, name).astype(int) for each in own) for own in readings.values()]))
        for name in ("not_finite", "not_converged")
    }
    return {
        "mean": (dims, np.stack([each.mean for each in means])),
        "mean_interval": ((*dims, "bound"), np.stack([each.interval for each in means])),
        "runs": (dims, np.stack([each.runs for each in means])),
        **counts,
    }


def _of_pairs(pairs: Sequence[Mapping[str, Any]], p_adjusted: np.ndarray, comparisons: int) -> dict[str, Any]:
    """Variables of the differences; without a pair of groups, empty ones."""
    dims, results = ("pair", *_PLACES), [each["result"] for each in pairs]
    level = LEVEL / max(1, comparisons)

    def stacked(arrays: list[np.ndarray], more: tuple[int, ...] = ()) -> np.ndarray:
        return np.stack(arrays) if arrays else np.empty((*p_adjusted.shape, *more))

    return {
        "difference": (dims, stacked([each.difference for each in results])),
        "difference_interval": ((*dims, "bound"), stacked([each.interval() for each in results], (2,))),
        "simultaneous_interval": ((*dims, "bound"), stacked([each.interval(level) for each in results], (2,))),
        "p_value": (dims, stacked([each.p_value for each in results])),
        "p_adjusted": (dims, p_adjusted),
        "degrees_of_freedom": (dims, stacked([each.degrees_of_freedom for each in results])),
        "first_runs": (dims, stacked([each.first_runs for each in results])),
        "second_runs": (dims, stacked([each.second_runs for each in results])),
        "paired": ("pair", np.array([each["paired"] for each in pairs], dtype=bool)),
    }


def _left_out(readings: Mapping[str, Sequence[_Reading]]) -> list[str]:
    """A note for each group with values that were left out."""
    notes = []
    for name, own in readings.items():
        counts = [sum(int(getattr(each, why).sum()) for each in own) for why in ("not_finite", "not_converged")]
        if any(counts):
            every = sum(int(np.isfinite(each.values).sum()) for each in own) + sum(counts)
            notes.append(
                f"{name}: left out of {counted(every, 'value')}: {counts[0]} not finite, {counts[1]} not converged"
            )
    return notes


def _differing(runs: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    """Notes on data and settings in which the records differ; that their models differ is the point."""
    first, notes = runs[0].request, []
    for key, text in (("data_sha256", "data"), ("dtype", "dtype")):
        if others := [run.path.name for run in runs if run.request.common.get(key) != first.common.get(key)]:
            notes.append(f"other {text} than in {runs[0].path.name}: {listed(others)}")
    for group in dict.fromkeys(name.partition("/")[0] for name in names):
        settings = [{k: v for k, v in run.request.settings.get(group, {}).items() if k != "run"} for run in runs]
        if others := [run.path.name for run, own in zip(runs, settings, strict=True) if own != settings[0]]:
            notes.append(f"other settings of {group} than in {runs[0].path.name}: {listed(others)}")
    return notes
