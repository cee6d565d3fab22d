"""``python -m benchmarks.accuracy.valleys``: how often `classify_profile` gives the right label, and a wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from cyclopts import App
from scipy.stats import beta

from benchmarks.accuracy.profiles import (
    FLATTENING,
    NOTHING,
    OPPOSITE,
    SAMPLES,
    SHAPES,
    T,
    independent,
    labels,
    smooth,
)
from benchmarks.support.tables import Table, share_of
from landscape.valley import classify_profile
from landscape.valley.profile import Label

RATIOS = (8, 12, 20, 40, 100)
_TOLD: tuple[Label, ...] = ("V", "U", "no valley")
NOISES = {"independent at every point": independent, "smooth along the line": smooth}


def told(seeds: int) -> list[str]:
    """For each kind of noise a Markdown table: the share of right labels, and in the last row of opposite labels."""
    blocks = []
    for title, noise in NOISES.items():
        found = {name: {snr: labels(name, snr, seeds, noise) for snr in RATIOS} for name in SHAPES}
        rows = [
            (name, wanted, *(f"{found[name][snr][wanted] / seeds:.0%}" for snr in RATIOS))
            for name, (_, wanted) in SHAPES.items()
        ]
        rows.append(("the opposite label, of all U and V", "", *(_opposite(found, snr, seeds) for snr in RATIOS)))
        head = ("profile", "right", *(f"ratio {snr}" for snr in RATIOS))
        blocks.append(Table(f"How often the right label is given; noise {title}, {seeds} seeds", head, rows).markdown())
    return blocks


def _opposite(found: Mapping[str, Mapping[int, Counter[Label]]], snr: int, seeds: int) -> str:
    """The number of labels V of U profiles and U of V profiles, with the upper 95 % bound of their rate.

    The bound is that of Clopper and Pearson (1934).
    """
    shaped = [(name, label) for name, (_, label) in SHAPES.items() if label in OPPOSITE]
    wrong = sum(found[name][snr][OPPOSITE[label]] for name, label in shaped)
    total = seeds * len(shaped)
    return f"{wrong} of {total:,} (at most {beta.ppf(0.95, wrong + 1, total - wrong):.2%})"


def alarms(seeds: int) -> list[str]:
    """For each kind of noise the rate of the label V on walls that flatten, and of each label on pure noise."""
    blocks = []
    for title, noise in NOISES.items():
        rows = [
            (name, *(share_of(labels(name, snr, seeds, noise)["V"], seeds) for snr in RATIOS)) for name in FLATTENING
        ]
        head = ("profile", *(f"ratio {snr}" for snr in RATIOS))
        blocks.append(Table(f"V said of walls that flatten; noise {title}, {seeds} seeds", head, rows).markdown())
        total = 10 * seeds
        found = labels(NOTHING, 1, total, noise)
        said = ", ".join(f"{label} {share_of(found[label], total)}" for label in _TOLD)
        blocks.append(f"Of nothing but noise, {title}, {total:,} seeds: {said}.\n")
    return blocks


def power(seeds: int) -> str:
    """The rates of the label V on abs(t) and of U on t^2, with their 95 % intervals."""
    wanted: tuple[tuple[str, Label], ...] = (("abs(t)", "V"), ("t^2", "U"))
    rows = [
        (f"{name}, noise {title}", *(share_of(labels(name, snr, seeds, noise)[label], seeds) for snr in RATIOS[:3]))
        for name, label in wanted
        for title, noise in NOISES.items()
    ]
    head = ("profile", *(f"ratio {snr}" for snr in RATIOS[:3]))
    return Table(f"V said of abs(t), U of t^2, {seeds} seeds", head, rows).markdown()


def scattered() -> str:
    """The verdict on the mean of V-shaped samples whose minima scatter, by half-width of the profile."""
    rows = []
    for reach in (20, 10, 5, 2, 1, 0.5):
        minima = np.random.default_rng(0).standard_normal(SAMPLES)
        verdict = classify_profile(reach * T, np.abs(reach * T - minima[:, None]))
        low, high = verdict.interval
        numbers = f"{verdict.height:.2g}", f"{verdict.exponent:.2f}", f"{low:.2f} to {high:.2f}"
        rows.append((f"{reach:g}", *numbers, verdict.label))
    head = ("half-width, in scatters", "height, in scatters times slope", "exponent", "95 % interval", "label")
    return Table("The mean of |t - t_i|, with minima t_i that are normal about one centre", head, rows).markdown()


app = App(name="python -m benchmarks.accuracy.valleys", version_flags=[])


@app.default
def main(*, seeds: int = 100) -> int:
    """Print, as Markdown, how often profiles get the right label: half an hour of processor time.

    Args:
        seeds: Number of seeds of the noise.
    """
    print("\n".join([*told(seeds), scattered()]))
    return 0


@app.command(name="alarms")
def print_alarms(*, seeds: int = 20) -> int:
    """Print how often walls that flatten get the label V, and pure noise each label: four minutes.

    Args:
        seeds: Number of seeds of the noise; for pure noise ten times as many.
    """
    print("\n".join(alarms(seeds)))
    return 0


@app.command(name="power")
def print_power(*, seeds: int = 200) -> int:
    """Print how often abs(t) and t^2 get their labels at low signal-to-noise ratios, with intervals: six minutes.

    Args:
        seeds: Number of seeds of the noise.
    """
    print(power(seeds))
    return 0


if __name__ == "__main__":
    app()
