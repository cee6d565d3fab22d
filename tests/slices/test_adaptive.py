"""Adaptive planes: against the fully evaluated plane, and leave-one-out errors against fits without the point."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import landscape
from benchmarks.accuracy.adaptive import dented
from landscape.cli.plot import main as plot
from landscape.cli.probe import main
from landscape.errors import InputError
from landscape.slices import gaussian, plane
from landscape.slices.adaptive import _fit, adapt, span
from landscape.slices.grid import positions

SHAPE, CENTRE = (51, 41), (20, 25)
Y, X = np.meshgrid(np.linspace(-1, 1.5, SHAPE[0]), np.linspace(-1.2, 1, SHAPE[1]), indexing="ij")


def adapted_to(values: np.ndarray, tol: float = 0.01, seed: int = 0) -> tuple[landscape.slices.adaptive.Adapted, float]:
    """The adaptive plane of these values, and its largest error relative to their range."""
    found = adapt(lambda row, column: float(values[row, column]), values.shape, CENTRE, tol, seed)
    both = np.isfinite(values) & np.isfinite(found.values)
    return found, float(np.abs(found.values[both] - values[both]).max() / span(values))


def random_surface(seed: int) -> np.ndarray:
    """A bowl with kinks along random lines, as in networks of rectified units, and with a steep wall."""
    generator = np.random.default_rng(seed)
    surface = generator.uniform(0.2, 3) * X**2 + generator.uniform(0.2, 3) * Y**2 + generator.normal() * X * Y
    for _ in range(generator.integers(1, 6)):
        a, b, c = generator.normal(size=3)
        surface = surface + generator.uniform(0, 3) * np.maximum(0, a * X + b * Y + c)
    return np.log1p(np.exp(generator.uniform(1, 4) * surface)) if seed % 2 else surface


def test_left_out_errors_are_those_of_fits_without_the_point() -> None:
    generator = np.random.default_rng(0)
    points, values = generator.uniform(0, 9, size=(25, 2)), generator.normal(size=25)
    _, left_out = _fit(points, values)
    for index in range(25):
        rest = np.arange(25) != index
        coefficients, _ = _fit(points[rest], values[rest])
        at = np.linalg.norm(points[rest] - points[index], axis=1) ** 3 @ coefficients[:-3]
        at += np.array([1, *points[index]]) @ coefficients[-3:]
        assert left_out[index] == pytest.approx(values[index] - at, rel=1e-8)


def test_a_smooth_surface_takes_few_points() -> None:
    for values in (X + 2 * Y, X**2 + 3 * Y**2 - X * Y, np.cos(2 * X) * np.exp(Y)):
        found, error = adapted_to(values)
        assert found.evaluated[CENTRE]
        assert np.array_equal(found.values[found.evaluated], values[found.evaluated])
        assert found.points < 0.15 * values.size
        assert error < 0.01


@pytest.mark.parametrize("seed", range(40))
def test_kinks_take_more_points_and_no_error_is_twice_what_was_asked_for(seed: int) -> None:
    values = random_surface(seed)
    found, error = adapted_to(values, seed=seed)
    assert error <= 0.02
    assert found.error <= 0.01 * span(values)
    assert found.points < 0.6 * values.size


def test_most_are_within_what_was_asked_for() -> None:
    """The median plane takes a fifth of the points. docs/accuracy.md states how much errors exceed reported ones."""
    found = [adapted_to(random_surface(seed), seed=seed) for seed in range(40)]
    beyond = [error * span(random_surface(seed)) / found[seed][0].error for seed, (_, error) in enumerate(found)]
    assert np.median(beyond) < 1.5
    assert max(beyond) < 2.5
    assert np.mean([error <= 0.01 for _, error in found]) > 0.9
    assert np.median([each.points / X.size for each, _ in found]) < 0.2


@pytest.mark.parametrize("seed", range(10))
def test_holes_of_a_step_and_a_half_are_found(seed: int) -> None:
    """The width is a standard deviation in grid steps. docs/accuracy.md states how many narrower holes are found."""
    _, error = adapted_to(dented(51, 1.5, seed)[:, :41], seed=seed)
    assert error < 0.03


def test_a_fifth_of_a_round_is_at_random_and_any_point_as_likely() -> None:
    """A constant surface leaves no doubt, so only the last fifth of the first round depends on the seed."""
    looked = []
    for seed in range(60):
        places: list[tuple[int, int]] = []
        adapt(lambda *place, seen=places: float(seen.append(place) is not None), (25, 25), (12, 12), 0.01, seed)
        looked.append(places[81:90])  # after nine rows and columns, 3 apart: a round of 1.5 % of 625
    assert len({tuple(places[:7]) for places in looked}) == 1
    rest = {place for place in np.ndindex(25, 25) if place[0] % 3 or place[1] % 3} - {*looked[0][:7]}
    at_random = [place for places in looked for place in places[7:]]
    assert set(at_random) <= rest
    assert all(one != other for one, other in zip(at_random[::2], at_random[1::2], strict=True))
    for axis in range(2):
        found, all_of_them = (Counter(place[axis] // 5 for place in places) for places in (at_random, rest))
        expected = [120 * all_of_them[block] / len(rest) for block in range(5)]
        assert chisquare([found[block] for block in range(5)], expected).pvalue > 1e-3


def test_a_planes_seed_is_that_of_its_points_at_random() -> None:
    problem = landscape.load_problem("data/single.pt").sampled(1)
    first, second, at = gaussian(problem, 0), gaussian(problem, 0, 1), positions(-0.5, 0.5, 21)
    one, same, other = (plane(problem, first, second, at, at, adaptive=0.5, seed=seed).evaluated for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_border_of_what_is_not_finite_is_looked_at(value: float) -> None:
    """No point is wrongly taken as finite, and no finite point is left out."""
    values = np.where(X + 0.5 * Y > 0.8, value, X**2 + Y**2)
    found, error = adapted_to(values)
    assert np.array_equal(np.isfinite(found.values), np.isfinite(values))
    assert error < 0.01
    assert found.points < 0.4 * values.size


@pytest.mark.parametrize("radius", [1.5, 2.2, 4.0])
def test_a_valley_that_is_finite_only_about_its_centre_is_found(radius: float) -> None:
    """Only the centre of the coarse grid is finite. Its neighbours are evaluated one after another."""
    rows, columns = np.indices((25, 25)) - 12
    values = np.where(rows**2 + columns**2 <= radius**2, 1.0 + rows**2 + columns, np.inf)
    found = adapt(lambda row, column: float(values[row, column]), (25, 25), (12, 12), 0.01)
    assert np.array_equal(np.isfinite(found.values), np.isfinite(values))


def test_what_is_interpolated_lies_within_what_was_found() -> None:
    """Over a flat floor between steep walls an interpolant would swing below zero."""
    values = 0.001 + np.maximum(0, np.hypot(X, Y) - 0.5) ** 2 * 100
    found, _ = adapted_to(values)
    assert found.values.min() == values[found.evaluated].min()


def test_a_surface_without_a_range_ends() -> None:
    found = adapt(lambda row, column: 3.0, (30, 30), (3, 3), 0.01)
    assert found.points < 150
    assert found.values == pytest.approx(np.full((30, 30), 3.0), rel=1e-9)


def test_where_nothing_is_finite_nothing_is_believed_to_be() -> None:
    found = adapt(lambda row, column: np.nan, (30, 30), (3, 3), 0.01)
    assert np.isnan(found.values).all()


@pytest.mark.parametrize("shape", [(3, 3), (1, 12), (2, 40)])
def test_small_grids_are_looked_at_as_a_whole_or_right(shape: tuple[int, int]) -> None:
    rows, columns = np.indices(shape)
    values = (rows + 0.3 * columns) ** 2.0
    found = adapt(lambda row, column: float(values[row, column]), shape, (0, 0), 0.01)
    assert np.abs(found.values - values).max() <= 0.01 * np.ptp(values)


@pytest.mark.parametrize("tol", [0.0, 1.0, -0.1, np.nan])
def test_impossible_tolerances_are_refused(tol: float) -> None:
    with pytest.raises(InputError, match="share of the loss's range"):
        adapt(lambda row, column: 0.0, (9, 9), (4, 4), tol)


def test_a_plane_is_the_whole_one_where_it_is_evaluated() -> None:
    problem = landscape.load_problem("data/single.pt").sampled(8)
    first, second, at = gaussian(problem, 0), gaussian(problem, 0, 1), positions(-0.5, 0.5, 21)
    whole, part = (plane(problem, first, second, at, at, adaptive=each) for each in (None, 0.05))
    assert whole.evaluated.all()
    assert whole.interpolation_error == 0
    assert 0 < part.evaluated.sum() < 0.5 * part.evaluated.size
    assert part.evaluated[part.centre]
    for name in ("losses", "standard_errors", "accuracies"):
        assert np.array_equal(getattr(whole, name)[part.evaluated], getattr(part, name)[part.evaluated])
    assert np.isnan(part.accuracies[~part.evaluated]).all()
    assert np.abs(whole.losses - part.losses).max() <= 0.1 * np.ptp(whole.losses)
    assert part.interpolation_error <= 0.05 * np.ptp(whole.losses)


class TestCommand:
    def test_the_record_tells_which_points_were_evaluated(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "a.h5"
        arguments = ["--slice", "2d", "--subset", "8", "--reach", "0.5", "--adaptive", "0.05", "-o", str(out)]
        assert main(["data/single.pt", *arguments]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        row = landscape.open_record(out)["slices_2d"].isel(checkpoint=0)
        assert f"{int(row.evaluated.sum())} of 625 evaluated and the others interpolated" in shown
        assert 0 < float(row.interpolation_error) <= 0.05 * np.ptp(row.loss.values)

    def test_a_figure_tells_it_too(self, tmp_path: Path) -> None:
        out = tmp_path / "a.h5"
        arguments = ["--slice", "2d", "--subset", "8", "--reach", "0.5", "--adaptive", "0.05", "-o", str(out)]
        assert main(["data/single.pt", *arguments]) == 0
        assert plot(["--figure", "slices-2d", "--format", "svg", "-o", str(tmp_path), str(out)]) == 0
        lines = re.findall("<!-- (.*?) -->", (tmp_path / "a-slices-2d.svg").read_text())
        assert "interpolated between the dots" in " ".join(lines)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--slice", "1d", "--adaptive", "0.01"], "--adaptive is for planes"),
            (["--hessian", "--adaptive", "0.01"], "--slice"),
            (["--slice", "2d", "--adaptive", "1"], "share of the loss's range"),
        ],
    )
    def test_wrong_uses_exit_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
    ) -> None:
        assert main(["data/single.pt", *arguments, "-o", str(tmp_path / "a.h5")]) == 2
        assert says in " ".join(capsys.readouterr().err.split())


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
