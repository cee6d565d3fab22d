"""Who carries the cumulative force along the river: R4, Theorems 1 and 2 and the corollaries' order.

The paper bounds the force with which the valley's dynamics push the iterate along the river by a scaled sum of
1/|lambda_i| over the valley's eigenvalues, dominated by the flattest ones, and concludes that a valley with a spread
spectrum (V) makes more way along the river than one without (U). Its exact statements aren't public here; what
follows is our reading.

For a quadratic with valley coordinates x, river coordinates y and the Hessian [[Lambda, C], [C^T, R]], gradient
descent has x_i(k) = (1 - eta lambda_i)^k x_i(0) while y stands still, and the force on the river, -C^T x(k), sums
over K steps to

    F = -sum_i c_i x_i(0) (1 - (1 - eta lambda_i)^K) / (eta lambda_i),  |F| <= sum_i |c_i| |x_i(0)| 2 / (eta lambda_i)

for eta lambda_i < 2. On a trained run the optimiser is Adam and the Hessian changes. There we ask what can be asked:
does the sum of a valley coordinate over a window go as 1 / lambda_i, and which eigenvalues carry the force?
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

import landscape
from analysis.studies import spectra
from analysis.studies.spectra import eigenbasis
from analysis.support.intervals import mean_of
from analysis.support.runs import measuring_units, vectors_after
from analysis.support.study import Report, Scale, Study, markdown_table
from analysis.support.toy import NAMES, PAIR, pair
from analysis.support.units import Unit
from landscape.figures import COLOURS
from models.settings import checkpoints_of, step_of

START, WINDOW = 400, 100
QUICK = (8, 4)
SLICES = ((0.3, 1.0), (0.1, 0.3), (0.03, 0.1), (0.01, 0.03))
"""Of the valley, by lambda / lambda_max; the river is what lies within 0.01 of it."""

RIVER = 0.01
VALLEY_SIZE, RIVER_SIZE, DRAWS, GD_STEPS = 20, 5, 100, 200
RATES = (0.5, 1.5)
"""eta by 1 / lambda_max: below 1 the iterate slides down the walls, above 1 it hops from wall to wall."""

TOLD = ("cosine", "ratio", "slope", "descent", "still", "rate", "steepness", "pushed", "triangle", "bound", "within",
        "within_still")  # fmt: skip
"""Of a window, in one number each."""

SPECTRA = {"U": np.ones(VALLEY_SIZE), "V": np.logspace(-2, 0, VALLEY_SIZE)}


def stages(scale: Scale) -> list[list[Unit]]:
    """Synthetic quadratics; training, spectra, then a window of every run."""
    arms, seeds = pair(scale), scale.pick(5, 2)
    start, window = scale.pick((START, WINDOW), QUICK)
    windows = measuring_units(scale.runs, arms, seeds, "force", measure, start=start, window=window)
    return [[Unit("synthetic", synthetic, {})], *spectra.stages(scale), windows]


def synthetic() -> dict[str, Any]:
    """Gradient descent on quadratics with a U- and with a V-shaped valley, equal in lambda_max, start and coupling.

    Returns:
        For each kind, over 100 draws: the summed ``force`` on the river that was measured with the river moving, its
        ``closed`` form with the river standing still, the ``bound``, the ``flattest`` quarter's share of the closed
        form, the way along the ``river``, and the ``loss`` before and after.
    """
    generator = np.random.default_rng(0)
    cases = {f"{kind}, eta = {rate}": (eigenvalues, rate) for rate in RATES for kind, eigenvalues in SPECTRA.items()}
    found: dict[str, Any] = {case: {name: [] for name in QUANTITIES} for case in cases}
    for _ in range(DRAWS):
        coupling = generator.normal(size=(VALLEY_SIZE, RIVER_SIZE)) * 1e-3
        start = generator.normal(size=VALLEY_SIZE)
        for case, (eigenvalues, rate) in cases.items():
            for name, value in descend(eigenvalues, coupling, start, rate).items():
                found[case][name].append(value)
    return found


QUANTITIES = ("force", "closed", "bound", "flattest", "river", "loss_before", "loss_after")


def descend(eigenvalues: np.ndarray, coupling: np.ndarray, start: np.ndarray, rate: float) -> dict[str, float]:
    """Gradient descent from (start, 0) with no Hessian of the river's own; see `synthetic`.

    Args:
        eigenvalues: (v,) of the valley.
        coupling: (v, r), the block H_VR.
        start: (v,) in the valley.
        rate: eta.
    """
    x, y, force = start.copy(), np.zeros(coupling.shape[1]), np.zeros(coupling.shape[1])
    before = 0.5 * float(eigenvalues @ x**2)
    for _ in range(GD_STEPS):
        push = -coupling.T @ x
        force += push
        x, y = x - rate * (eigenvalues * x + coupling @ y), y + rate * push
    sums = start * (1 - (1 - rate * eigenvalues) ** GD_STEPS) / (rate * eigenvalues)
    parts = -coupling * sums[:, None]  # (valley, river)
    closed = parts.sum(axis=0)
    flat = np.argsort(eigenvalues, kind="stable")[: len(eigenvalues) // 4]
    return {
        "force": float(np.linalg.norm(force)),
        "closed": float(np.linalg.norm(closed)),
        "bound": float((np.linalg.norm(coupling, axis=1) * np.abs(start) * 2 / (rate * eigenvalues)).sum()),
        "flattest": float(parts[flat].sum(axis=0) @ closed / (closed @ closed)),
        "river": float(np.linalg.norm(y)),
        "loss_before": before,
        "loss_after": 0.5 * float(eigenvalues @ x**2) + float(x @ coupling @ y),
    }


def measure(folder: str, start: int, window: int) -> dict[str, Any]:
    """A window of a run in the eigenbasis of the Hessian at its start.

    With d_k the way from the start and H' the Hessian at the middle of the window, the valley coordinate is
    x_i(k) = v_i . d_k + g_i / lambda_i, counted from the floor of the quadratic model, and its coupling to the river
    c_i = P_R H' v_i. Theorem 1 is about -sum_i c_i sum_k x_i(k). Of that the valley's movement within the window,
    -sum_i c_i sum_k v_i . d_k, is what can be held against the gradient: what it really did to the river beyond the
    linear model of the start is -P_R sum_k (g(theta_k) - g(theta_0) - H d_k). Sums are over the window's K steps.

    Theorem 1's bound is of gradient descent at a rate eta. Here eta is the way that Adam went by the gradients on its
    way, sum_k |theta_(k+1) - theta_k| / sum_k |g(theta_k)|: the rate at which gradient descent would go as far.

    Returns:
        ``eigenvalues`` of the valley by the largest; ``turns`` |sum_k x_i(k)| / |x_i(0)|, which is K where nothing
        moves; ``shares`` of each slice in the force of Theorem 1 and ``moved`` ones in that of the movement, with
        their ``counts``; and the numbers of `TOLD`: the ``cosine`` of the movement's force with the whole one and the
        ``ratio`` of their norms; the ``slope`` of log turns by log lambda, and the ``descent`` slope of gradient
        descent at eta; the median of turns / K, ``still`` where it is 1; ``rate`` eta, and ``steepness`` eta
        lambda_max; |sum_i c_i sum_k x_i(k)|, the ``pushed`` of the theorem; the ``triangle``
        sum_i |c_i| |sum_k x_i(k)|, which it can't exceed; the ``bound`` sum_i |c_i| |x_i(0)| 2 / (eta lambda_i); and
        the shares of directions ``within`` theirs, as measured and, ``within_still``, if nothing moved.
    """
    path = next(each for each in checkpoints_of(Path(folder)) if step_of(each) == start)
    problem = landscape.load_problem(path, dtype="float64")
    way = vectors_after(path, problem, window)
    values, basis = eigenbasis(folder, start)
    gradients = np.stack([problem.at(point).gradient().numpy() for point in way[:-1]]) @ basis  # in the eigenbasis
    moved = (way[:-1] - way[0]).numpy() @ basis
    valley, river = values > RIVER * values[0], np.abs(values) <= RIVER * values[0]
    middle = problem.at(way[window // 2]).hessian()
    coupling = basis[:, river].T @ (middle @ torch.from_numpy(basis[:, valley])).numpy()  # (river, valley)
    begin = gradients[0, valley] / values[valley]  # x(0)
    movement, sums = moved[:, valley].sum(axis=0), (moved[:, valley] + begin).sum(axis=0)
    whole = -(gradients - gradients[0] - moved * values)[:, river].sum(axis=0)
    force = -coupling @ movement
    rate = float((way[1:] - way[:-1]).norm(dim=1).sum()) / float(np.linalg.norm(gradients, axis=1).sum())
    steep, relative, turns = rate * values[valley], values[valley] / values[0], np.abs(sums / begin)
    coupled = np.linalg.norm(coupling, axis=0)
    descended = np.abs((1 - (1 - steep) ** window) / steep)
    return {
        "eigenvalues": relative.tolist(),
        "turns": turns.tolist(),
        "shares": _shares(coupling * sums, relative),
        "moved": _shares(coupling * movement, relative),
        "counts": [int(_within(relative, each).sum()) for each in SLICES],
        "cosine": float(force @ whole / (np.linalg.norm(force) * np.linalg.norm(whole))),
        "ratio": float(np.linalg.norm(force) / np.linalg.norm(whole)),
        "slope": _slope(relative, turns),
        "descent": _slope(relative, descended),
        "still": float(np.median(turns) / window),
        "rate": rate,
        "steepness": float(steep.max()),
        "pushed": float(np.linalg.norm(coupling @ sums)),
        "triangle": float(coupled @ np.abs(sums)),
        "bound": float(coupled @ (2 * np.abs(begin) / steep)),
        "within": float((turns <= 2 / steep).mean()),
        "within_still": float((window <= 2 / steep).mean()),
    }


def _within(relative: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (relative > bounds[0]) & (relative <= bounds[1])


def _shares(parts: np.ndarray, relative: np.ndarray) -> list[float]:
    """Each slice's share of the sum of parts (river, valley), projected on that sum: they sum to one."""
    force = parts.sum(axis=1)
    return [float(parts[:, _within(relative, each)].sum(axis=1) @ force / (force @ force)) for each in SLICES]


def _slope(relative: np.ndarray, values: np.ndarray) -> float:
    return float(np.polyfit(np.log(relative), np.log(values), 1)[0])


def report(scale: Scale, found: Mapping[str, Any]) -> Report:
    """The synthetic quadratics, then the trained runs."""
    seeds = range(scale.pick(5, 2))
    data = _dataset(found, seeds)
    start, window = scale.pick((START, WINDOW), QUICK)
    text = f"""**Synthetic quadratics**, {VALLEY_SIZE} valley and {RIVER_SIZE} river directions, {DRAWS} draws of
start and coupling, {GD_STEPS} steps of gradient descent. U: all valley eigenvalues 1. V: from 0.01 to 1. Mean over
draws with its 95 % interval.

{_synthetic(found["synthetic"])}
{_order(found["synthetic"])}

**Trained runs**, {window} steps of Adam from step {start}, eigenbasis at the start, valley lambda > {RIVER:g}
lambda_max; the coordinate x_i is counted from the floor of the quadratic model. Where Theorem 1's 1 / lambda_i holds,
|sum_k x_i(k)| / |x_i(0)| has a slope of -1 on logarithmic scales; where the valley doesn't move it is the number of
steps, with a slope of 0; beside it the slope of gradient descent at the rate eta at which it would have gone as far as
Adam (the way by the gradients on 256 sequences).

{_slopes(data)}
Which slices of the valley, by lambda / lambda_max, carry the cumulative force on the river: the force of Theorem 1,
and that of the valley's movement within the window, beside the shares of the eigenvalues themselves. The last columns
hold the movement's force against all that the gradient did to the river beyond the linear model.

{_carried(data)}
Theorem 1's bound. The exact statement of Theorem 2, for losses that aren't quadratic, isn't public here; this is
Theorem 1's, read along a run, and it is of steps with eta lambda_max below 2. |sum_i c_i sum_k x_i(k)| is what it
bounds. It can't exceed sum_i |c_i| |sum_k x_i(k)|, whatever the dynamics: what it falls short of that has cancelled.
"Within" is the share of valley directions whose sum is at most 2 |x_i(0)| / (eta lambda_i), beside the share of a
valley that doesn't move.

{_bounds(data)}"""
    return Report(text, data, {"sums": _figure(found, seeds, window)})


def _synthetic(found: Mapping[str, Mapping[str, list[float]]]) -> str:
    rows = []
    for kind, values in found.items():
        ratio = np.array(values["force"]) / np.array(values["bound"])
        cells = [mean_of(values[name]).text(3) for name in ("force", "closed", "bound")]
        more = [mean_of(values[name]).text(3) for name in ("flattest", "river", "loss_before")]
        last = mean_of(values["loss_after"]).text(2, scale=1e6)
        rows.append([kind, *cells, mean_of(ratio).text(3), *more, last])
    header = ["", "cumulative force", "river held still", "bound", "force by bound", "share of the flattest quarter",
              "way along the river", "loss before", "loss after [1e-6]"]  # fmt: skip
    return markdown_table(header, rows)


def _order(found: Mapping[str, Mapping[str, list[float]]]) -> str:
    rows = []
    for rate in RATES:
        u, v = (
            {name: np.array(values) for name, values in found[f"{kind}, eta = {rate}"].items()} for kind in ("U", "V")
        )
        falls = [each["loss_before"] - each["loss_after"] for each in (u, v)]
        held = [
            v["force"] > u["force"],
            v["river"] > u["river"],
            v["loss_after"] < u["loss_after"],
            falls[1] > falls[0],
        ]
        broken = sum(int((each["force"] > each["bound"]).sum()) for each in (u, v))
        rows.append([f"eta = {rate}", *(f"{each.mean():.0%}" for each in held), f"{broken} of {2 * DRAWS}"])
    header = ["V against U, share of draws", "more force", "farther along the river", "lower loss at the end",
              "loss falls by more", "bound exceeded"]  # fmt: skip
    return markdown_table(header, rows)


def _dataset(found: Mapping[str, Any], seeds: range) -> xr.Dataset:
    def every(name: str) -> list[list[Any]]:
        return [[found[f"force-{arm}-{seed}"][name] for seed in seeds] for arm in PAIR]

    at = ("arm", "seed")
    variables: dict[str, Any] = {name: (at, every(name)) for name in TOLD}
    for name in ("shares", "moved", "counts"):
        variables[name] = ((*at, "slice"), every(name))
    for name in QUANTITIES:
        variables[f"synthetic_{name}"] = (("kind", "draw"), [each[name] for each in found["synthetic"].values()])
    return xr.Dataset(variables, {"arm": list(PAIR), "seed": list(seeds), "kind": list(found["synthetic"])})


def _columns(data: xr.Dataset, columns: Mapping[str, xr.DataArray]) -> str:
    """A row for each arm, with means over seeds."""
    rows = [[NAMES[arm], *(mean_of(each.sel(arm=arm).values).text(3) for each in columns.values())] for arm in PAIR]
    return markdown_table(["", *columns], rows)


def _slopes(data: xr.Dataset) -> str:
    return _columns(
        data,
        {"slope": data.slope, "of gradient descent": data.descent, "median, by the number of steps": data.still,
         "eta": data.rate, "eta lambda_max": data.steepness},
    )  # fmt: skip


def _carried(data: xr.Dataset) -> str:
    rows = []
    for arm in PAIR:
        own = data.sel(arm=arm)
        share = own.counts / own.counts.sum("slice")
        last = [mean_of(own[name].values).text(2) for name in ("cosine", "ratio")]
        for title, values, more in (
            ("Theorem 1's force", own.shares, ["", ""]), ("the movement's", own.moved, last),
            ("eigenvalues", share, ["", ""]),
        ):  # fmt: skip
            cells = [mean_of(values.isel(slice=place).values).text(2) for place in range(len(SLICES))]
            rows.append([f"{NAMES[arm]}, {title}", *cells, *more])
    header = ["", *(f"{low:g} to {high:g}" for low, high in SLICES), "cosine", "norm by whole"]
    return markdown_table(header, rows)


def _bounds(data: xr.Dataset) -> str:
    return _columns(
        data,
        {"measured": data.pushed, "without cancelling": data.triangle, "bound": data.bound,
         "measured by without cancelling": data.pushed / data.triangle, "measured by bound": data.pushed / data.bound,
         "within": data.within, "within if still": data.within_still},
    )  # fmt: skip


def _figure(found: Mapping[str, Any], seeds: range, window: int) -> Figure:
    """Sums of the valley coordinates by where they began, against the eigenvalue, with Theorem 1's slope and none."""
    figure = Figure(figsize=(3.35, 2.6), layout="constrained")
    axes = figure.subplots()
    for arm, colour in zip(PAIR, COLOURS, strict=False):
        for seed in seeds:
            own = found[f"force-{arm}-{seed}"]
            axes.plot(own["eigenvalues"], own["turns"], ".", color=colour, alpha=0.4,
                      label=NAMES[arm] if seed == 0 else None)  # fmt: skip
    line = np.array([RIVER, 1.0])
    axes.plot(line, window * RIVER / line, color="black", label="slope $-1$")
    axes.plot(line, np.full(2, window), color="black", linestyle=":", label="nothing moves")
    axes.set(xscale="log", yscale="log", xlabel=r"$\lambda_i / \lambda_{max}$", ylabel=r"$|\sum_k x_i(k)| / |x_i(0)|$")
    axes.legend()
    return figure


STUDY = Study("force", "R4: which eigenvalues carry the cumulative force along the river?", stages, report)
