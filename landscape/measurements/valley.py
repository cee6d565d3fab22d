"""Measure the shape of the valley at a checkpoint, by geometry, by the spectrum and by anisotropy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from landscape.errors import InputError, refuse_fractions
from landscape.measurements.base import Flag, Measurement, RowData, variable
from landscape.measurements.cost import EXTENT, Cost, hessian, of_solve
from landscape.measurements.run import History
from landscape.reporting.display import to_error
from landscape.reporting.messages import counted
from landscape.reporting.progress import Progress, part
from landscape.reporting.progress_bar import ProgressBar
from landscape.spectrum.limits import MAX_DIM

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

    from landscape.problem import Problem
    from landscape.slices.directions import Direction
    from landscape.slices.lines import Line
    from landscape.spectrum.eigenpairs import Eigenpairs
    from landscape.valley import Anisotropy, KappaMap, ProfileVerdict

HEIGHTS = (1e-3, 1e-2, 0.1, 0.5)
AFFORDABLE = 10  # products of a spectrum that nobody asked for, by those of the solve for the directions
_UNITS = "loss / parameter^2"
DELTAS = np.geomspace(0.1, 1e4, 51)


@dataclass(frozen=True)
class Valley(Measurement):
    """The valley's shape along each valley direction at several heights, and from the full spectrum.

    The directions are the Hessian's eigenvectors of largest eigenvalue. A height is a share of the depth. For each
    height, the profile of the loss along a direction goes on either side to where the loss has risen by that height.
    `landscape.valley.classify_profile` then fits the exponent of the two walls. The depth is the natural scale
    (`landscape.slices.extent.natural_scale`) less the loss, or a tenth of the natural scale where that is more.

    The full spectrum gives Definition 1 of Gong, Teng and Liu (arXiv 2510.10089), see `landscape.valley.spectral`, and
    the anisotropy. The spectrum is taken from the record, if the record has it for every checkpoint. It is computed for
    small models only: where it takes at most ten times the products of the solve for the directions. Otherwise the row
    is without these two tests.

    Attributes:
        k: number of valley directions. Default: 10.
        tol: goal for the eigenpairs' relative residual. Default: 1e-3.
        points: number of points of each profile. Default: 41.
        seed: seed of the solvers and of the bootstrap. Default: 0.
    """

    k: int = 10
    tol: float = 1e-3
    points: int = 41
    seed: int = 0

    name: ClassVar[str] = "valley"
    flag: ClassVar[Flag] = Flag("valley", "Shape of the valley, U or V, by three tests.")
    figures: ClassVar[tuple[str, ...]] = ("valley", "profiles")
    selective: ClassVar[bool] = True

    def resolve(self, problem: Problem, checkpoints: int) -> Self:
        """Refuse settings and data that the solver, the profiles or the split of the data into halves would refuse."""
        from landscape.spectrum.eigenpairs import check_arguments
        from landscape.valley.profile import FEWEST_SAMPLES

        check_arguments(problem.layout.dim, self.k, "LA", self.tol, self.seed, None)
        refuse_fractions(points=self.points)
        if self.points < 7:
            raise InputError(f"a profile needs at least 7 points, not {self.points}")
        if (samples := problem.evaluate().samples) < FEWEST_SAMPLES:
            raise InputError(f"a valley's shape needs at least {FEWEST_SAMPLES} samples, and there are {samples}")
        problem.halves()
        return self

    def cost(self, problem: Problem) -> Cost:
        """See `Measurement.cost`: two solves, the profiles of each direction at every height, and the full spectrum."""
        dim = problem.layout.dim
        products = of_solve(self.k) + of_solve(1) + (dim + 1) * self._affordable(dim)
        losses = self.k * len(HEIGHTS) * (self.points + EXTENT)
        return Cost(products, losses, "about", hessian, of_solve(self.k))

    def _affordable(self, dim: int) -> bool:
        """Whether the full spectrum is computed unasked; see the class."""
        return dim + 1 <= min(MAX_DIM, AFFORDABLE * of_solve(self.k))

    def measure(self, problem: Problem, bar: ProgressBar, history: History) -> RowData:
        """See `Measurement.measure`.

        Raises:
            InputError: the loss and the natural scale are zero, so the depth is zero too.
        """
        import xarray as xr

        from landscape.slices.buffers import Points
        from landscape.slices.directions import unit
        from landscape.slices.extent import natural_scale
        from landscape.spectrum.eigenpairs import top_eigenpairs
        from landscape.valley import noise_floor

        hessian = problem.hessian()
        pairs = top_eigenpairs(hessian, self.k, "LA", self.tol, self.seed, progress=part(bar, 0, 0.2))
        scale, estimate = natural_scale(problem), problem.evaluate()
        depth = max(scale - estimate.loss, scale / 10)
        if not depth > 0:
            raise InputError("the valley has no depth: the loss and its natural scale are zero")
        directions = [unit(vector, f"eigenvector {index + 1}") for index, vector in enumerate(pairs.eigenvectors.T)]
        profiles: list[list[_Profile]] = []
        for index, direction in enumerate(directions):
            profiles.append([self._profile(problem, direction, share * depth) for share in HEIGHTS])
            bar(Progress("reading profiles", index + 1, np.empty(0), 0.2 + 0.4 * (index + 1) / self.k, "directions"))
        first, second = problem.halves()
        halves = top_eigenpairs(
            first.hessian() - second.hessian(), 1, "LM", 0.05, self.seed, progress=part(bar, 0.6, 0.7)
        )
        sampling, sampling_error = abs(float(halves.eigenvalues[0])) / 2, float(np.ptp(halves.intervals[0])) / 4
        variables = _geometry(pairs, profiles, depth, scale, estimate.samples) | {
            "sampling_floor": variable((), sampling, "half the norm of the difference of H on two halves", _UNITS),
            "sampling_floor_error": variable((), sampling_error, "its error", _UNITS),
            "sampling_floor_converged": variable((), halves.complete, "the solve reached its goal"),
        }
        known = all(history.run.stored("spectrum", place) is not None for place in range(len(history.run)))
        if (known and len(history.run)) or self._affordable(hessian.dim):
            values, rounding = _spectrum(problem, history, part(bar, 0.7, 1.0))
            precision = str(problem.dtype).removeprefix("torch.")
            # Eigenvalues within rounding count as zero, like those within the noise floor.
            variables |= _spectral(values, max(rounding, noise_floor(values, precision, sampling)))
        row = xr.Dataset(variables)
        variables["sentence"] = variable((), " ".join(self._sentences(row)), "what was found, in words", "")
        return RowData(variables, notes=Points(problem, directions).notes)

    def _profile(self, problem: Problem, direction: Direction, rise: float) -> _Profile:
        """The profile up to a rise on both sides; a side without a rise goes at most ten times as far as the other."""
        import torch

        from landscape.slices.extent import find_extent
        from landscape.slices.grid import positions
        from landscape.slices.lines import line
        from landscape.valley import classify_profile

        extent = find_extent(problem, direction, rise)
        ends, risen = (-extent.low, extent.high), extent.risen
        length = float(torch.linalg.vector_norm(problem.vector, dtype=torch.float64)) or 1.0
        far = 10 * (max((end for end, has in zip(ends, risen, strict=True) if has), default=length))
        low, high = (end if has else min(end, far) for end, has in zip(ends, risen, strict=True))
        profile = line(problem, direction, positions(-low, high, self.points), model=False)
        finite = np.isfinite(profile.losses)
        verdict = classify_profile(
            profile.positions[finite], profile.sample_losses[:, finite], profile.sample_weights, seed=self.seed
        )
        return _Profile(profile, verdict)

    def unmet_goals(self, row: xr.Dataset) -> list[str]:
        """A line for directions that did not converge, and a line if the noise floor by sampling did not."""
        lines = []
        if open_ones := int((~row.converged.values).sum()):
            lines.append(f"{open_ones} of the valley's directions did not converge: raise --tol")
        if not row.sampling_floor_converged:
            lines.append("the noise floor by sampling did not converge, and may be higher")
        return lines

    def show(self, row: xr.Dataset) -> list[RenderableType]:
        """A table of the verdicts by geometry, and a sentence for each test."""
        from rich.table import Table

        table = Table("direction", "eigenvalue", *(f"{share:g} of the depth" for share in row.height_share.values))
        for i in range(row.sizes["direction"]):
            each = row.isel(direction=i)
            cells = [
                f"{label} {exponent:.2f} [{low:.2f}, {high:.2f}]" if label in ("U", "V", "undecided") else str(label)
                for label, exponent, (low, high) in zip(
                    each.label.values, each.exponent.values, each.exponent_interval.values, strict=True
                )
            ]
            table.add_row(str(i + 1), to_error(float(each.eigenvalue), float(each.eigenvalue_error)), *cells)
        return [
            f"valley: depth {float(row.depth):.3g} (natural scale {float(row.natural_scale):.3g} less the loss), label "
            "and exponent of the two walls with its 95 % interval",
            table,
            *self._sentences(row),
        ]

    def _sentences(self, row: xr.Dataset) -> list[str]:
        """A sentence for each test."""
        if "eps" not in row:
            none = (
                "no spectral test and no anisotropy: they need all eigenvalues, which --spectrum computes "
                f"(one product for each parameter, up to {MAX_DIM:,} parameters)"
            )
            return [self._of_geometry(row), none]
        return [self._of_geometry(row), _of_kappa(row), _of_anisotropy(row)]

    def _of_geometry(self, row: xr.Dataset) -> str:
        """A sentence on the verdicts by geometry at the largest height, with the exponents' intervals."""
        labels, rise = Counter(str(label) for label in row.label.values[:, -1]), HEIGHTS[-1] * float(row.depth)
        shape = ", ".join(f"{label} along {number}" for label, number in labels.most_common())
        low, high = row.exponent_interval.values[:, -1].min(), row.exponent_interval.values[:, -1].max()
        return (
            f"geometry: at a rise of {rise:.2g} {shape} of {counted(self.k, 'top direction')}; "
            f"the exponents' intervals span {low:.2f} to {high:.2f}, on {counted(int(row.samples), 'sample')}"
        )


@dataclass(frozen=True)
class _Profile:
    """A profile and its verdict."""

    line: Line
    verdict: ProfileVerdict


def _spectrum(problem: Problem, history: History, tell: Callable[[Progress], None]) -> tuple[np.ndarray, float]:
    """All eigenvalues (n,), descending, and the error that rounding may have made in one."""
    from landscape.spectrum.full import full_spectrum

    known = history.of_checkpoint("spectrum")
    if known is not None:
        return known.eigenvalues.values, float(known.rounding)
    spectrum = full_spectrum(problem.hessian(problem.layout.dim), progress=tell)
    return spectrum.eigenvalues, spectrum.rounding


def _of_kappa(row: xr.Dataset) -> str:
    kappa, restates = row.kappa.values, row.restates.values
    if not np.isfinite(kappa).any():  # the row may be padded with NaN to the longest row of its group
        return (
            "spectral (Definition 1): no valley, because no eigenvalue lies above the noise floor "
            f"{float(row.floor):.2g}"
        )
    return (
        f"spectral (Definition 1): kappa from {np.nanmax(kappa):.3g} to {np.nanmin(kappa):.3g} for eps from "
        f"{row.eps.values[0]:.2g} to {row.eps.values[-1]:.2g}; the median of kappa eps / lambda_max is "
        f"{np.nanmedian(restates):.2f}, and near 1 the verdict restates the cut"
    )


def _of_anisotropy(row: xr.Dataset) -> str:
    return (
        f"anisotropy: {counted(int(row.positive), 'eigenvalue')} above the noise floor {float(row.floor):.2g}, "
        f"participation ratio {float(row.participation):.3g}, 90 % by 10 % quantile {float(row.quantile_ratio):.3g}; "
        f"{int(row.null)} within the floor ({int(row.zeros)} exact zeros), {int(row.negative)} negative with "
        f"{float(row.negative_mass):.1%} of the mass"
    )


def _geometry(
    pairs: Eigenpairs,
    found: Sequence[Sequence[_Profile]],
    depth: float,
    scale: float,
    samples: int,
) -> dict[str, xr.Variable]:
    at, unit_of_loss = ("direction", "height"), "loss"

    def of(field: str) -> np.ndarray:
        return np.array([[getattr(profile.verdict, field) for profile in each] for each in found])

    def along(values: Callable[[_Profile], np.ndarray]) -> np.ndarray:
        return np.array([[values(profile) for profile in each] for each in found])

    ends = along(lambda profile: profile.line.positions[[0, -1]])
    return {
        "eigenvalue": variable("direction", pairs.eigenvalues, "of the valley direction", _UNITS),
        "eigenvalue_error": variable("direction", pairs.residuals + pairs.rounding, "its error", _UNITS),
        "converged": variable("direction", pairs.converged & pairs.complete, "the solve reached its goal"),
        "depth": variable((), depth, "natural scale less the loss, at least a tenth of the scale", unit_of_loss),
        "natural_scale": variable((), scale, "loss of nothing learnt", unit_of_loss),
        "samples": variable((), samples, "number of samples"),
        "height_share": variable("height", HEIGHTS, "rise up to which a profile goes, by the depth"),
        "label": variable(at, of("label"), "U, V, undecided or no valley", ""),
        "reason": variable(at, of("reason"), "why it is neither U nor V", ""),
        "exponent": variable(at, of("exponent"), "p of the two walls c + a |t - t0|^p"),
        "exponent_interval": variable((*at, "bound"), of("interval"), "its 95 % interval, bootstrapped over samples"),
        "rise": variable(at, of("height"), "rise of the lower wall, at which the exponent was read", unit_of_loss),
        "centre": variable(at, of("centre"), "t0", "parameter"),
        "left": variable(at, of("left"), "rise to the left end", unit_of_loss),
        "right": variable(at, of("right"), "rise to the right end", unit_of_loss),
        "misfit": variable(at, of("misfit"), "what the fit leaves beyond the noise, by the larger rise"),
        "end": variable((*at, "side"), ends, "ends of the profile", "parameter"),
        "profile_position": variable(
            (*at, "point"), along(lambda each: each.line.positions), "where the profile was taken", "parameter"
        ),
        "profile_loss": variable((*at, "point"), along(lambda each: each.line.losses), "loss there", unit_of_loss),
        "profile_error": variable(
            (*at, "point"),
            along(lambda each: each.line.standard_errors),
            "its standard error over samples",
            unit_of_loss,
        ),
        "profile_fit": variable(
            (*at, "point"),
            along(lambda each: each.verdict.walls(each.line.positions)),
            "the two walls c + a |t - t0|^p",
            unit_of_loss,
        ),
    }


def _spectral(values: np.ndarray, floor: float) -> dict[str, xr.Variable]:
    from landscape.valley import anisotropy, kappa_map, thresholds

    units = _UNITS
    measured: Anisotropy = anisotropy(values, floor)
    cut: KappaMap | None = kappa_map(values, thresholds(values, floor)) if values.max() > floor else None
    empty = np.empty(0)
    return {
        "eps": variable("threshold", empty if cut is None else cut.eps, "threshold of the valley", units),
        "kappa": variable("threshold", empty if cut is None else cut.kappa, "lambda_max by the smallest above eps"),
        "valley_count": variable("threshold", empty if cut is None else cut.valley, "eigenvalues above eps"),
        "river_count": variable("threshold", empty if cut is None else cut.river, "eigenvalues of magnitude up to eps"),
        "restates": variable("threshold", empty if cut is None else cut.restates, "kappa eps / lambda_max"),
        "delta": variable("tolerance", DELTAS, "how far above 1 kappa may be in a U"),
        "kappa_label": variable(
            ("threshold", "tolerance"),
            np.empty((0, len(DELTAS)), dtype=str) if cut is None else cut.labels(DELTAS),
            "U, V or no valley by Definition 1",
            "",
        ),
        "floor": variable((), measured.floor, "noise floor: numerical or by sampling, the larger", units),
        "positive": variable((), measured.positive, "eigenvalues above the floor"),
        "null": variable((), measured.null, "eigenvalues within it"),
        "zeros": variable((), measured.zeros, "eigenvalues exactly zero"),
        "negative": variable((), measured.negative, "eigenvalues below minus the floor"),
        "negative_mass": variable((), measured.negative_mass, "their magnitudes by those of all"),
        "participation": variable((), measured.participation, "(sum lambda)^2 / sum lambda^2 of the positive ones"),
        "quantile_ratio": variable((), measured.quantile_ratio, "their 90 % quantile by their 10 % quantile"),
    }
