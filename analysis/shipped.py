"""The figure in the README: the largest Hessian eigenvalues of the two shipped checkpoints, with their errors.

python -m analysis.shipped
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes

import landscape

NAMES = {"single": "Single-Attn", "looped": "Looped-Attn"}
FIGURE = Path("docs/figures/shipped-eigenvalues.png")


def main() -> None:
    """Measure both checkpoints, write the figure, and print the errors."""
    figure, axes = plt.subplots(figsize=(6.0, 3.2), layout="constrained")
    with TemporaryDirectory() as folder:
        for position, (name, label) in enumerate(NAMES.items()):
            result = landscape.probe(
                [f"data/{name}.pt"], [landscape.Loss(), landscape.TopEigenpairs(k=30)], Path(folder) / f"{name}.h5"
            )
            draw(axes, result.rows[0].data["eigenpairs"], label, f"C{position}")
    axes.set(xlabel="index $i$", ylabel=r"eigenvalue $\lambda_i$ of the Hessian", yscale="log")
    axes.set_yticks([0.6, 1, 2, 3, 4, 6], labels=["0.6", "1", "2", "3", "4", "6"], minor=False)
    axes.minorticks_off()
    axes.legend(title="error bars: residual + rounding")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=200, metadata={"Source": "python -m analysis.shipped"})


def draw(axes: Axes, row: xr.Dataset, label: str, colour: str) -> None:
    """Draw eigenvalues in order of index with error bars, and print how many converged and their worst error.

    Negative eigenvalues are drawn as triangles. All markers are hollow if any eigenvalue did not converge.
    """
    errors = row.residuals + row.rounding
    for sign, marker in ((1, "o"), (-1, "v")):
        chosen = (sign * row.eigenvalues.values > 0).nonzero()[0]
        if not len(chosen):
            continue
        part = row.isel(index=chosen)
        axes.errorbar(
            part.index.values + 1,
            sign * part.eigenvalues.values,
            yerr=errors.values[chosen],
            fmt=marker,
            color=colour,
            markersize=4,
            label=label if sign > 0 else f"{label}, negative",
            fillstyle="full" if bool(row.converged.all()) else "none",
        )
    worst = float((errors / abs(row.eigenvalues)).max())
    converged = int(row.converged.sum())
    print(f"{label}: {converged} of 30 converged in {int(row.products)} products, worst relative error {worst:.1e}")


if __name__ == "__main__":
    main()
