"""Figures: they draw the stored values, pairs that did not converge are hollow, and a file names its source."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from PIL import Image

from landscape import InputError
from landscape.cli.probe import main as probe
from landscape.figures import (
    FONT_SIZES,
    PAGES,
    FigureStyle,
    RecordView,
    available,
    draw,
    draw_density,
    draw_eigenvalues,
    draw_hops,
    draw_learning,
    draw_line,
    draw_plane,
    draw_profile,
    draw_quantity,
    draw_spectrum,
    levels_of,
    styled,
)
from landscape.figures.slices import direction_label, leaves, path_caption
from landscape.figures.spectra import LOWEST
from landscape.measurements import Matrix
from landscape.measurements.density import _variables as density_variables
from landscape.measurements.density import density_of
from landscape.record import RecordWriter, Request
from landscape.spectrum.density import spectral_density
from tests.conftest import ROOT


def axes_of(figure: Figure | None = None, **more: object):
    return (figure or Figure()).subplots(**more)


@pytest.mark.parametrize(
    ("name", "style", "count"),
    [*((name, "paper", 2) for name in PAGES), ("summary", "talk", 1), ("eigenvalues", "notebook", 1)],
)
def test_every_figure_is_drawn(shown, name, style, count):
    with styled(style):
        figure = draw(name, shown[:count], FigureStyle(style))
        figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert all(axes.get_xlabel() or axes.get_shared_x_axes() for axes in panels)
    scale = FONT_SIZES[style] / FONT_SIZES["paper"]
    assert min(abs(figure.get_figwidth() - scale * width) for width in (3.35, 6.9)) < 1e-9


@pytest.mark.parametrize("kind", ["contour", "filled", "surface"])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_planes_of_every_kind(shown, kind, scale):
    with styled("paper"):
        figure = draw("slices-2d", shown, FigureStyle(kind=kind, scale=scale, width=5.0))
        figure.canvas.draw()
    assert figure.get_figwidth() == 5


def test_all_figures_are_available(shown):
    assert available(shown) == list(PAGES)


def test_eigenvalues_are_those_of_the_record_and_hollow_where_not_converged(shown):
    rows = shown[0].series("eigenpairs")
    axes = draw_eigenvalues(axes_of(), rows, "run")
    drawn = np.concatenate([each[0].get_ydata() for each in axes.containers])
    np.testing.assert_array_equal(np.sort(drawn), np.sort(rows.eigenvalues.values[:, 0]))
    single = rows.isel(checkpoint=[0]).copy(deep=True)
    single["converged"] = ~single.converged
    axes = draw_eigenvalues(axes_of(), single, "run")
    (container,) = axes.containers
    assert container[0].get_fillstyle() == "none"
    assert "not converged" in axes.get_legend_handles_labels()[1][0]
    assert axes.get_ylabel().endswith("[loss / parameter$^2$]")


def test_a_spectrum_and_a_density_are_those_of_the_record(shown):
    record = shown[0]
    row = record.row("spectrum")
    axes = draw_spectrum(axes_of(), row, "run")
    values = row.eigenvalues.values
    drawn = np.where(np.abs(values) < float(row.rounding) / 3, np.nan, values)
    assert 0 < np.isnan(drawn).sum() < len(drawn) / 2
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), drawn[values > 0])
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), -drawn[values < 0][::-1])
    row = record.row("density")
    axes = draw_density(axes_of(), row)
    found = density_of(row)
    grid, drawn = map(np.asarray, axes.lines[0].get_data())
    expected = found.bulk_mass * found.bulk.smoothed(grid)[0]
    single = 1 / (found.dim * found.width * np.sqrt(2 * np.pi))
    np.testing.assert_array_equal(np.isnan(drawn), expected < LOWEST * single)
    np.testing.assert_allclose(drawn[np.isfinite(drawn)], expected[expected >= LOWEST * single])
    np.testing.assert_array_equal(axes.lines[1].get_data(), [found.outliers, [single] * len(found.outliers)])
    stems = [each.get_segments() for each in axes.collections if isinstance(each, LineCollection)]
    assert len(found.outliers) > 0
    assert any(
        np.array_equal(segments, [[[value, 0], [value, single]] for value in found.outliers]) for segments in stems
    )
    assert axes.get_ylabel().endswith("[parameter$^2$ / loss]")


def density_row(matrix, **more):
    found = spectral_density(matrix, **more)
    return found, xr.Dataset(density_variables(found, Matrix()))


def test_a_bulk_that_is_narrow_beside_its_outliers_is_drawn_with_all_its_mass():
    bulk = np.linspace(0, 1e-3, 200)
    found, row = density_row(np.diag(np.append(bulk, [300.0, 1000.0])), probes=8, k=2)
    grid, drawn = map(np.asarray, draw_density(axes_of(), row).lines[0].get_data())
    # What is cut is below a tenth of one eigenvalue's height: over some 4 widths at each end less than 0.4 / n of mass.
    assert abs(np.trapezoid(np.nan_to_num(drawn), grid) - found.bulk_mass) < 0.4 / found.dim + 1e-3


def test_a_bulk_that_is_a_point_is_a_stem():
    found, row = density_row(np.diag([1.0] * 20 + [5.0]), probes=3, k=1)
    assert found.width == 0
    axes = draw_density(axes_of(), row, "run")
    (stem,) = axes.collections[0].get_segments()
    np.testing.assert_allclose(stem[:, 0], 1.0)
    assert stem[:, 1].max() == pytest.approx(20)
    assert axes.get_ylabel() == "eigenvalues"
    axes.figure.canvas.draw()


@pytest.mark.parametrize("point_first", [True, False])
def test_a_bulk_that_is_a_point_beside_one_that_is_none_is_told(shown, point_first):
    _, row = density_row(np.diag([1.0] * 20 + [5.0]), probes=3, k=1)
    group = row.expand_dims("checkpoint").assign(step=("checkpoint", [3]))
    records = [replace(shown[0], label="point", groups={"density": group}), shown[1]]
    figure = draw("density", records if point_first else records[::-1])
    assert figure.axes[0].get_ylabel() == "density [parameter$^2$ / loss]"
    assert "point: the bulk is a point, and heights are numbers of eigenvalues" in " ".join(
        figure.get_supxlabel().split()
    )


def test_the_spectra_of_a_run_are_those_of_some_checkpoints_by_sign(shown):
    with styled("paper"):
        figure = draw("spectrum", shown[0])
    series = shown[0].series("spectrum")
    positive, negative = figure.axes
    assert len(positive.lines) == len(negative.lines) == 5
    for axes, sign in ((positive, 1), (negative, -1)):
        values, rounding = sign * series.eigenvalues.values[-1], float(series.rounding[-1])
        drawn = np.asarray(axes.lines[-1].get_ydata())
        assert len(drawn) == (values > 0).sum()
        np.testing.assert_array_equal(np.sort(drawn[np.isfinite(drawn)]), np.sort(values[values >= rounding / 3]))
    assert positive.get_ylim() == negative.get_ylim()
    assert "5 of 11 checkpoints" in figure.get_supxlabel()


def test_lines_planes_and_profiles_are_those_of_the_record(shown):
    record = shown[0]
    row = record.row("slices_1d").isel(direction=0)
    axes = draw_line(axes_of(), row)
    np.testing.assert_array_equal(axes.lines[0].get_data(), [row.position.values, row.loss.values])
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), row.quadratic.values)
    assert "principal component 1" in axes.get_xlabel()
    plane = record.row("slices_2d")
    axes = axes_of()
    draw_plane(axes, plane, levels_of([plane], "log"))
    path = np.stack([plane.path_first.values, plane.path_second.values], axis=1)
    assert path.shape == (11, 2)
    assert any(np.array_equal(line.get_xydata(), path) for line in axes.lines)
    profile = record.row("valley").isel(direction=0, height=-1)
    axes = draw_profile(axes_of(), profile)
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), profile.profile_fit.values)
    assert str(profile.label.values) in axes.get_title()


def test_along_a_line_infinity_is_a_gap_and_a_model_that_leaves_is_told(shown):
    row = shown[0].row("slices_1d").isel(direction=0).copy(deep=True)
    axes = draw_line(axes_of(), row)
    assert not leaves(axes, row)
    row.loss.values[0] = row.sample_loss.values[0, 0] = np.inf
    row.quadratic.values[-1] = 1e6
    axes = draw_line(axes_of(), row)
    axes.figure.canvas.draw()
    assert np.isnan(axes.lines[0].get_ydata()[0])
    assert axes.get_ylim()[1] < 1e3
    assert leaves(axes, row)
    row.loss.values[:] = np.nan
    with pytest.raises(InputError, match="nothing to draw"):
        draw_line(axes_of(), row, samples=False)


def test_the_steps_of_every_record_are_told_on_one_axis(shown):
    first, second = (record.row("slices_1d").isel(direction=0) for record in shown)
    second = second.copy(deep=True)
    second["norm"] = second.norm * 3
    assert direction_label([first, second]).endswith("(steps of 1, 3 in parameters)")
    assert direction_label([first, first]).endswith("(steps of 1 in parameters)")


def test_every_window_of_hops_has_its_line(shown):
    hops = shown[0].groups["hops"]
    twice = xr.concat([hops, hops.assign(rate=hops.rate + 0.25)], "window", data_vars="minimal")
    with styled("paper"):
        figure = draw("hops", replace(shown[0], groups={"hops": twice}))
    assert len(figure.axes) == 4
    drawn = [axes.containers[0][0].get_ydata() for axes in figure.axes[::2]]
    np.testing.assert_array_equal(drawn, twice.rate.values[0])


def test_a_step_is_picked_and_one_that_is_not_there_is_refused(shown):
    record = shown[0]
    assert int(record.row("slices_2d", 5).step) == 5
    assert int(record.row("slices_2d").step) == 10
    with pytest.raises(InputError, match="no slices_2d of step 7; there are 5, 10"):
        draw("slices-2d", shown[:1], FigureStyle(step=7))


def test_what_is_not_finite_is_a_gap(shown):
    plane = shown[0].row("slices_2d").copy(deep=True)
    plane.loss.values[0, 0] = np.nan
    plane.loss.values[1, 1] = np.inf
    draw_plane(axes_of(), plane, levels_of([plane], "log"))
    plane.loss.values[:] = np.nan
    with pytest.raises(InputError, match="nothing to draw"):
        levels_of([plane], "log")


def test_runs_hops_and_learning_are_those_of_the_record(shown):
    record = shown[0]
    row = record.row("dynamics")
    axes = draw_quantity(axes_of(), row, "entropy")
    np.testing.assert_array_equal(axes.lines[0].get_data(), [row.run_step.values, row.entropy.values])
    axes = draw_quantity(axes_of(), row, "joint_information")
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), row.joint_information_null.values)
    hops = record.row("hops").isel(window=0)
    axes = draw_hops(axes_of(), hops)
    np.testing.assert_array_equal(axes.containers[0][0].get_ydata(), hops.rate.values)
    learning = record.row("learning")
    axes = draw_learning(axes_of(), learning, quantity="accuracy")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), learning.group_accuracy.values[:, 0])


def test_records_side_by_side_share_their_scales(shown):
    with styled("paper"):
        figure = draw("slices-2d", shown)
        heat = draw("samples", shown)
        curves = draw("learning", shown)
    first, second = figure.axes[:2]
    assert first.collections[0].norm.vmax == second.collections[0].norm.vmax
    assert heat.axes[0].images[0].norm is heat.axes[1].images[0].norm
    assert curves.axes[0].get_ylim() == curves.axes[1].get_ylim()
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())
    ends = [record.row("slices_2d")[name].values for record in shown for name in ("first", "second")]
    assert first.get_xlim() == (min(ends[0][0], ends[2][0]), max(ends[0][-1], ends[2][-1]))
    assert "white: not measured" in figure.get_supxlabel()
    with styled("paper"):
        walls = draw("profiles", shown)
    assert len({axes.get_ylim() for axes in walls.axes}) == 1


# ---------------------------------------------------------------------- the command


@pytest.mark.slow
def test_every_figure_of_a_record_becomes_a_file(plot, records):
    ran = plot(records[0])
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.split() == [f"first-{name}.pdf" for name in PAGES]


@pytest.mark.parametrize("form", ["pdf", *(pytest.param(form, marks=pytest.mark.slow) for form in ("svg", "png"))])
def test_a_file_knows_its_source_and_is_the_same_twice(plot, records, tmp_path, form):
    fingerprint = RecordView.read(records[0]).identity["fingerprint"]
    assert len(fingerprint) == 64
    contents = []
    for folder in ("a", "b"):
        ran = plot(*records, "--figure", "eigenvalues", "--format", form, "-o", folder)
        assert (ran.status, ran.err) == (0, "")
        contents.append((tmp_path / folder / f"first-vs-second-eigenvalues.{form}").read_bytes())
    assert contents[0] == contents[1]
    if form == "png":
        told = Image.open(tmp_path / "a" / "first-vs-second-eigenvalues.png").text["Description"]
        assert json.loads(told)[0]["fingerprint"] == fingerprint
        assert "landscape-probe" in json.loads(told)[0]["commands"][0]
    else:
        assert fingerprint.encode() in contents[0]


def test_checkpoints_are_known_by_their_steps(shown):
    told = shown[0].identity["checkpoints"]
    assert sorted(each["step"] for each in told) == list(range(11))
    assert {len(each["sha256"]) for each in told} == {64}


@pytest.mark.slow
def test_records_of_one_name_are_told_apart(plot, records, tmp_path):
    for name in ("a/run.seed1.h5", "b/run.seed1.h5", "run.seed2.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(records[0].read_bytes())
    ran = plot("a/run.seed1.h5", "b/run.seed1.h5", "run.seed2.h5", "--figure", "eigenvalues")
    assert ran.out == "a-run.seed1-vs-b-run.seed1-vs-run.seed2-eigenvalues.pdf\n"
    ran = plot("run.seed2.h5", "run.seed2.h5", "--figure", "eigenvalues")
    assert "run.seed2-1-vs-" in ran.out


@pytest.fixture
def part(shown, tmp_path):
    """A function that writes a record of some variables of the last checkpoint of the first record."""

    def write(name: str, **left_out: tuple[str, ...]) -> None:
        request = Request.every({group: {} for group in left_out}, ["5" * 64], {})
        with RecordWriter(tmp_path / name, request) as writer:
            for group, names in left_out.items():
                row = shown[0].row(group)
                own = [each for each in ("checkpoint", "step", "path", "sha256", "provenance") if each in row]
                lengths = [each for each in row.variables if str(each).endswith("_length")]
                unit = row.drop_vars([*own, *lengths, *names]).drop_attrs(deep=False)
                told = {"command": "landscape-probe", "versions": {}}
                checkpoint = {"path": "a.pt", "sha256": "5" * 64, "step": 3}
                writer.add(group, unit, told | {"checkpoint": checkpoint})

    return write


def test_a_record_without_some_variables_has_the_figures_that_need_none_of_them(plot, part):
    part("old.h5", loss=(), valley=("profile_position", "sentence"), slices_2d=("variance_share",))
    ran = plot("old.h5")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.split() == [f"old-{name}.pdf" for name in ("slices-2d", "valley", "summary")]
    ran = plot("old.h5", "--figure", "profiles")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == (
        "landscape-plot: old.h5 has no profile_position in its /valley, which the figure profiles needs: measure it "
        "with landscape-probe ... --valley\n"
    )


def test_what_the_numbers_do_not_allow_is_left_out_with_a_line(plot, shown, part, tmp_path):
    part("flat.h5", loss=(), slices_1d=(), slices_2d=())
    with h5py.File(tmp_path / "flat.h5", "a") as file:
        file["slices_2d/loss"][:] = np.nan
    ran = plot("flat.h5")
    assert ran.status == 0
    assert ran.out == "flat-slices-1d.pdf\n"
    assert ran.err.splitlines() == [
        f"landscape-plot: left out {name}: no point of the plane has a finite loss: there is nothing to draw"
        for name in ("slices-2d", "summary")
    ]


def test_of_a_record_with_little_the_page_is_low_and_of_one_with_nothing_there_is_none(plot, shown, part):
    part("loss.h5", loss=())
    ran = plot("loss.h5")
    assert (ran.status, ran.out) == (2, "")
    assert "no figure can be drawn from these measurements" in ran.err
    assert "share no measurement" in plot("loss.h5", "--figure", "summary").err
    little = replace(shown[0], groups={name: shown[0].groups[name] for name in ("loss", "eigenpairs")})
    with styled("paper"):
        assert draw("summary", little).get_figheight() < 4
        assert draw("summary", shown).get_figheight() <= 10.4


def test_another_matrix_is_drawn_where_the_hessian_would_be(plot, records, tmp_path):
    """It is drawn under its name in the record, and beside the Hessian if both are requested."""
    folder, record = records[0].parent, tmp_path / "point.h5"
    asked = [str(folder / "first-05.pt"), "--problem", f"{folder / 'problem.py'}:classes", "-o", str(record)]
    assert probe([*asked, "--hessian", "-k", "2"]) == 0
    assert probe([*asked, "--eigenpairs", "-k", "3", "--matrix", "fisher-empirical"]) == 0
    other = RecordView.read(record, matrix="fisher-empirical")
    assert other.label == "point (fisher-empirical)"
    assert set(other.groups) == {"eigenpairs", "loss"}
    with h5py.File(record) as stored:
        assert np.array_equal(other.row("eigenpairs").eigenvalues, stored["eigenpairs_fisher_empirical/eigenvalues"][0])
    assert available([other]) == ["eigenvalues", "summary"]
    both = ["--matrix", "hessian", "--matrix", "fisher-empirical", "--figure", "eigenvalues", "-o", tmp_path]
    assert plot(record, *both).out == f"{tmp_path}/point-vs-point-fisher-empirical-eigenvalues.pdf\n"
    refused = plot(record, "--matrix", "ggn")
    assert refused.status == 2
    assert "point.h5 has no measurement of the matrix ggn" in refused.err


def test_texts_of_a_record_are_letters_alone(plot, records, tmp_path):
    """Units, verdicts and paths are texts of the file, and no part of them is read as mathematics."""
    text = "$\\frac{$ 100 % of {x}_^ \\"
    shutil.copy(records[0], tmp_path / "odd.h5")
    with h5py.File(tmp_path / "odd.h5", "r+") as file:
        for group in file.values():
            for name, data in group.items():
                if "units" in data.attrs and data.attrs["units"] != "1":
                    data.attrs["units"] = text
                if h5py.check_string_dtype(data.dtype) and name in ("sentence", "phases", "path"):
                    data[:] = text
    wanted = ("eigenvalues", "density", "spectrum", "valley", "dynamics", "summary")
    ran = plot("odd.h5", *(part for name in wanted for part in ("--figure", name)))
    assert (ran.status, ran.err) == (0, "")


def test_a_label_makes_no_folder(plot, records, tmp_path):
    ran = plot(records[0], "--figure", "eigenvalues", "--label", "../a b/ö: $x")
    assert (ran.status, ran.out) == (0, "..-a-b-ö-x-eigenvalues.pdf\n")
    assert [path.name for path in tmp_path.iterdir()] == ["..-a-b-ö-x-eigenvalues.pdf"]


@pytest.mark.parametrize("label", ["$\\frac$", "a $ b", "x\udcff"])
def test_a_label_is_letters_alone(plot, records, label):
    ran = plot(records[0], "--figure", "spectrum", "--label", label)
    assert (ran.status, ran.err) == (0, "")


def test_what_matplotlib_remarks_is_a_line(plot, records):
    ran = plot(records[0], "--figure", "spectrum", "--label", "\u65e5\u672c", "--width", 1)
    assert ran.status == 0
    lines = ran.err.splitlines()
    assert lines
    assert all(line.startswith("landscape-plot: note: ") for line in lines)


def test_the_last_row_is_that_of_the_last_step(records, tmp_path, monkeypatch):
    monkeypatch.chdir(records[0].parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = str(tmp_path / "order.h5")
    assert probe(["first-05.pt", "-o", out]) == 0
    assert probe(["first-01.pt", "-o", out]) == 0
    record = RecordView.read(out)
    assert [int(record.row("loss").step), int(record.row("loss", 1).step)] == [5, 1]


def test_a_page_of_a_step_is_headed_by_that_step(shown):
    with styled("paper"):
        figure = draw("summary", shown[:1], FigureStyle(step=5))
    assert "step 5," in figure.subfigs[0].texts[0].get_text()


def test_fonts_are_embedded_as_fonts(plot, records, tmp_path):
    assert plot(records[0], "--figure", "dynamics").status == 0
    content = (tmp_path / "first-dynamics.pdf").read_bytes()
    streams = [
        zlib.decompress(each) for each in re.findall(rb"stream\n(.*?)\nendstream", content, re.S) if each[:1] == b"x"
    ]
    everything = content + b"".join(streams)
    assert b"/FontFile2" in everything
    assert b"/Type3" not in everything
    assert plot(records[0], "--figure", "dynamics", "--format", "svg").status == 0
    assert "<text" not in (tmp_path / "first-dynamics.svg").read_text(), "letters are outlines, and need no font"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "no record given"),
        (["missing.h5"], "there is no record here"),
        (["small.h5"] * 8, "a figure shows 1 to 7 records"),
        (["{0}", "--figure", "histogram"], "there is no figure 'histogram'; there are eigenvalues"),
        (["{0}", "--width", "wide"], "--width must be column, text or 1 to 40 inches, not wide"),
        (["{0}", "--width", "nan"], "--width must be column, text or 1 to 40 inches"),
        (["{0}", "--label", "a", "--label", "b"], "1 records need 1 labels, and 2 are given"),
        (["{0}", "--figure", "slices-2d", "--step", "3"], "no slices_2d of step 3"),
        (["{0}", "--figure", "slices-2d", "--step", "2.5"], "not a whole number"),
        (["small.h5", "--figure", "density"], "has no /density, which the figure density needs"),
        (["{0}", "small.h5", "--figure", "eigenvalues", "--figure", "hops"], "landscape-probe ... --hops"),
        (["{0}", "--figure", "eigenvalues", "-o", "small.h5"], "can't be written"),
        (["text.txt"], "text.txt"),
    ],
)
def test_refused_in_one_line_with_nothing_written(plot, records, tmp_path, arguments, line):
    (tmp_path / "small.h5").write_bytes((records[0].parent / "small.h5").read_bytes())
    (tmp_path / "text.txt").write_text("no record")
    before = sorted(tmp_path.rglob("*"))
    ran = plot(*(str(each).format(*records) for each in arguments))
    assert (ran.status, ran.err.count("\n"), ran.out) == (2, 1, "")
    assert line in ran.err
    assert sorted(tmp_path.rglob("*")) == before


def test_help_is_short_and_needs_neither_torch_nor_matplotlib():
    code = (
        "import sys; from landscape.cli.plot import main; status = main(['--help']); "
        "sys.exit(status or any(name in sys.modules for name in ('torch', 'matplotlib', 'xarray')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) <= 50
    assert max(map(len, ran.stdout.splitlines())) <= 100


# ---------------------------------------------------------------------- the file


def test_a_single_figure_may_be_one_file(plot, records, tmp_path):
    out = tmp_path / "new" / "top.svg"
    assert plot(records[0], "--figure", "eigenvalues", "-o", out).status == 0
    assert out.read_text().startswith("<?xml")
    for more, words in (
        (("--figure", "density"), "is one file, and there are 2 figures"),
        (("--format", "pdf"), "ends in .svg, and --format is pdf"),
    ):
        ran = plot(records[0], "--figure", "eigenvalues", *more, "-o", tmp_path / "two.svg")
        assert ran.status == 2
        assert words in ran.err
        assert not (tmp_path / "two.svg").exists()


def test_a_name_spelt_wrongly_is_answered_with_the_nearest(plot, records, tmp_path):
    ran = plot(records[0], "--figure", "eigenvalue", "-o", tmp_path)
    assert ran.status == 2
    assert "did you mean eigenvalues?" in ran.err


def test_no_record_and_too_many_are_refused(shown):
    for records in ([], shown * 10):
        with pytest.raises(InputError, match=f"not {len(records)}"):
            draw("eigenvalues", records)


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_planes_are_filled_lines_or_surfaces_at_even_levels(shown, scale):
    row = shown[0].row("slices_2d")
    norm = levels_of([row], scale)
    for kind, filled in (("filled", True), ("contour", False)):
        axes = axes_of()
        draw_plane(axes, row, norm, kind, levels=7, path=False, labels=False)
        (contours,) = (each for each in axes.collections if isinstance(each, QuadContourSet))
        assert contours.filled is filled
        between = np.diff(np.log(contours.levels) if scale == "log" else contours.levels)
        assert len(between) == 6
        np.testing.assert_allclose(between, between[0])
    axes = axes_of(subplot_kw={"projection": "3d"})
    draw_plane(axes, row, norm, "surface")
    assert not [each for each in axes.collections if isinstance(each, QuadContourSet)]
    assert [each for each in axes.collections if isinstance(each, Poly3DCollection)]


def test_the_colour_bar_has_numbers_of_its_scale(shown):
    with styled("paper"):
        figure = draw("slices-2d", shown)
        figure.canvas.draw()
    (bar,) = (axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    texts = [text.get_text() for text in bar.get_yticklabels() if text.get_text()]
    assert len(texts) >= 2
    np.testing.assert_allclose([float(text) for text in texts], bar.get_yticks()[: len(texts)], rtol=5e-3)


def test_the_threshold_of_stability_is_drawn(shown):
    row = shown[0].row("dynamics")
    for name in ("stability_ratio", "entropy"):
        axes = draw_quantity(axes_of(), row, name)
        at_one = [each for each in axes.lines if list(each.get_xdata()) == [0, 1] and list(each.get_ydata()) == [1, 1]]
        assert len(at_one) == (name == "stability_ratio")


def test_a_checkpoint_at_the_edge_of_a_plane_is_within(shown):
    row = shown[0].row("slices_2d").copy(deep=True)
    (left, right), (low, high) = row.first.values[[0, -1]], row.second.values[[0, -1]]
    places = [(left, low), (right, high), (left, high), (right, low)]
    count = row.sizes["run"]
    x, y = np.array([places[index % 4] for index in range(count)]).T
    row["path_first"], row["path_second"] = ("run", x), ("run", y)
    assert "beyond" not in path_caption(row)
    row["path_first"] = ("run", np.where(np.arange(count) == 0, np.nextafter(left, -np.inf), x))
    assert f"1 of {count} beyond its ends" in path_caption(row)


def test_the_entropy_has_one_axis_of_effective_ranks(shown):
    axes = axes_of()
    for record in shown:
        draw_quantity(axes, record.row("dynamics"), "entropy", record.label)
    assert [each.get_ylabel() for each in axes.child_axes] == ["effective rank"]
