"""Groups of runs: scalars of records, what is left out, pairs of runs, and the figure."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy import stats

from landscape import InputError, compare_groups
from landscape.figures import FigureStyle, RecordView, draw_groups, styled
from landscape.measurements import variable
from landscape.record import RecordWriter, Request
from tests.figures.test_letters import faults
from tests.figures.test_limits import outside

STEPS = (0, 10, 20, 30)


def write(path, values, steps=STEPS, converged=None, common=None, settings=None, eigenvalues=False):
    """A record of the loss, and of a trace (and eigenvalues) with its goal, at each step of checkpoints of its own."""
    shas = [hashlib.sha256(f"{path}{step}{place}".encode()).hexdigest() for place, step in enumerate(steps)]
    request = Request.every(
        {"loss": {}, "trace": settings or {"probes": 3}} | ({"eigenpairs": {"which": "LM"}} if eigenvalues else {}),
        shas,
        {"data_sha256": "a", "dtype": "float32"} | (common or {}),
    )
    good = [True] * len(steps) if converged is None else converged
    with RecordWriter(path, request) as writer:
        for sha, step, value, reached in zip(shas, steps, values, good, strict=True):
            told = {"checkpoint": {"path": "x.pt", "sha256": sha, "step": step}, "command": "x", "versions": {}}
            rows = {
                "loss": {
                    "loss": variable((), value, "mean loss", "loss"),
                    "standard_error": variable((), 0.1, "its error", "loss"),
                    "samples": variable((), 64, "samples"),
                },
                "trace": {
                    "trace": variable((), 10 * value, "trace", "loss / parameter^2"),
                    "converged": variable((), reached, "goal reached"),
                },
                "eigenpairs": {
                    "eigenvalues": variable("index", [-9 * value, 4 * value], "eigenvalue", "loss / parameter^2"),
                    "converged": variable("index", [False, reached], "goal reached"),
                },
            }
            for name in request.settings:
                writer.add(name, xr.Dataset(rows[name]), told)
    return path


@pytest.fixture(autouse=True)
def _nothing_is_flushed_to_disk(monkeypatch):
    """A record is put on disk after every unit; these tests need no such care, and the wait is long."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Values (group, run, step) of two groups of three runs, and the folder of their records."""
    folder = tmp_path_factory.mktemp("groups")
    rng = np.random.default_rng(1)
    values = 25 + rng.normal(0, 1, (2, 3, len(STEPS))) + 3 * rng.normal(0, 1, (1, 3, len(STEPS)))
    values[1, :, 2:] += 20
    for name, own in zip("ab", values, strict=True):
        for seed, each in enumerate(own):
            write(folder / f"{name}-{seed}.landscape.h5", each)
    return values, folder


@pytest.fixture
def runs(written, tmp_path):
    """The values of `written`, whose records are copied to the test's folder."""
    values, folder = written
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return values


def patterns(folder: Path, *names: str) -> dict[str, str]:
    return {name: str(folder / f"{name}-*.h5") for name in names}


def test_means_and_differences_are_those_of_scipy(runs, tmp_path):
    found = compare_groups(patterns(tmp_path, "a", "b"), ["loss/loss", "trace/trace"])
    data = found.data.sel(scalar="loss/loss")
    np.testing.assert_allclose(data["mean"], runs.mean(axis=1))
    interval = stats.ttest_1samp(runs[0], 0).confidence_interval()
    np.testing.assert_allclose(data.mean_interval.sel(group="a"), np.stack(interval, axis=-1))
    assert bool(data.paired.all())
    expected = stats.ttest_rel(runs[0], runs[1])
    np.testing.assert_allclose(data.p_value[0], expected.pvalue)
    np.testing.assert_allclose(data.difference_interval[0], np.stack(expected.confidence_interval(), axis=-1))
    assert found.comparisons == 2 * len(STEPS)
    bonferroni = expected.confidence_interval(1 - 0.05 / 8)
    np.testing.assert_allclose(data.simultaneous_interval[0], np.stack(bonferroni, axis=-1))
    np.testing.assert_allclose(found.data.p_adjusted.min(), 8 * found.data.p_value.min())
    assert found.data.difference.dims == ("pair", "scalar", "step")
    assert found.data.pair.values.tolist() == ["a - b"]
    assert any("paired by the seeds 0, 1, 2" in line for line in found.notes)
    assert "8 comparisons are corrected together (Holm): 2 scalars, 4 steps, 1 pair of groups" in str(found)


def test_runs_without_common_seeds_are_compared_by_welch(runs, tmp_path):
    write(tmp_path / "b-9.landscape.h5", [5.0, 6.0, 7.0, 8.0])
    found = compare_groups(patterns(tmp_path, "a", "b"), "loss/loss")
    other = np.concatenate([runs[1], [[5.0, 6.0, 7.0, 8.0]]])
    expected = stats.ttest_ind(runs[0], other, equal_var=False)
    np.testing.assert_allclose(found.data.p_value[0, 0], expected.pvalue)
    assert not found.data.paired.any()
    assert "not paired (Welch), because seeds of one group alone: 9" in str(found)
    with pytest.raises(InputError, match="can't be paired: seeds of one group alone: 9"):
        compare_groups(patterns(tmp_path, "a", "b"), paired=True)


def test_pairs_can_be_refused(runs, tmp_path):
    found = compare_groups(patterns(tmp_path, "a", "b"), "loss/loss", paired=False)
    expected = stats.ttest_ind(runs[0], runs[1], equal_var=False)
    np.testing.assert_allclose(found.data.p_value[0, 0], expected.pvalue)


@pytest.mark.parametrize(
    ("names", "paired"),
    [
        (("a-seed1-lr0.1.h5", "a-seed2-lr0.1.h5"), True),
        (("a-lr0.1.h5", "a2-lr0.1.h5"), False),  # both names end in one number
        (("a-first.h5", "a-last.h5"), False),
        (("a-02.landscape.h5", "a-1.landscape.h5"), True),  # sorted otherwise than the other group
    ],
)
def test_pairs_are_made_by_the_seeds_in_names(tmp_path, names, paired):
    for place, name in enumerate(names, 1):
        write(tmp_path / name, [10.0 * place + step for step in range(4)])
    for seed in (1, 2):
        write(tmp_path / f"z-{seed}.h5", [20.0 + seed, 1.0, 2.0, 3.0])
    found = compare_groups({"a": [tmp_path / name for name in names], "z": str(tmp_path / "z-*.h5")}, "loss/loss")
    assert bool(found.data.paired.all()) is paired
    if names[0].startswith("a-02"):  # 10 - 22 and 20 - 21
        expected = stats.ttest_rel([10, 20], [22, 21])
        assert float(found.data.p_value[0, 0, 0]) == pytest.approx(expected.pvalue)


def test_values_that_are_not_numbers_or_did_not_converge_are_left_out_and_counted(runs, tmp_path):
    values = runs[0, 0].copy()
    values[1] = np.nan
    write(tmp_path / "c-0.h5", values, converged=[True, True, False, True], eigenvalues=True)
    write(tmp_path / "c-1.h5", runs[0, 1], eigenvalues=True)
    write(tmp_path / "c-2.h5", runs[0, 2], eigenvalues=True)
    found = compare_groups(patterns(tmp_path, "c"), ["loss/*", "trace/*", "*/largest"])
    assert found.data.scalar.values.tolist() == ["loss/loss", "loss/samples", "loss/standard_error", "trace/trace",
                                                 "eigenpairs/largest"]  # fmt: skip
    loss, trace, largest = (found.data.sel(scalar=name, group="c") for name in
                            ("loss/loss", "trace/trace", "eigenpairs/largest"))  # fmt: skip
    np.testing.assert_array_equal(loss.runs, [3, 2, 3, 3])
    np.testing.assert_array_equal(loss.not_finite, [0, 1, 0, 0])
    for each in (trace, largest):
        np.testing.assert_array_equal(each.runs, [3, 2, 2, 3])
        np.testing.assert_array_equal(each.not_converged, [0, 0, 1, 0])
    assert float(loss["mean"][1]) == pytest.approx(runs[0, 1:3, 1].mean())
    np.testing.assert_allclose(largest["mean"][0], 4 * runs[0, :3, 0].mean())
    assert "c: left out of 60 values: 3 not finite, 2 not converged" in str(found)
    assert found.comparisons == 0
    assert found.data.sizes["pair"] == 0


def test_of_eigenvalues_of_largest_magnitude_none_of_which_is_positive_the_largest_is_not_known(tmp_path):
    write(tmp_path / "a-0.h5", [1.0, -1.0, 1.0, 1.0], eigenvalues=True)  # the second row's are 9 and -4
    write(tmp_path / "n-0.h5", [0.0, 1.0, 1.0, 1.0], eigenvalues=True)  # the first row's are both 0
    found = compare_groups(patterns(tmp_path, "a", "n"), "eigenpairs/largest").data
    np.testing.assert_array_equal(found.value[:, 0, 0], [4, np.nan])
    assert int(found.not_converged.sel(group="a")[0, 1]) == 1  # 9, whose pair did not converge


def test_runs_are_compared_at_common_steps_alone(runs, tmp_path):
    write(tmp_path / "c-0.h5", [1.0, 2.0, 3.0], steps=(0, 10, 15))
    write(tmp_path / "d-0.h5", [1.0, 2.0, 3.0, 4.0], steps=(0, 10, 20, 20))
    found = compare_groups(patterns(tmp_path, "a", "c"), "loss/loss")
    assert found.data.step.values.tolist() == [0, 10]
    assert "left out of loss/loss: steps 15, 20, 30, which not every record has exactly once" in found.notes
    assert compare_groups(patterns(tmp_path, "a", "d"), "loss/loss").data.step.values.tolist() == [0, 10]
    write(tmp_path / "e-0.h5", [1.0], steps=(7,))
    with pytest.raises(InputError, match=r"no step of loss/loss is in all records"):
        compare_groups(patterns(tmp_path, "a", "e"), "loss/loss")


def test_one_run_has_no_band_and_no_test(runs, tmp_path):
    found = compare_groups({"a": str(tmp_path / "a-0*.h5"), "b": str(tmp_path / "b-1*.h5")}, "loss/loss")
    assert np.isnan(found.data.mean_interval).all()
    np.testing.assert_allclose(found.data.difference[0, 0], runs[0, 0] - runs[1, 1])
    assert found.comparisons == 0
    assert "no test" in str(found)


def test_all_scalars_are_numbers_and_not_their_errors_or_counts(runs, tmp_path):
    found = compare_groups(patterns(tmp_path, "a"))
    assert found.data.scalar.values.tolist() == ["loss/loss", "trace/trace"]
    found = compare_groups(patterns(tmp_path, "a"), "main")
    assert found.data.scalar.values.tolist() == ["loss/loss", "trace/trace"]


def test_data_and_settings_that_differ_are_notes(runs, tmp_path):
    write(tmp_path / "c-0.h5", runs[0, 0], common={"data_sha256": "b"}, settings={"probes": 9})
    notes = compare_groups(patterns(tmp_path, "a", "c")).notes
    assert "other data than in a-0.landscape.h5: c-0.h5" in notes
    assert "other settings of trace than in a-0.landscape.h5: c-0.h5" in notes
    assert not any("loss than" in note for note in notes)


def test_scalars_of_measured_records(records):
    found = compare_groups({"one": records[0], "two": records[1]})
    names = found.data.scalar.values.tolist()
    for name in ("loss/loss", "loss/gradient_norm", "eigenpairs/largest", "spectrum/largest", "spectrum/trace",
                 "stability/ratio", "critical_sharpness/sharpness"):  # fmt: skip
        assert name in names
    for name in (
        "loss/standard_error",
        "loss/samples",
        "stability/eigenvalue_error",
        "critical_sharpness/sharpness_standard_error",
    ):
        assert name not in names
    largest = found.data.value.sel(scalar="spectrum/largest", run=0)
    spectrum = RecordView.read(records[0]).series("spectrum").set_index(checkpoint="step")
    for step in found.data.step.values[:10]:
        assert float(largest.sel(step=step)) == float(spectrum.eigenvalues.sel(checkpoint=step).max())


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        ({}, "no group given"),
        ({"a": "{0}/nothing-*.h5"}, "nothing-*.h5 of the group a: this pattern matches no file"),
        ({"a": "{0}/nothing.h5"}, "nothing.h5 of the group a: this file is not there"),
        ({"a": "{0}/a-*.h5", "b": "{0}/*-0.*"}, "a-0.landscape.h5 is in the groups a and b"),
        ({"a": ["{0}/a-*.h5", "{0}/a-0*.h5"]}, "a-0.landscape.h5 is twice in a"),
        ({"a": []}, "the group a has no record"),
        ({" ": "{0}/a-*.h5"}, "a group needs a name"),
        ({"a": "{0}/text.txt"}, "text.txt"),
    ],
)
def test_refused_in_one_line(runs, tmp_path, groups, line):
    (tmp_path / "text.txt").write_text("no record")

    def placed(each):
        return [text.format(tmp_path) for text in each] if isinstance(each, list) else each.format(tmp_path)

    with pytest.raises(InputError) as error:
        compare_groups({name: placed(each) for name, each in groups.items()})
    assert line in str(error.value)


def test_two_records_of_one_training_are_not_two_runs(runs, tmp_path):
    content = (tmp_path / "a-0.landscape.h5").read_bytes()
    (tmp_path / "a-7.landscape.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"a-0.* and .*a-7.* of the group a are of the same checkpoints"):
        compare_groups(patterns(tmp_path, "a"))
    (tmp_path / "a-7.landscape.h5").rename(tmp_path / "c-0.landscape.h5")  # two measurements of one run, in pairs
    compare_groups(patterns(tmp_path, "a", "c"))


def test_a_scalar_that_is_not_in_all_records_is_refused(runs, tmp_path):
    with pytest.raises(InputError, match=r"a-0.landscape.h5 has no scalar density/\*; all records have"):
        compare_groups(patterns(tmp_path, "a"), "density/*")


# ---------------------------------------------------------------------- the figure


@pytest.fixture(scope="module")
def compared(written):
    """Comparisons of two groups, of one group, and of a single run, with three panels each."""
    folder = written[1]
    groups = (patterns(folder, "a", "b"), patterns(folder, "a"), {"a": folder / "a-0.landscape.h5"})
    return [compare_groups(each, ["loss/loss", "loss/standard_error", "trace/trace"]) for each in groups]


@pytest.mark.parametrize("width", [3.25, 6.9])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_figure_can_be_read_and_holds_all_that_is_drawn(compared, monkeypatch, width, which):
    with styled("paper"):
        figure = draw_groups(compared[which], FigureStyle(width=width))
        assert faults(figure, monkeypatch) == []
    assert len(figure.axes) == 3
    assert not [artist for axes in figure.axes for artist in outside(axes)]


def test_the_figure_draws_the_stored_values(runs, tmp_path):
    found = compare_groups(patterns(tmp_path, "a", "b"), "loss/loss")
    with styled("paper"):
        (axes,) = draw_groups(found).axes
    lines = [line.get_ydata() for line in axes.lines]
    for place in range(2):
        assert any(np.allclose(each, runs[place].mean(axis=0)) for each in lines if len(each) == len(STEPS))
        for own in runs[place]:
            assert any(np.allclose(each, own) for each in lines if len(each) == len(STEPS))
    differ = (found.data.p_adjusted.values[0, 0] <= 0.05).sum()
    assert 0 < differ < len(STEPS)
    assert len(next(line for line in axes.lines if line.get_marker() == "s").get_xdata()) == differ
    assert axes.get_legend_handles_labels()[1] == ["a (3 runs)", "b (3 runs)"]


def test_more_groups_than_colours_are_refused(runs, tmp_path):
    found = compare_groups(patterns(tmp_path, "a"), "loss/loss")
    many = replace(found, data=found.data.isel(group=[0] * 8))
    with pytest.raises(InputError, match="1 to 7 groups"):
        draw_groups(many)


# ---------------------------------------------------------------------- the command


@pytest.fixture
def plot(runs, plot):
    return plot


def test_the_command_draws_groups_and_prints_their_differences(plot, tmp_path):
    ran = plot("--group", "first=a-*.h5", "--group", "second model=b-*.h5", "--format", "png")
    assert (ran.status, ran.err) == (0, "")
    name, *lines = ran.out.splitlines()
    assert name == "first-vs-second-model-groups.png"
    comparison = compare_groups({"first": "a-*.h5", "second model": "b-*.h5"}, "main")
    assert lines == comparison.summary
    identity = json.loads(Image.open(tmp_path / name).text["Description"])
    assert [each["group"] for each in identity] == ["first", "second model"]
    assert [each["record"] for each in identity[0]["records"]] == [f"a-{seed}.landscape.h5" for seed in range(3)]
    assert plot("--group", "a=a-*.h5", "--scalar", "trace/*", "--figure", "groups", "-o", "x.svg").status == 0
    assert (tmp_path / "x.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--group", "a"], "--group a: give a name and a pattern"),
        (["--group", "=a-*.h5"], "--group =a-*.h5: give a name and a pattern"),
        (["--group", "a=a-*.h5", "--group", "a=b-*.h5"], "--group a is given twice"),
        (["--group", "a=x-*.h5"], "x-*.h5 of the group a: this pattern matches no file"),
        (["--group", "a=a-*.h5", "--group", "b=*-0.*"], "a-0.landscape.h5 is in the groups a and b"),
        (["--group", "a=a-*.h5", "--scalar", "density/*"], "has no scalar density/*"),
        (["a-0.landscape.h5", "--group", "a=a-*.h5"], "--group is not combined with records"),
        (["--group", "a=a-*.h5", "--label", "x", "--step", "1"], "--group is not combined with --label, --step"),
        (["--group", "a=a-*.h5", "--figure", "summary"], "--group draws the figure groups alone, not summary"),
        (["a-0.landscape.h5", "--figure", "groups"], "the figure groups needs groups of runs: give --group"),
        (["a-0.landscape.h5", "--scalar", "loss/loss"], "the figure groups needs groups of runs: give --group"),
    ],
)
def test_the_command_refuses_in_one_line_with_nothing_written(plot, tmp_path, arguments, line):
    before = sorted(tmp_path.rglob("*"))
    ran = plot(*arguments)
    assert (ran.status, ran.err.count("\n"), ran.out) == (2, 1, "")
    assert line in ran.err
    assert sorted(tmp_path.rglob("*")) == before
