"""Eigenspectra, entropy and valleys of the toy over training, seed by seed: claims 4 and 5, and R1, R2.

The paper claims that Single-Attn's spectrum stays almost static, and that Looped-Attn's spectrum passes through
collapse, diversification and stabilisation. It also claims that Single-Attn ends in a U-shaped valley and Looped-Attn
in a V-shaped one. Its reviewers asked which eps and delta separate U from V (R1). They also asked whether the looped
spectrum dominates eigenvalue by eigenvalue (R2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import landscape
from analysis.support.intervals import difference_of, mean_of
from analysis.support.runs import measuring_units, training_units
from analysis.support.study import Report, Scale, Study, markdown_table
from analysis.support.toy import NAMES, PAIR, pair
from analysis.support.units import Unit
from landscape.errors import InputError
from landscape.figures import COLOURS
from landscape.spectrum.limits import MAX_DIM
from landscape.valley import kappa_map, noise_floor
from models.settings import checkpoints_of, step_of

RECORD = "spectra.landscape.h5"
"""Name of the record in each run's folder."""

STEPS = (0, 20, 60, 120, 200, 400, 800, 1200, 2000, 4000)
CURVES = ("entropy", "negative_mass", "information", "information_null", "joint_information", "joint_information_null",
          "overlap", "stability_ratio")  # fmt: skip
VALLEY = ("label", "exponent", "exponent_interval", "height_share", "sampling_floor", "positive", "participation",
          "quantile_ratio", "sentence")  # fmt: skip
BANDS: tuple[tuple[int, int | None], ...] = ((0, 10), (10, 30), (30, None))
"""Ranks that are compared together."""

THRESHOLDS: dict[str, Callable[[np.ndarray, float], float]] = {
    "eps = 0.001 lambda_max": lambda values, floor: 0.001 * values.max(),
    "eps = 0.01 lambda_max": lambda values, floor: 0.01 * values.max(),
    "eps = 0.1 lambda_max": lambda values, floor: 0.1 * values.max(),
    "eps = 0.5 lambda_max": lambda values, floor: 0.5 * values.max(),
    "eps = 0.1": lambda values, floor: 0.1,
    "eps = 1": lambda values, floor: 1.0,
    "eps = -lambda_min": lambda values, floor: abs(values.min()),
    "eps = sampling floor": lambda values, floor: floor,
}
"""Thresholds eps of Definition 1 in the table of verdicts, as functions of the eigenvalues and the sampling floor."""

TOLERANCES = (0.1, 1.0, 10.0, 100.0)
"""Tolerances delta in the table of verdicts: the verdict is U where kappa is at most 1 + delta."""


def stages(scale: Scale) -> list[list[Unit]]:
    """The training, then all measurements of each run."""
    arms, seeds = pair(scale), _seeds(scale)
    steps, directions = scale.pick(STEPS, (0, 8)), scale.pick(10, 1)
    measured = measuring_units(scale.runs, arms, seeds, "spectra", measure, steps=steps, directions=directions)
    return [training_units(scale.runs, arms, seeds), measured]


def _seeds(scale: Scale) -> int:
    return scale.pick(5, 2)


def measure(folder: str, steps: tuple[int, ...], directions: int) -> dict[str, Any]:
    """Measure full spectra at some checkpoints, the run's dynamics, and the valley at the last of these checkpoints."""
    chosen = [path for path in checkpoints_of(Path(folder)) if step_of(path) in steps]
    asked = [
        landscape.Loss(),
        landscape.Spectrum(MAX_DIM),  # with all eigenvectors, for `eigenbasis`
        landscape.Stability(),
        landscape.Valley(directions),
        landscape.Dynamics(),
    ]
    result = landscape.probe(chosen, asked, Path(folder) / RECORD, at=(-1,))
    dynamics = result.rows[-1].data["dynamics"]
    valley = result.rows[len(chosen) - 1].data["valley"]
    spectra = [row.data["spectrum"] for row in result.rows[: len(chosen)]]
    return {
        "steps": dynamics.run_step.values.tolist(),
        "eigenvalues": [each.eigenvalues.values.tolist() for each in spectra],
        "floors": [noise_floor(each.eigenvalues.values, "float32", float(each.rounding)) for each in spectra],
        "phases": str(dynamics.phases.values),
        **{name: dynamics[name].values.tolist() for name in CURVES},
        **{name: valley[name].values.tolist() for name in VALLEY},
    }


def eigenbasis(folder: str, step: int) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues (n,), descending, and eigenvectors (n, n), as columns, from `measure`'s record of a checkpoint.

    Raises:
        InputError: there is no record of `measure`, or none of this step.
    """
    record = landscape.open_record(Path(folder) / RECORD)
    steps = record["loss"].step.values.tolist()
    if step not in steps:
        raise InputError(f"{folder} has no spectrum at step {step}; there are {', '.join(map(str, steps))}")
    place = steps.index(step)
    row = record["spectrum"].isel(checkpoint=place)
    order = np.argsort(row.leading_index.values)
    return row.eigenvalues.values, row.leading_vectors.values[order].T.astype(np.float64)


def report(scale: Scale, found: Mapping[str, Any]) -> Report:
    """Tables of curves, phases, dominance and verdicts, and figures of the spectra and the entropy."""
    seeds = range(_seeds(scale))
    data = _dataset(found, seeds)
    text = f"""256 sequences, the same for all; full spectra at steps {", ".join(map(str, data.step.values))}.
Entropy in nats; the stability ratio is Adam's largest preconditioned eigenvalue by its threshold.

{_over_training(data)}
The course of the entropy, by run (change points with "no phases" among the candidates, held to three rates of false
alarm; docs/dynamics.md):

{_courses(found, seeds)}
**R2.** At equal ranks among the eigenvalues above their numerical floor in all runs: the share of ranks at which the
looped eigenvalue is larger in every seed, the share at which it is smaller in every seed, and the mean of
log2(looped / single) over ranks; last the least and the largest ratio of any single rank (the geometric mean over
seeds). How many of the ranks are told from sampling noise is in the last table: the rest are those of these 256
sequences.

{_dominance(data)}
**R1.** Definition 1 at the last checkpoint: the verdict of each seed by eps and delta (U where kappa is at most
1 + delta, else V), and kappa eps / lambda_max, which is 1 where kappa only restates the cut. Verdicts in parentheses
are U by arithmetic, as kappa is below lambda_max / eps.

{_map(data)}
Anisotropy of the eigenvalues above the sampling floor (half the norm of the difference of the Hessians of two halves of
the sequences; the quantile ratio can't exceed lambda_max by this floor), and the walls along the top valley directions:
U where the exponent's interval is at least 1.6, V where it is at most 1.4. Exponents are of directions that have walls.

{_shapes(data)}"""
    return Report(text, data, {"spectra": _spectra_figure(data), "entropy": _entropy_figure(data)})


def _dataset(found: Mapping[str, Any], seeds: range) -> xr.Dataset:
    """All numbers by arm and seed."""
    first = found[f"spectra-{PAIR[0]}-0"]

    def every(name: str) -> list[list[Any]]:
        return [[found[f"spectra-{arm}-{seed}"][name] for seed in seeds] for arm in PAIR]

    at = ("arm", "seed")
    variables: dict[str, Any] = {name: ((*at, "step"), every(name)) for name in (*CURVES, "floors")}
    variables["eigenvalues"] = ((*at, "step", "index"), every("eigenvalues"))
    variables["exponent"] = ((*at, "direction", "height"), every("exponent"))
    variables["exponent_interval"] = ((*at, "direction", "height", "bound"), every("exponent_interval"))
    variables["label"] = ((*at, "direction", "height"), every("label"))
    for name in ("sampling_floor", "positive", "participation", "quantile_ratio", "phases"):
        variables[name] = (at, every(name))
    return xr.Dataset(
        variables, {"arm": list(PAIR), "seed": list(seeds), "step": first["steps"], "height": first["height_share"]}
    )


def _over_training(data: xr.Dataset) -> str:
    top = data.eigenvalues.max("index")
    rows = []
    for arm in PAIR:
        own = data.sel(arm=arm)
        entropy = own.entropy
        cells = [entropy.isel(step=0), entropy.min("step"), entropy.isel(step=-1)]
        rows.append([
            NAMES[arm], *(mean_of(each.values).text(2) for each in cells),
            *(mean_of(top.sel(arm=arm).isel(step=place).values).text(2) for place in (0, -1)),
            mean_of(own.negative_mass.isel(step=-1).values).text(3),
            *(mean_of(own[name].median("step").values).text(2) for name in CURVES[2:6]),
            mean_of(own.stability_ratio.max("step").values).text(3),
        ])  # fmt: skip
    rise = [data.entropy.sel(arm=arm).isel(step=-1) - data.entropy.sel(arm=arm).min("step") for arm in PAIR]
    rows.append(["looped - single, rise of the entropy from its lowest", "", "",
                 difference_of(rise[1].values, rise[0].values).text(2, "+"), *[""] * 8])  # fmt: skip
    return markdown_table(
        ["", "entropy, first", "lowest", "last", "lambda_max, first", "last", "negative mass, last",
         "rank-paired MI, median", "its null", "joint MI, median", "its null", "stability ratio, largest"],
        rows,
    )  # fmt: skip


def _courses(found: Mapping[str, Any], seeds: range) -> str:
    rows = [[NAMES[arm], *(found[f"spectra-{arm}-{seed}"]["phases"] for seed in seeds)] for arm in PAIR]
    return markdown_table(["", *(f"seed {seed}" for seed in seeds)], rows)


def _dominance(data: xr.Dataset) -> str:
    rows = []
    for step in data.step.values:
        here = data.sel(step=step)
        single, looped = (np.sort(here.eigenvalues.sel(arm=arm).values, axis=-1)[:, ::-1] for arm in PAIR)
        floor = float(here.floors.max())
        known = min(int((each > floor).sum(axis=1).min()) for each in (single, looped))
        cells = []
        for first, last in BANDS:
            band = slice(first, known if last is None else min(last, known))
            ratios = np.log2(looped[:, band] / single[:, band])  # (seed, rank)
            if not ratios.size:
                cells += ["none", ""]
                continue
            above, below = ((ratios > 0).all(axis=0).mean(), (ratios < 0).all(axis=0).mean())
            cells += [f"{above:.0%}, {below:.0%}", mean_of(ratios.mean(axis=1)).text(2, "+")]
        by_rank = np.exp2(np.log2(looped[:, :known] / single[:, :known]).mean(axis=0))
        cells.append(f"{by_rank.min():.1f} to {by_rank.max():.1f}" if known else "none")
        rows.append([str(step), str(known), *cells])
    titles = [f"ranks {first + 1} to {'the floor' if last is None else last}" for first, last in BANDS]
    columns = [cell for title in titles for cell in (title, "mean log2 ratio")]
    return markdown_table(["step", "ranks", *columns, "ratios of single ranks"], rows)


def _map(data: xr.Dataset) -> str:
    rows = []
    for arm in PAIR:
        for title, threshold in THRESHOLDS.items():
            counts: list[Counter[str]] = [Counter() for _ in TOLERANCES]
            forced, restates = np.ones(len(TOLERANCES), dtype=bool), []
            for seed in data.seed.values:
                own = data.sel(arm=arm, seed=seed)
                values = own.eigenvalues.isel(step=-1).values
                eps = threshold(values, float(own.sampling_floor))
                found = kappa_map(values, np.array([eps]))
                restates.append(found.restates[0])
                forced &= values.max() / eps <= 1 + np.array(TOLERANCES)
                for counted, label in zip(counts, found.labels(np.array(TOLERANCES))[0], strict=True):
                    counted[str(label)] += 1
            told = [", ".join(f"{count} {label}" for label, count in sorted(each.items())) for each in counts]
            cells = [f"({cell})" if certain else cell for cell, certain in zip(told, forced, strict=True)]
            rows.append([f"{NAMES[arm]}, {title}", *cells, mean_of(restates).text(2)])
    return markdown_table(["", *(f"delta = {delta:g}" for delta in TOLERANCES), "kappa eps / lambda_max"], rows)


def _shapes(data: xr.Dataset) -> str:
    top = data.eigenvalues.isel(step=-1).max("index")
    rows = []
    for arm in PAIR:
        own = data.sel(arm=arm)
        exponents = own.exponent.where(own.label != "no valley").isel(height=-1)
        rows.append([NAMES[arm], mean_of((own.sampling_floor / top.sel(arm=arm)).values).text(2),
                     mean_of(own.positive.values).text(0), mean_of(own.participation.values).text(1),
                     mean_of(own.quantile_ratio.values).text(1), mean_of(exponents.median("direction").values).text(2),
                     *(_labels(own.label.isel(height=place)) for place in range(data.sizes["height"]))])  # fmt: skip
    heights = [f"verdicts at {height:g} of the depth" for height in data.height.values]
    return markdown_table(
        ["", "sampling floor / lambda_max", "eigenvalues above", "participation ratio", "90 % by 10 % quantile",
         "median exponent, largest height", *heights],
        rows,
    )  # fmt: skip


def _labels(labels: xr.DataArray) -> str:
    return ", ".join(f"{count} {label}" for label, count in Counter(labels.values.ravel().tolist()).most_common())


def _spectra_figure(data: xr.Dataset) -> Figure:
    """A figure of eigenvalues by rank at the first, a middle and the last checkpoint, with a line for each seed.

    Only eigenvalues above the numerical floor are drawn.
    """
    figure = Figure(figsize=(6.9, 2.4), layout="constrained")
    places = (0, data.sizes["step"] // 2, -1)
    for axes, place in zip(figure.subplots(1, 3, sharey=True), places, strict=True):
        for arm, colour in zip(PAIR, COLOURS, strict=False):
            for seed in data.seed.values:
                values = np.sort(data.eigenvalues.sel(arm=arm, seed=seed).isel(step=place).values)[::-1]
                above = values[values > float(data.floors.sel(arm=arm, seed=seed).isel(step=place))]
                axes.plot(np.arange(len(above)) + 1, above, color=colour, alpha=0.6, linewidth=0.6,
                          label=NAMES[arm] if seed == 0 else None)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="rank", title=f"step {int(data.step[place])}")
    figure.axes[0].set_ylabel(r"$\lambda$ [loss / parameter$^2$]")
    figure.axes[0].legend()
    return figure


def _entropy_figure(data: xr.Dataset) -> Figure:
    """A figure of the entropy and the largest eigenvalue over training, with a line for each seed."""
    figure = Figure(figsize=(6.9, 2.4), layout="constrained")
    curves = ((data.entropy, "entropy $E(H)$ [nats]"), (data.eigenvalues.max("index"), r"$\lambda_{max}$"))
    for axes, (curve, title) in zip(figure.subplots(1, 2), curves, strict=True):
        for arm, colour in zip(PAIR, COLOURS, strict=False):
            for seed in data.seed.values:
                axes.plot(data.step, curve.sel(arm=arm, seed=seed), "o-", color=colour, alpha=0.6, linewidth=0.6,
                          label=NAMES[arm] if seed == 0 else None)  # fmt: skip
        axes.set(xscale="symlog", xlabel="training step", ylabel=title)
        axes.set_xlim(left=0)
    figure.axes[0].legend()
    return figure


STUDY = Study(
    "spectra",
    "Toy: do the spectra pass through phases, and is one valley U and the other V?",
    stages,
    report,
)
