"""The command ``python -m benchmarks.valleys``: how often the shape of a profile is told rightly, and wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from cyclopts import App
from scipy.stats import beta

from benchmarks.profiles import OPPOSITE, SAMPLES, SHAPES, T, independent, labels, smooth
from benchmarks.tables import Table
from landscape.valley import classify_profile
from landscape.valley.profile import Label

RATIOS = (8, 12, 20, 40, 100)
NOISES = {"independent at every point": independent, "smooth along the line": smooth}


def told(seeds: int) -> list[str]:
    """For each kind of noise a table of the share of right labels, and the rate of opposite ones below it."""
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
    """How often V was said of a U or U of a V, and the upper 95 % bound of that rate (Clopper and Pearson 1934)."""
    shaped = [(name, label) for name, (_, label) in SHAPES.items() if label in OPPOSITE]
    wrong = sum(found[name][snr][OPPOSITE[label]] for name, label in shaped)
    total = seeds * len(shaped)
    return f"{wrong} of {total:,} (at most {beta.ppf(0.95, wrong + 1, total - wrong):.2%})"


def scattered() -> str:
    """What is read off the mean of V-shaped samples whose minima scatter, by how far one looks."""
    rows = []
    for reach in (20, 10, 5, 2, 1, 0.5):
        minima = np.random.default_rng(0).standard_normal(SAMPLES)
        verdict = classify_profile(reach * T, np.abs(reach * T - minima[:, None]))
        low, high = verdict.interval
        numbers = f"{verdict.height:.2g}", f"{verdict.exponent:.2f}", f"{low:.2f} to {high:.2f}"
        rows.append((f"{reach:g}", *numbers, verdict.label))
    head = ("half-width, in scatters", "height, in scatters times slope", "exponent", "95 % interval", "label")
    return Table("The mean of |t - t_i|, with minima t_i that are normal about one centre", head, rows).markdown()


app = App(name="python -m benchmarks.valleys", version_flags=[])


@app.default
def main(*, seeds: int = 100) -> int:
    """Print, as Markdown, how often the shape of a profile is told: half an hour of processor time.

    Args:
        seeds: Of the noise.
    """
    print("\n".join([*told(seeds), scattered()]))
    return 0


if __name__ == "__main__":
    app()
