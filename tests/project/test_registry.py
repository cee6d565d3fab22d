"""Measurements, matrices and figures: each is declared in one place and documented, and other packages can add some."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields

import h5py
import pytest

import landscape
from landscape.cli import options
from landscape.curvature import kinds
from landscape.figures import PAGES
from landscape.live import named
from landscape.measurements import BUILT_IN, registered
from tests.conftest import ROOT

EXAMPLE = ROOT / "tests" / "support" / "example_package"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORD = (ROOT / "docs" / "record.md").read_text(encoding="utf-8")


def run(*arguments: str, folder: os.PathLike[str], module: str = "landscape") -> subprocess.CompletedProcess[str]:
    """Run the command in a process that finds the example package."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLE}"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


# ---------------------------------------------------------------------- declared and documented


@pytest.mark.parametrize("measurement", BUILT_IN, ids=lambda each: each.__name__)
def test_every_measurement_is_documented(measurement):
    if measurement.flag is not None:
        assert f"{measurement.flag.option}" in README or any(name in README for name in measurement.flag.names)
    group = getattr(measurement, "group", None) or getattr(measurement, "name", None)
    if isinstance(group, str):
        assert f"`{group}`" in RECORD, f"docs/record.md says nothing of {group}"
    for figure in measurement.figures:
        assert figure in PAGES
    assert getattr(landscape, measurement.__name__) is measurement


def test_every_figure_is_of_a_measurement_or_a_watch():
    drawn = {figure for measurement in BUILT_IN for figure in measurement.figures}
    assert drawn | {"summary", "timeline"} == set(PAGES)


@pytest.mark.parametrize("name", named.OWN)
def test_every_instrument_is_documented(name):
    page = (ROOT / "docs" / "watch.md").read_text(encoding="utf-8")
    groups = set(named.OWN[name]().settings)
    assert f"| `{name}` |" in page
    assert all(f"`{group}`" in page and f"`{group}`" in RECORD for group in groups)


@pytest.mark.parametrize("name", kinds.BUILT_IN)
def test_every_matrix_is_documented(name):
    assert f"`{name}`" in README or f"--matrix {name}" in README or name in README


def test_every_setting_of_a_measurement_is_an_option_or_is_settled():
    """A setting without an option is decided when a measurement is resolved, or by the command itself."""
    resolved = {"matrix", "digests", "terms", "leading", "shares", "data_sha256"}
    names = {each.name for each in options.parameters()}
    for measurement in BUILT_IN:
        of_flag = {measurement.flag.sets} if measurement.flag is not None else set()
        assert set(measurement.setting_names()) <= names | resolved | of_flag, measurement


def test_defaults_of_the_command_are_those_of_the_measurements():
    """The only exception is the number of eigenpairs of a loop, which is smaller in Python."""
    given = options.defaults()
    for measurement in BUILT_IN:
        for each in fields(measurement):
            default = given.get(each.name)
            if default is not None and each.name != "k":
                assert each.default == default, (measurement, each.name)


def test_no_public_name_is_a_submodule():
    """The import of a submodule would overwrite a function of its name."""
    for path in (ROOT / "landscape").rglob("__init__.py"):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        modules = {
            each.stem for each in path.parent.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists()
        }
        public = getattr(__import__(package, fromlist=["__all__"]), "__all__", [])
        own_packages = {"slices", "sampling", "dynamics", "valley", "live"}  # which `landscape` offers as what they are
        assert not (set(public) & modules) - own_packages, package


# ---------------------------------------------------------------------- of other packages


def test_another_package_adds_a_measurement_a_matrix_and_a_figure(tiny, command):
    helped = run("--help", folder=tiny.folder)
    assert "--weight-norm" in helped.stdout
    assert "See example-package." in helped.stdout
    made = run(
        "a.pt", "--weight-norm", "--eigenpairs", "-k", "1", "--matrix", "twice", "-o", "x.h5", folder=tiny.folder
    )
    assert made.returncode == 0, made.stderr
    assert "norm of the parameters: " in made.stdout
    assert "twice the Hessian: 1 eigenvalue" in made.stdout
    assert command("a.pt", "--hessian", "-k", "1", "-o", "y.h5").status == 0
    with h5py.File(tiny.folder / "x.h5") as twice, h5py.File(tiny.folder / "y.h5") as once:
        assert float(twice["weight_norm/norm"][0]) > 0
        values = [float(file[f"{group}/eigenvalues"][0, 0]) for file, group in
                  ((twice, "eigenpairs_twice"), (once, "eigenpairs"))]  # fmt: skip
        assert values[0] == pytest.approx(2 * values[1], rel=1e-4)
    drawn = run("x.h5", "--figure", "weight-norm", "--format", "png", folder=tiny.folder, module="landscape.cli.plot")
    assert drawn.returncode == 0, drawn.stderr
    assert (tiny.folder / "x-weight-norm.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--broken",), "broken of example-package can't be loaded: ModuleNotFoundError"),
        (("--wrong",), "wrong of example-package is example_package:TWICE, which isn't of landscape.measurements"),
    ],
)
def test_what_another_package_has_wrong_is_one_line(tiny, arguments, message):
    ran = run("a.pt", *arguments, folder=tiny.folder)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_nothing_of_another_package_is_imported_unasked():
    script = (
        "import sys; from landscape.cli.probe import main; main(['--help']); "
        "print([name for name in ('torch', 'matplotlib', 'xarray', 'example_package') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLE}"}
    out = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert out.splitlines()[-1] == "[]"


def test_unknown_names_are_passed_over():
    assert registered(["nothing"]) == list(BUILT_IN)


# ---------------------------------------------------------------------- old names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (lambda: landscape.Trace(tol=0.1), landscape.Trace(tol_estimate=0.1)),
        (lambda: landscape.LogDet(1.0, tol=0.1), landscape.LogDet(1.0, tol_estimate=0.1)),
        (lambda: landscape.Layers(tol_trace=0.1), landscape.Layers(tol_estimate=0.1)),
        (lambda: landscape.Loops(module="block"), landscape.Loops(loop_module="block")),
    ],
)
def test_old_settings_work_and_warn(old, new):
    with pytest.warns(FutureWarning, match=r"is called .* now; version .* removes the old name"):
        assert old() == new


def test_an_old_option_works_and_warns(tiny, command):
    old = command("a.pt", "--trace", "--tol-trace", "0.3", "-o", "old.h5")
    assert old.status == 0
    assert "--tol-trace is called --tol-estimate now; version 0.3 removes the old name" in old.err
    new = command("a.pt", "--trace", "--tol-estimate=0.3", "-o", "old.h5")
    assert (new.status, new.err) == (0, "")
    assert "nothing new" in new.out or "Record: old.h5" in new.out
