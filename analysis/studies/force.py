"""The eigenvalues that carry the cumulative force along the river: R4, Theorems 1 and 2, and the corollaries' order.

The valley's dynamics push the iterate along the river. The paper bounds this force by a scaled sum of 1/|lambda_i| over
the valley's eigenvalues, which the flattest directions dominate. The paper concludes that the iterate goes farther
along the river in a valley with a spread spectrum (V) than in one without (U). The exact statements aren't available to
us. What follows is our reading.

For a quadratic with valley coordinates x, river coordinates y and the Hessian [[Lambda, C], [C^T, R]], gradient
descent has x_i(k) = (1 - eta lambda_i)^k x_i(0) while y stands still, and the force on the river, -C^T x(k), sums
over K steps to

    F = -sum_i c_i x_i(0) (1 - (1 - eta lambda_i)^K) / (eta lambda_i),  |F| <= sum_i |c_i| |x_i(0)| 2 / (eta lambda_i)

for eta lambda_i < 2. In a training run the optimiser is Adam and the Hessian changes. There we ask two questions. Is
the sum of a valley coordinate over a window proportional to 1 / lambda_i? Which eigenvalues carry the force?
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
"""Slices of the valley, by lambda / lambda_max. The river has |lambda| / lambda_max of at most 0.01."""

RIVER = 0.01
VALLEY_SIZE, RIVER_SIZE, DRAWS, GD_STEPS = 20, 5, 100, 200
RATES = (0.5, 1.5)
"""Learning rates eta in units of 1 / lambda_max. Below 1 the iterate slides down the walls, above 1 it hops."""

TOLD = ("cosine", "ratio", "slope", "descent", "still", "rate", "steepness", "pushed", "triangle", "bound", "within",
        "within_still")  # fmt: skip
"""The results of a window that are single numbers; see `measure`."""

SPECTRA = {"U": np.ones(VALLEY_SIZE), "V": np.logspace(-2, 0, VALLEY_SIZE)}


def stages(scale: Scale) -> list[list[Unit]]:
    """The synthetic quadratics, the training, the spectra, then a window of every run."""
    arms, seeds = pair(scale), scale.pick(5, 2)
    start, window = scale.pick((START, WINDOW), QUICK)
    windows = measuring_units(scale.runs, arms, seeds, "force", measure, start=start, window=window)
    return [[Unit("synthetic", synthetic, {})], *spectra.stages(scale), windows]


def synthetic() -> dict[str, Any]:
    """Gradient descent on quadratics with a U-shaped and a V-shaped valley of equal lambda_max, start and coupling.

    Returns:
        For each kind of valley and each learning rate, lists of `QUANTITIES` over 100 draws:

        - ``force``: norm of the summed force on the river, measured while the river moves;
        - ``closed``: norm of the closed form of this sum for a river that stands still;
        - ``bound``: the bound of this norm;
        - ``flattest``: the flattest quarter's share of the closed form;
        - ``river``: distance along the river;
        - ``loss_before`` and ``loss_after``: loss before and after the descent.
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
    """Gradient descent from (start, 0) on a quadratic without curvature in the river; see `synthetic`.

    Args:
        eigenvalues: eigenvalues of the valley, (v,).
        coupling: the block H_VR of the Hessian, (v, r).
        start: valley coordinates of the start, (v,).
        rate: learning rate eta.
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
    """Measure a window of K steps of a run, in the eigenbasis of the Hessian H at the window's start.

    Let d_k be the displacement from the start, and H' the Hessian at the middle of the window. The valley coordinate
    x_i(k) = v_i . d_k + g_i / lambda_i is counted from the floor of the quadratic model. Its coupling to the river is
    c_i = P_R H' v_i. Theorem 1 bounds -sum_i c_i sum_k x_i(k). The valley's movement within the window makes the part
    -sum_i c_i sum_k v_i . d_k of this force. The gradients measure what this part should be: the force on the river
    beyond the linear model of the start, -P_R sum_k (g(theta_k) - g(theta_0) - H d_k). Sums are over the K steps.

    Theorem 1's bound holds for gradient descent at a rate eta. Here eta is the length of Adam's path divided by the
    summed gradient norms, sum_k |theta_(k+1) - theta_k| / sum_k |g(theta_k)|. Gradient descent at this rate would go as
    far.

    Returns:
        A dictionary with these entries:

        - ``eigenvalues``: lambda_i / lambda_max of the valley;
        - ``turns``: |sum_k x_i(k)| / |x_i(0)|, which is K where nothing moves;
        - ``shares`` and ``moved``: the share of each slice in Theorem 1's force and in the movement's force;
        - ``counts``: number of eigenvalues in each slice;
        - ``cosine`` and ``ratio``: cosine of the movement's force with the gradient's force, and ratio of their norms;
        - ``slope`` and ``descent``: slope of log turns against log lambda, as measured, and for gradient descent at
          eta;
        - ``still``: median of turns / K, which is 1 where nothing moves;
        - ``rate`` and ``steepness``: eta, and eta lambda_max;
        - ``pushed``: |sum_i c_i sum_k x_i(k)|, the norm that the theorem bounds;
        - ``triangle``: sum_i |c_i| |sum_k x_i(k)|, which ``pushed`` can't exceed;
        - ``bound``: sum_i |c_i| |x_i(0)| 2 / (eta lambda_i);
        - ``within`` and ``within_still``: share of directions whose own sum is within its bound 2 / (eta lambda_i), as
          measured, and if nothing moved.
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
    """Each slice's share of the sum of parts (river, valley) over the valley, projected on this sum.

    The shares of all valley directions sum to one.
    """
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
    """A Markdown table with a row for each arm and means over seeds."""
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
    """A figure of |sum_k x_i(k)| / |x_i(0)| against the eigenvalue, with lines of slope -1 (Theorem 1) and slope 0."""
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
