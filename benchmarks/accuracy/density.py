"""``python -m benchmarks.accuracy.density``: spectral densities against exact spectra, as Markdown tables."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyclopts import App

from benchmarks.support.tables import Table

if TYPE_CHECKING:
    import numpy as np

    from landscape.spectrum.distribution import SpectralDensity

K, PROBES, STEPS = 10, 10, 100
SEEDS = range(10)

app = App(name="python -m benchmarks.accuracy.density", version_flags=[])


@app.default
def main(checkpoint: str = "data/looped.pt") -> int:
    """Measure the density of a trained model's Hessian and of random matrices: five minutes of processor time.

    Args:
        checkpoint: Path of a checkpoint of at most a few thousand parameters, since its whole Hessian is made.
    """
    # NumPy's and SciPy's libraries read these variables when they are imported, which is below.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    from landscape.errors import InputError

    try:
        matrix = hessian_matrix(checkpoint)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for table in (*model_tables(checkpoint, matrix), law_table()):
        print(table.markdown())
    return 0


def hessian_matrix(checkpoint: str) -> np.ndarray:
    """The Hessian (n, n) of a checkpoint's problem in the problem's own precision, made symmetric."""
    import torch

    import landscape
    from landscape.spectrum.rounding import Columns

    blocks = Columns(landscape.load_problem(checkpoint).hessian())
    matrix = torch.cat([block for _, block in blocks], dim=1)
    return ((matrix + matrix.T) / 2).cpu().numpy()


def model_tables(name: str, matrix: np.ndarray) -> Sequence[Table]:
    """Tables of distances to the exact spectrum, of smoothed curves, and of shares of eigenvalues below some points."""
    import numpy as np

    from landscape.spectrum.density import spectral_density

    eigenvalues = np.linalg.eigvalsh(matrix.astype(np.float64))
    bulk = eigenvalues[np.argsort(-np.abs(eigenvalues))[K:]]
    single = [spectral_density(matrix, PROBES, STEPS, K, seed) for seed in SEEDS]
    double = [spectral_density(matrix.astype(np.float64), PROBES, STEPS, K, seed) for seed in SEEDS]
    long = [spectral_density(matrix, PROBES, 2 * STEPS, K, seed) for seed in SEEDS]
    plain = [spectral_density(matrix, PROBES, STEPS, 0, seed) for seed in SEEDS]
    deflated = f"{K} outliers deflated"
    bulks = {
        f"{deflated}, {STEPS // 4} steps": [one.truncated(STEPS // 4) for one in single],
        f"{deflated}, {STEPS // 2} steps": [one.truncated(STEPS // 2) for one in single],
        f"{deflated}, {STEPS} steps": single,
        f"{deflated}, {STEPS} steps, float64": double,
        f"{deflated}, {2 * STEPS} steps": long,
        f"plain, {STEPS} steps, its {K} outermost nodes left out": [without_outermost(one) for one in plain],
    }
    wholes = {f"{deflated}, {STEPS} steps": single, f"plain, {STEPS} steps": plain}
    about = f"{name}, n = {len(matrix)}, {PROBES} probes, mean over {len(SEEDS)} seeds (and largest)"
    return (
        distance_table(
            f"The bulk of {about}", bulk, {key: [one.bulk for one in found] for key, found in bulks.items()}
        ),
        distance_table(f"The whole spectrum of {about}", eigenvalues, wholes),
        smoothing_table(single[0].bulk, bulk),
        share_table(single, eigenvalues),
    )


def without_outermost(found: SpectralDensity) -> SpectralDensity:
    """A density without deflation, from which the K nodes of largest magnitude of each probe are removed."""
    from dataclasses import replace

    import numpy as np

    nodes, weights = found.nodes.copy(), found.weights.copy()
    outermost = np.argsort(-np.abs(nodes), axis=1)[:, :K]
    np.put_along_axis(nodes, outermost, np.nan, axis=1)
    np.put_along_axis(weights, outermost, 0.0, axis=1)
    return replace(found, nodes=nodes, weights=weights / weights.sum(1, keepdims=True))


def predicted_distance(eigenvalues: np.ndarray) -> float:
    """The expected Wasserstein-1 distance that random probes alone cause, from the exact spectrum.

    A random probe has a share of its squared length in the space of r of n eigenvectors. The variance of this share is
    2 r (n - r) / (n^2 (n + 2)).
    """
    import numpy as np

    x, n = np.sort(eigenvalues), len(eigenvalues)
    share = np.arange(1, n) / n
    return float(math.sqrt(2 / math.pi) * np.sqrt(2 * share * (1 - share) / ((n + 2) * PROBES)) @ np.diff(x))


def distance_table(title: str, exact: np.ndarray, rows: dict[str, list[SpectralDensity]]) -> Table:
    """The table of Wasserstein-1 distances to an exact spectrum, beside their predictions."""
    import numpy as np

    predicted, scale = predicted_distance(exact), float(np.abs(exact).mean())
    header = (
        "",
        "distance",
        "of the probes' error in theory",
        "the density's own prediction",
        "of mean abs. eigenvalue",
    )
    lines = [("a point mass at zero", f"{scale:.3g}", f"{scale / predicted:.1f}", "", "100 %")]
    for name, found in rows.items():
        distances = np.array([one.distance(exact) for one in found])
        own = np.mean([one.expected_distance for one in found])
        ratios, percents = distances / predicted, 100 * distances / scale
        lines.append(
            (
                name,
                f"{distances.mean():.3g} ({distances.max():.3g})",
                f"{ratios.mean():.2f} ({ratios.max():.2f})",
                f"{own:.3g}",
                f"{percents.mean():.1f} % ({percents.max():.1f} %)",
            )
        )
    return Table(f"{title}; the probes' error in theory is {predicted:.3g}", header, lines)


def smoothing_table(found: SpectralDensity, exact: np.ndarray) -> Table:
    """The table of errors of a smoothed curve, at the chosen width and at narrower and wider ones.

    At a narrower width the quadrature's error shows. At a wider one only the probes' error is left.
    """
    import numpy as np

    shorter = found.truncated(found.steps - 1)
    header = ("width", "L1 error", "of which the probes' predict", "change by the last step")
    lines = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        width = factor * found.width
        grid = np.arange(exact.min() - 6 * width, exact.max() + 6 * width, width / 8)
        curve, error = found.smoothed(grid, width)
        true = np.exp(-0.5 * ((grid[:, None] - exact) / width) ** 2).mean(1) / (width * math.sqrt(2 * math.pi))
        spacing = width / 8
        figures = (
            np.abs(curve - true).sum() * spacing,
            math.sqrt(2 / math.pi) * error.sum() * spacing,
            np.abs(curve - shorter.smoothed(grid, width)[0]).sum() * spacing,
        )
        lines.append((f"{factor:g} of the chosen", *(f"{figure:.2g}" for figure in figures)))
    title = f"The bulk smoothed, beside the exact spectrum smoothed alike; the width chosen is {found.width:.3g}"
    return Table(title, header, lines)


def share_table(found: list[SpectralDensity], exact: np.ndarray) -> Table:
    """The table of shares of eigenvalues below some points, where the quadrature's error is larger than the probes'."""
    import numpy as np

    header = ("below", "exact", "estimate", "standard error", "bounds of the quadrature", "within two standard errors")
    lines = []
    for point in (-0.1, -0.01, 0.0, 0.01, 0.1, 1.0):
        grid = np.array([point])
        share = float((exact <= point).mean())
        estimates = np.array([one.cdf(grid) for one in found])[:, :, 0]
        low, high = found[0].cdf_bounds(grid)
        near = int((np.abs(estimates[:, 0] - share) <= 2 * estimates[:, 1]).sum())
        lines.append(
            (
                f"{point:g}",
                f"{share:.3f}",
                f"{estimates[0, 0]:.3f}",
                f"{estimates[0, 1]:.3f}",
                f"{low[0]:.3f} to {high[0]:.3f}",
                f"{near} of {len(found)} seeds",
            )
        )
    title = "The share of all eigenvalues at or below a point, estimates and bounds of the first seed"
    return Table(title, header, lines)


def law_table() -> Table:
    """The table of distances of random matrices' densities to the limit laws of these matrices."""
    import numpy as np

    from landscape.spectrum.density import spectral_density

    size = 2000
    generator = np.random.default_rng(0)
    square, wide = generator.standard_normal((size, size)), generator.standard_normal((size, 2 * size))
    angle = (np.arange(1_000_000) + 0.5) / 1_000_000 * math.pi
    semicircle = 2 * np.cos(angle), np.sin(angle) ** 2
    low, high = (1 - math.sqrt(0.5)) ** 2, (1 + math.sqrt(0.5)) ** 2
    at = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
    laws = {
        "semicircle": ((square + square.T) / math.sqrt(2 * size), semicircle),
        "Marchenko-Pastur, ratio 1/2": (wide @ wide.T / (2 * size), (at, np.sin(angle) ** 2 / at)),
    }
    header = ("law", "distance", "the probes' error in theory", "half of the width, the steps' share")
    lines = []
    for name, (matrix, (points, density)) in laws.items():
        order = np.argsort(points)
        upto = np.cumsum(density[order]) / density.sum()
        quantiles = np.interp((np.arange(size) + 0.5) / size, upto, points[order])
        found = spectral_density(matrix, PROBES, STEPS, 0)
        figures = (found.distance(quantiles), predicted_distance(quantiles), found.width / 2)
        lines.append((name, *(f"{figure:.3g}" for figure in figures)))
    return Table(f"Random matrices of {size} dimensions, {PROBES} probes of {STEPS} steps", header, lines)


if __name__ == "__main__":
    sys.exit(app())
