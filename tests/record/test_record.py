"""The record: every rule of docs/record.md, and the state that a run leaves when it ends at any moment."""

from __future__ import annotations

import doctest
import errno
import fcntl
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landscape.errors import InputError
from landscape.record import RecordWriter, Request, join_records, open_record, read_provenance, read_request
from landscape.record.hdf5 import RowPlace, is_scale
from landscape.record.heaps import has_endless_heap
from landscape.record.merge import blocks, merge, write_unit
from landscape.record.read import read_row
from landscape.record.request import to_json
from landscape.record.schema import unit_of
from tests.conftest import ROOT

SHA = [digit * 64 for digit in "0123456789abcdef"]
HESSIAN = {"k": 3, "which": "LM", "tol": 1e-3}
COMMON = {"problem": "markov", "dtype": "float32", "data": {"sha256": "d" * 64}}
ATTRS = {"units": "1", "long_name": "something measured"}


def make_request(
    hessian: dict | None = None, shas: list[str] = SHA[:3], common: dict = COMMON, **more: dict
) -> Request:
    return Request.every({"eigenpairs": hessian or HESSIAN} | more, shas, common)


def hessian(number: int, k: int = 3) -> xr.Dataset:
    """A unit of the usual shape whose values identify it."""
    return xr.Dataset(
        {
            "eigenvalues": ("index", number + np.arange(k, dtype=float)[::-1], ATTRS),
            "eigenvectors": (("index", "parameter"), np.full((k, 7), number, np.float32), ATTRS),
            "converged": ("index", np.arange(k) % 2 == 0, ATTRS),
            "products": ((), np.int64(10 * number), ATTRS),
        },
        coords={"index": ("index", np.arange(k), ATTRS)},
    )


def loss(number: int) -> xr.Dataset:
    return xr.Dataset({"loss": ((), number + 0.5, ATTRS)})


def provenance(number: int, **more: Any) -> dict[str, Any]:
    checkpoint = {"path": f"runs/step_{number}.pt", "sha256": SHA[number], "step": 100 * number if number else None}
    return {
        "command": "landscape-probe --hessian",
        "seed": 0,
        "versions": {"torch": "2.13"},
        "checkpoint": checkpoint,
    } | more


def write(path: Path, request: Request, **options: bool) -> Path:
    """A whole run, which measures the requested units that aren't done."""
    makers = {"eigenpairs": hessian, "loss": loss}
    with RecordWriter(path, request, **options) as writer:
        for measurement, sha in request.units:
            if not writer.finished and not writer.done(measurement, sha):
                writer.add(measurement, makers[measurement](SHA.index(sha)), provenance(SHA.index(sha)))
    assert writer.finished
    return path


def content(path: Path) -> xr.DataTree:
    """The content of a record without the time of writing."""
    with open_record(path) as tree:
        loaded = tree.load()
    del loaded.attrs["created"]
    return loaded


def assert_same(a: xr.DataTree, b: xr.DataTree) -> None:
    xr.testing.assert_identical(a, b)


def refused(call: Any, *words: str) -> str:
    """Assert that a call raises an InputError of one line with these words."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


# The content of the file


def test_a_record_opens_with_h5py_alone(out: Path) -> None:
    write(out, make_request(loss={"on": "all"}))
    with h5py.File(out) as file:
        assert file["eigenpairs/converged"][:].dtype == bool
        np.testing.assert_array_equal(file["eigenpairs/converged"][1], [True, False, True])
        assert file["eigenpairs/eigenvalues"].dtype == np.float64
        assert file["eigenpairs/eigenvectors"].dtype == np.float32
        np.testing.assert_array_equal(file["eigenpairs/eigenvalues"][:], np.arange(3)[:, None] + [2, 1, 0])
        np.testing.assert_array_equal(file["eigenpairs/products"][:], [0, 10, 20])
        np.testing.assert_array_equal(file["eigenpairs/step"][:], [-1, 100, 200])
        assert "-1 if unknown" in file["eigenpairs/step"].attrs["long_name"]
        assert list(file["loss/path"].asstr()[:]) == [f"runs/step_{number}.pt" for number in range(3)]
        assert list(file["loss/sha256"].asstr()[:]) == SHA[:3]
        assert file.attrs["format"] == "landscape-record"
        assert file.attrs["schema_version"] == 2
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", file.attrs["created"])
        assert json.loads(file.attrs["request"])["measurements"]["eigenpairs"]["settings"] == HESSIAN


def test_every_variable_has_scales_labels_units_and_a_long_name(out: Path) -> None:
    write(out, make_request(loss={}))
    with h5py.File(out) as file:
        assert not any(isinstance(each, h5py.Dataset) for each in file.values())
        for group in file.values():
            for data in group.values():
                if data.name.endswith("/parameter"):
                    continue  # a dimension without a coordinate
                assert {"units", "long_name"} <= set(data.attrs)
                if not is_scale(data):
                    assert data.dims[0].label == "checkpoint"
                    assert all(dim[0] == group[dim.label] for dim in data.dims)


def test_a_dimension_without_coordinate_costs_no_space(out: Path) -> None:
    write(out, make_request())
    with h5py.File(out) as file:
        assert file["eigenpairs/parameter"].shape == (7,)
        assert file["eigenpairs/parameter"].id.get_storage_size() == 0


def test_xarray_opens_groups_of_different_length_without_this_package(out: Path) -> None:
    write(out, make_request(shas=SHA[:3]))
    write(out, Request.every({"loss": {}}, SHA[:5], COMMON))
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        assert tree["eigenpairs"].sizes == {"checkpoint": 3, "index": 3, "parameter": 7}
        assert tree["loss"].sizes == {"checkpoint": 5}
        assert "checkpoint" not in tree.sizes
        assert tree["eigenpairs/converged"].dtype == bool
        np.testing.assert_array_equal(tree["loss/loss"], np.arange(5) + 0.5)
        assert tree["eigenpairs/eigenvalues"].sel(checkpoint=2, index=0) == 4.0


def test_what_open_record_gives_can_be_saved_as_netcdf(out: Path, tmp_path: Path) -> None:
    write(out, make_request())
    with open_record(out) as tree:
        tree["eigenpairs"].to_dataset().to_netcdf(tmp_path / "saved.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "saved.nc", engine="h5netcdf") as saved:
            xr.testing.assert_identical(saved.load(), tree["eigenpairs"].to_dataset().load())


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
def test_h5dump_prints_a_record(out: Path) -> None:
    write(out, make_request())
    run = subprocess.run(["h5dump", "-d", "/eigenpairs/eigenvalues", out], capture_output=True, text=True, check=True)
    assert "(2,0): 4, 3, 2" in run.stdout
    assert '"/eigenpairs/checkpoint"' in run.stdout
    assert subprocess.run(["h5dump", out], capture_output=True, check=True).stderr == b""


def test_what_all_rows_share_is_an_attribute_of_the_group(out: Path) -> None:
    more = {"amp": True, "none": None, "big": 2**70, "tol": 0.5, "name": "caf\u00e9 \udcff", "empty": ""}
    with RecordWriter(out, make_request(shas=SHA[:2])) as writer:
        for number in range(2):
            writer.add("eigenpairs", hessian(number), provenance(number, device=f"cuda:{number}", **more))
    attrs = content(out)["eigenpairs"].attrs
    assert attrs == {
        "command": "landscape-probe --hessian",
        "seed": 0,
        "versions": '{"torch":"2.13"}',
        "amp": "true",
        "none": "null",
        "big": str(2**70),
        "tol": 0.5,
        "name": "caf\u00e9 \\udcff",
        "empty": "",
    }
    with open_record(out) as tree:
        assert read_provenance(tree, "eigenpairs", 1) == provenance(1, device="cuda:1", **more)


def test_rows_follow_the_request_not_the_order_of_measuring(tmp_path: Path) -> None:
    contents = []
    for order in ([0, 1, 2], [2, 0, 1]):
        path = tmp_path / f"{order[0]}.h5"
        with RecordWriter(path, make_request()) as writer:
            for number in order:
                writer.add("eigenpairs", hessian(number), provenance(number))
        contents.append(content(path))
    assert_same(*contents)
    np.testing.assert_array_equal(contents[0]["eigenpairs/checkpoint"], [0, 1, 2])


def test_shorter_rows_are_padded_and_tell_their_length(out: Path) -> None:
    text = xr.Variable("index", ["é", "b", "c", "d"], ATTRS)
    small = xr.Variable("index", np.arange(4, dtype=np.uint8), ATTRS)
    with RecordWriter(out, make_request()) as writer:
        for number, k in enumerate((2, 4, 0)):
            more = {"text": text[:k], "small": small[:k], "place": small[:k].astype(np.int32)}
            writer.add("eigenpairs", hessian(number, k).assign(more), provenance(number))
    group = content(out)["eigenpairs"]
    np.testing.assert_array_equal(group["eigenvalues"], [[1, 0, np.nan, np.nan], [4, 3, 2, 1], [np.nan] * 4])
    np.testing.assert_array_equal(group["text"], [["é", "b", "", ""], ["é", "b", "c", "d"], [""] * 4])
    np.testing.assert_array_equal(group["small"], [[0, 1, 255, 255], [0, 1, 2, 3], [255] * 4])
    np.testing.assert_array_equal(group["place"], [[0, 1, -1, -1], [0, 1, 2, 3], [-1] * 4])
    np.testing.assert_array_equal(group["converged"][0], [True, False, False, False])
    assert np.isnan(group["eigenvectors"][0, 2:]).all()
    assert (group["eigenvectors"][0, :2] == 0).all()
    np.testing.assert_array_equal(group["index_length"], [2, 4, 0])
    assert "parameter_length" not in group
    np.testing.assert_array_equal(group["index"], np.arange(4))
    assert group["place"].dtype == np.int32
    assert group["small"].dtype == np.uint8


def test_lengths_survive_an_append(out: Path) -> None:
    for number, k in enumerate((2, 3, 5)):
        with RecordWriter(out, make_request(shas=[SHA[number]])) as writer:
            writer.add("eigenpairs", hessian(number, k), provenance(number))
    np.testing.assert_array_equal(content(out)["eigenpairs/index_length"], [2, 3, 5])
    np.testing.assert_array_equal(content(out)["eigenpairs/eigenvalues"][0], [1, 0, np.nan, np.nan, np.nan])


def test_a_request_and_a_provenance_larger_than_a_compact_attribute(out: Path) -> None:
    # HDF5 keeps attributes of up to 64 KiB in the object's header.
    shas = [f"{number:064x}" for number in range(3000)]
    request = Request.every({"loss": {}}, shas[:1], {"long": shas})
    told = {"long": shas, "checkpoint": {"path": "a.pt", "sha256": shas[0], "step": None}}
    with RecordWriter(out, request) as writer:
        writer.add("loss", loss(0), told)
    assert read_request(out).fingerprint == request.fingerprint
    with open_record(out) as tree:
        assert read_provenance(tree, "loss", 0) == told
        assert json.loads(tree["loss"].attrs["long"]) == shas


DTYPES = [np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, np.float32, np.float64]
# NUL ends a string in C, the language of HDF5. Surrogates are no text.
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=5)


@st.composite
def rows(draw: st.DrawFn) -> list[xr.Dataset]:
    """Units of one measurement over two or three checkpoints, with equal variables of any lengths."""
    dims = draw(st.lists(st.sampled_from(["index", "t", "x"]), unique=True, max_size=3))
    sizes = [{dim: draw(st.integers(0, 3)) for dim in dims} for _ in range(draw(st.integers(2, 3)))]
    variables = {
        f"v{number}": (draw(st.permutations(dims))[: draw(st.integers(0, 3))], draw(st.sampled_from([*DTYPES, str])))
        for number in range(draw(st.integers(1, 3)))
    }
    return [
        xr.Dataset(
            {
                name: (used, draw(values(dtype, [size[dim] for dim in used])), ATTRS)
                for name, (used, dtype) in variables.items()
            }
        )
        for size in sizes
    ]


def values(dtype: Any, shape: list[int]) -> st.SearchStrategy:
    if dtype is str:
        return hnp.arrays(object, tuple(shape), elements=TEXT)
    return hnp.arrays(dtype, tuple(shape))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(units=rows())
def test_any_unit_comes_back_as_it_was(tmp_path: Path, units: list[xr.Dataset]) -> None:
    out = tmp_path / "out.h5"
    out.unlink(missing_ok=True)
    with RecordWriter(out, make_request(shas=SHA[: len(units)])) as writer:
        for number, unit in enumerate(units):
            writer.add("eigenpairs", unit, provenance(number))
    group = content(out)["eigenpairs"]
    for number, unit in enumerate(units):
        for name, variable in unit.variables.items():
            row = group[name].isel(checkpoint=number)
            kept = row.isel({dim: slice(0, size) for dim, size in variable.sizes.items()})
            np.testing.assert_array_equal(kept.values, variable.values)
            assert kept.dims == variable.dims
            assert kept.dtype.kind == "U" if variable.dtype == object else kept.dtype == variable.dtype
        for dim, size in unit.sizes.items():
            assert size == (group[f"{dim}_length"][number] if f"{dim}_length" in group else group.sizes[dim])
        alone = read_row(out, "eigenpairs", number)
        assert alone.sizes == unit.sizes
        for name, variable in unit.variables.items():
            np.testing.assert_array_equal(alone[name].values, variable.values)
            assert (alone[name].dims, alone[name].attrs) == (variable.dims, variable.attrs)
        assert {"path", "sha256", "step", "provenance"} <= alone.variables.keys()


def test_blocks_cover_an_array_once() -> None:
    for shape in [(), (0,), (5,), (3, 0), (2**10, 2**15), (3, 2**25)]:
        seen = [tuple(each.stop - each.start for each in block) for block in blocks(shape, 8)]
        assert sum(int(np.prod(each)) for each in seen) == int(np.prod(shape))
        assert all(8 * np.prod(each) <= 2**26 or each[0] == 1 for each in seen)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory as Linux tells it")
def test_merging_does_not_hold_the_eigenvectors_in_memory(tmp_path: Path) -> None:
    # There are four rows of 128 MiB. A process that held one row would exceed the first peak by more than 128 MiB.
    script = """
import resource, sys
import numpy as np, xarray as xr
from landscape.record import RecordWriter, Request
attrs = {"units": "1", "long_name": "x"}
shas = [digit * 64 for digit in "0123"]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
if sys.argv[1] == "add":
    row = xr.Dataset({"v": (("index", "parameter"), np.ones((128, 2**18), np.float32), attrs)})
writer = RecordWriter("out.h5", Request.every({"eigenpairs": {}}, shas, {}))
before = peak()
for sha in shas if sys.argv[1] == "add" else []:
    writer.add("eigenpairs", row, {"checkpoint": {"path": "", "sha256": sha, "step": 0}})
if sys.argv[1] == "finish":
    writer.finish()
    print(peak() - before)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for step in ("add", "finish"):
        run = subprocess.run(
            [sys.executable, "-c", script, step],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    # One block is 64 MiB. HDF5 and NumPy take the rest.
    assert int(run.stdout) < 110
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["eigenpairs/v"].shape == (4, 128, 2**18)


# A run that ends at any moment


def finish_from(folder: Path, request: Request) -> tuple[xr.DataTree, int]:
    """Finish a run from the existing files; return its content and the number of units that it measured."""
    out, measured = folder / "out.h5", 0
    with RecordWriter(out, request) as writer:
        for measurement, sha in request.units:
            if not writer.finished and not writer.done(measurement, sha):
                number = SHA.index(sha)
                writer.add(measurement, {"eigenpairs": hessian, "loss": loss}[measurement](number), provenance(number))
                measured += 1
    return content(out), measured


def test_every_prefix_opens_and_resumes_to_the_same_content(tmp_path: Path) -> None:
    request = make_request(loss={"on": "all"})
    whole = content(write(tmp_path / "whole.h5", request))
    for count in range(len(request.units) + 1):
        folder = tmp_path / str(count)
        folder.mkdir()
        interrupted(folder / "out.h5", request, count)
        if count:
            for path in (folder / "out.h5", folder / "out.h5.parts"):
                with open_record(path) as tree:
                    assert sum(group.sizes["checkpoint"] for group in tree.children.values()) == count
                assert read_request(path).fingerprint == request.fingerprint
        resumed, measured = finish_from(folder, request)
        assert measured == len(request.units) - count
        assert_same(resumed, whole)
        assert os.listdir(folder) == ["out.h5"]


def interrupted(out: Path, request: Request, count: int = 1, **options: bool) -> Path:
    """A run that ended after ``count`` units; returns the folder of its parts."""
    writer = RecordWriter(out, request, **options)
    for measurement, sha in request.units:
        if count and not writer.done(measurement, sha):
            writer.add(
                measurement,
                {"eigenpairs": hessian, "loss": loss}[measurement](SHA.index(sha)),
                provenance(SHA.index(sha)),
            )
            count -= 1
    return out.with_name(out.name + ".parts")


def test_a_killed_process_costs_one_unit(tmp_path: Path) -> None:
    script = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import h5py
from tests.record import test_record as t
writer = t.RecordWriter("out.h5", t.make_request())
writer.add("eigenpairs", t.hessian(0), t.provenance(0))
make = h5py.Group.create_dataset
def kill(group, name, *args, **kwargs):
    if name == "eigenvalues":
        group.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return make(group, name, *args, **kwargs)
h5py.Group.create_dataset = kill
writer.add("eigenpairs", t.hessian(1), t.provenance(1))
"""
    run = subprocess.run([sys.executable, "-c", script, str(ROOT)], cwd=tmp_path, capture_output=True, check=False)
    assert run.returncode == -9, run.stderr
    assert len(list((tmp_path / "out.h5.parts").glob("*.tmp"))) == 1
    with open_record(tmp_path / "out.h5") as tree:
        np.testing.assert_array_equal(tree["eigenpairs/products"], [0])
    resumed, measured = finish_from(tmp_path, make_request())
    assert measured == 2
    assert_same(resumed, content(write(tmp_path / "whole.h5", make_request())))
    assert sorted(os.listdir(tmp_path)) == ["out.h5", "whole.h5"]


@pytest.mark.parametrize("left", ["nothing", "temporary"])
def test_a_folder_that_was_left_before_its_request_was_written(out: Path, left: str) -> None:
    parts = out.with_name("out.h5.parts")
    parts.mkdir()
    if left == "temporary":
        (parts / "123.tmp").write_text('{"form')
    refused(lambda: open_record(out), "no record")
    write(out, make_request())
    assert os.listdir(out.parent) == ["out.h5"]


def test_parts_left_after_the_rename_are_removed(out: Path, tmp_path: Path) -> None:
    parts = interrupted(out, make_request(), 3)
    shutil.copytree(parts, tmp_path / "copy")
    RecordWriter(out, make_request()).finish()
    shutil.copytree(tmp_path / "copy", parts)
    assert RecordWriter(out, make_request()).finished
    assert not parts.exists()
    shutil.copytree(tmp_path / "copy", parts)
    write(out, make_request(loss={}))
    assert content(out)["eigenpairs"].sizes["checkpoint"] == 3


def test_a_damaged_part_is_measured_again(out: Path) -> None:
    parts = interrupted(out, make_request(), 2)
    victim = parts / f"eigenpairs-{SHA[0]}.h5"
    os.truncate(victim, victim.stat().st_size // 2)
    writer = RecordWriter(out, make_request())
    assert not writer.done("eigenpairs", SHA[0])
    assert writer.done("eigenpairs", SHA[1])
    _, measured = finish_from(out.parent, make_request())
    assert measured == 2


@pytest.mark.parametrize("size", [2**10, 2**16])
def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path: Path, size: int) -> None:
    # A limit on the size of files stands for a full disk: both make writing fail with an OSError.
    script = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from tests.record import test_record as t
writer = t.RecordWriter("out.h5", t.make_request())
writer.add("eigenpairs", t.hessian(0), t.provenance(0))
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), most))
big = (("index", "parameter"), np.ones((3, 2**20), np.float32), t.ATTRS)
try:
    writer.add("eigenpairs", t.hessian(1).drop_vars("eigenvectors").assign(eigenvectors=big), t.provenance(1))
except t.InputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # whoever measures coverage writes at the end
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(ROOT), str(size)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.count("\n") == 1, run.stdout + run.stderr
    assert "cannot be written" in run.stdout
    assert run.stderr == ""
    assert sorted(os.listdir(tmp_path / "out.h5.parts")) == [f"eigenpairs-{SHA[0]}.h5", "request.json"]
    assert finish_from(tmp_path, make_request())[1] == 2


def test_a_disk_that_is_full_at_the_end_keeps_the_parts(tmp_path: Path) -> None:
    script = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from tests.record import test_record as t
t.interrupted(t.Path("out.h5"), t.make_request(), 3)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    t.RecordWriter("out.h5", t.make_request()).finish()
except t.InputError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("out.h5 cannot be written"), run.stderr
    assert run.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == ["out.h5.parts"]
    assert len(os.listdir(tmp_path / "out.h5.parts")) == 4
    assert finish_from(tmp_path, make_request())[1] == 0


def test_reading_an_unfinished_record_leaves_nothing(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(out, make_request(), 2)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    tree = open_record(out)
    values = tree["eigenpairs"].to_dataset()
    del tree
    gc.collect()
    assert os.listdir(tmp_path / "temporary") == []
    np.testing.assert_array_equal(values["products"], [0, 10])  # the file stays open while its data are used
    values.close()


def test_an_exception_leaves_the_parts(out: Path) -> None:
    def run() -> None:
        with RecordWriter(out, make_request(shas=SHA[:1])) as writer:
            writer.add("eigenpairs", hessian(0), provenance(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not out.exists()
    assert finish_from(out.parent, make_request(shas=SHA[:1]))[1] == 0


def test_an_incomplete_record_cannot_be_finished(out: Path) -> None:
    with RecordWriter(out, make_request()) as writer:
        writer.add("eigenpairs", hessian(0), provenance(0))
        with pytest.raises(RuntimeError, match="2 units are missing"):
            writer.finish()
    assert not out.exists()


# Records of several


def opens(records: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened while records are joined, once for each opening."""
    opened: list[str] = []

    class Counting(h5py.File):
        def __init__(self, name: Any, mode: str = "r", **options: Any) -> None:
            opened.append(Path(name).name)
            super().__init__(name, mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(h5py, "File", Counting)
        join_records(records, out)
    return opened


def test_joining_opens_each_file_a_few_times_and_not_for_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of two groups with 6 rows each is opened as a test, for its content, and once for each group's copy."""
    shas = [SHA[1:7], SHA[7:13]]
    records = [write(tmp_path / f"{n}.h5", make_request(shas=each, loss={})) for n, each in enumerate(shas)]
    opened = opens(records, tmp_path / "both.h5", monkeypatch)
    assert [opened.count(path.name) for path in records] == [4, 4]
    assert opened.count("scratch") == 2  # one trial of writing for all rows of a layout
    whole = write(tmp_path / "whole.h5", make_request(shas=SHA[1:13], loss={}))
    assert_same(content(tmp_path / "both.h5"), content(whole))


def test_rows_of_several_lengths_are_joined(tmp_path: Path) -> None:
    """Rows from several files in turn, one with rows of two lengths, are compared with one record of all rows."""
    lengths = {1: 3, 2: 2, 3: 3, 4: 4}
    requests = {"even": [2, 4], "odd": [1, 3], "whole": [1, 2, 3, 4]}
    for name, numbers in requests.items():
        with RecordWriter(tmp_path / name, make_request(shas=[SHA[n] for n in numbers])) as writer:
            for number in numbers:
                writer.add("eigenpairs", hessian(number, lengths[number]), provenance(number))
    join_records([tmp_path / "odd", tmp_path / "even"], tmp_path / "both")
    assert_same(content(tmp_path / "both"), content(tmp_path / "whole"))


# The size of a record


@pytest.mark.slow
def test_a_record_grows_with_its_checkpoints_and_not_faster(tmp_path: Path) -> None:
    """Four times as many checkpoints take four times as many bytes, with a tenth more for HDF5's heaps."""
    sizes = []
    for count in (100, 400):
        numbered = [f"{number:064x}" for number in range(count)]
        rows = {}
        request = Request.every({"loss": {}}, numbered, COMMON)
        for number, sha in enumerate(numbered):
            checkpoint = {"path": f"runs/step_{number}.pt", "sha256": sha, "step": number}
            unit = unit_of(loss(number), provenance(0, settings={}, notes=["a note"]) | {"checkpoint": checkpoint})
            rows["loss", sha] = RowPlace(tmp_path / f"{sha}.part", 0)
            write_unit(rows["loss", sha].path, Request.every({"loss": {}}, [sha], COMMON), "loss", unit)
        merge(tmp_path / f"{count}.h5", request, rows)
        sizes.append((tmp_path / f"{count}.h5").stat().st_size)
    assert sizes[1] / sizes[0] < 4.4


# Records that already exist


def test_a_finished_record_is_shown_again(out: Path) -> None:
    before = write(out, make_request()).read_bytes()
    writer = RecordWriter(out, make_request())
    assert writer.finished
    assert writer.done("eigenpairs", SHA[2])
    assert writer.finish() == out
    assert out.read_bytes() == before


@pytest.fixture
def read_only(out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a call while the file system of `out` is read-only, for the superuser too, whom permissions don't stop."""

    def refusing(call: Any, writes: Any = lambda *_: True) -> Any:
        def guarded(path: Any, *args: Any, **options: Any) -> Any:
            inside = isinstance(path, str | Path) and Path(path).is_relative_to(out.parent)
            if inside and writes(*args, *options.values()):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return call(path, *args, **options)

        return guarded

    def mount() -> None:
        for name in ("mkdir", "unlink", "rmdir", "replace", "rename"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name)))
        to_write = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        monkeypatch.setattr(os, "open", refusing(os.open, lambda flags, *_: flags & to_write))
        monkeypatch.setattr("io.open", refusing(open, lambda mode="r", *_: set(mode) & set("wax+")))

    return mount


@pytest.mark.parametrize("leftovers", ["none", "parts", "folder"])
def test_a_finished_record_is_shown_where_nothing_can_be_written(out: Path, read_only: Any, leftovers: str) -> None:
    before = write(out, make_request()).read_bytes()
    parts = out.with_name("out.h5.parts")
    if leftovers == "folder":
        parts.mkdir()
    elif leftovers == "parts":  # a run was ended between the rename and the parts' removal
        shutil.copytree(interrupted(out.with_name("b.h5"), make_request(), 3), parts)
    there = sorted(os.listdir(out.parent))
    read_only()
    with pytest.raises(OSError, match="Read-only"):
        (out.parent / "a").write_text("")
    with RecordWriter(out, make_request()) as writer:
        assert writer.finished
        assert writer.done("eigenpairs", SHA[2])
    assert out.read_bytes() == before
    assert sorted(os.listdir(out.parent)) == there
    for request, options in ((make_request(), {"overwrite": True}), (make_request(shas=SHA[:4]), {})):
        refused(lambda request=request, options=options: RecordWriter(out, request, **options), "Read-only file system")


def test_an_unfinished_record_is_refused_where_nothing_can_be_written(out: Path, read_only: Any) -> None:
    interrupted(out, make_request(), 2)
    read_only()
    refused(lambda: RecordWriter(out, make_request()), "cannot be written (Read-only file system)", "name another file")


OTHER = make_request(hessian=HESSIAN | {"k": 10})


def test_another_request_is_refused_and_changes_nothing(out: Path) -> None:
    before = write(out, make_request()).read_bytes()
    refused(lambda: RecordWriter(out, OTHER), "eigenpairs k is 3 there and 10 here", "-o", "--overwrite")
    assert out.read_bytes() == before
    assert os.listdir(out.parent) == ["out.h5"]


def test_overwrite_keeps_the_old_record_until_the_new_one_is_complete(out: Path) -> None:
    before = write(out, make_request()).read_bytes()
    interrupted(out, OTHER, 2, overwrite=True)
    assert out.read_bytes() == before
    assert not RecordWriter(out, OTHER, overwrite=True).finished
    assert RecordWriter(out, OTHER, overwrite=True).done("eigenpairs", SHA[1])
    write(out, OTHER, overwrite=True)
    assert read_request(out).fingerprint == OTHER.fingerprint
    assert not RecordWriter(out, OTHER, overwrite=True).finished  # everything has to be measured again


def test_unfinished_parts_of_another_request(out: Path) -> None:
    parts = interrupted(out, make_request(), 2)
    before = sorted(os.listdir(parts))
    refused(lambda: RecordWriter(out, OTHER), "unfinished", "eigenpairs k is 3 there and 10 here", "--overwrite")
    assert sorted(os.listdir(parts)) == before
    write(out, OTHER, overwrite=True)
    assert os.listdir(out.parent) == ["out.h5"]


def test_a_finished_record_is_shown_beside_an_unfinished_append(out: Path) -> None:
    write(out, make_request())
    parts = interrupted(out, make_request(shas=SHA[3:6]))
    assert RecordWriter(out, make_request()).finished
    assert parts.exists()


def test_two_runs_into_one_file(out: Path) -> None:
    first, second = RecordWriter(out, make_request()), RecordWriter(out, OTHER)
    first.add("eigenpairs", hessian(0), provenance(0))
    refused(
        lambda: second.add("eigenpairs", hessian(0), provenance(0)),
        f"out.h5 is being written by process {os.getpid()} on {socket.gethostname()} since 20",
    )
    refused(lambda: RecordWriter(out, make_request()), f"process {os.getpid()}")
    refused(lambda: RecordWriter(out, OTHER, overwrite=True), f"process {os.getpid()}")
    del first
    refused(lambda: second.add("eigenpairs", hessian(0), provenance(0)), "has parts of another run by now")
    assert finish_from(out.parent, make_request())[1] == 2


def test_a_link_in_the_place_of_the_lock_is_not_followed(out: Path, tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", Path(f"{out}.parts")
    precious.write_text("kept")
    for target in (precious, tmp_path / "nowhere" / "file"):
        folder.mkdir()
        (folder / "writer.json").symlink_to(target)
        with pytest.raises(InputError, match="cannot be written"):
            RecordWriter(out, make_request()).__enter__()
        (folder / "writer.json").unlink()
        folder.rmdir()
    assert precious.read_text() == "kept"


def test_a_writer_keeps_others_out_from_the_beginning_and_leaves_nothing(out: Path) -> None:
    with RecordWriter(out, make_request()):
        refused(lambda: RecordWriter(out, make_request()), "out.h5 is being written by process")
        refused(lambda: open_record(out), "no record")
    assert os.listdir(out.parent) == []


def test_what_a_kill_leaves_of_a_hold_keeps_nobody_out(out: Path) -> None:
    parts = interrupted(out, make_request(), 2)
    (parts / "writer.json").write_text('{"process": 1, "host": "elsewhere", "since": "2026"}')
    assert finish_from(out.parent, make_request())[1] == 1
    assert os.listdir(out.parent) == ["out.h5"]


def test_without_locks_there_is_no_hold(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    write(out, make_request())
    assert os.listdir(out.parent) == ["out.h5"]


def test_a_finished_record_is_shown_while_another_run_adds_to_it(out: Path) -> None:
    write(out, make_request())
    with RecordWriter(out, make_request(shas=SHA[3:6])) as writer:
        writer.add("eigenpairs", hessian(3), provenance(3))
        assert RecordWriter(out, make_request()).finished
        assert writer.done("eigenpairs", SHA[3])


def damaged(path: Path, request: Request) -> None:
    os.truncate(write(path, request), 1000)


def newer(path: Path, request: Request) -> None:
    with h5py.File(write(path, request), "r+") as file:
        file.attrs["schema_version"] = 3


def other_hdf5(path: Path, _: Request) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = [1, 2]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path, _: path.write_text("notes"), "not a landscape record"),
        (lambda path, _: path.write_bytes(b""), "not a landscape record"),
        (lambda path, _: path.mkdir(), "not a landscape record"),
        (lambda path, _: os.mkfifo(path), "not a landscape record"),
        (other_hdf5, "not a landscape record"),
        (damaged, "damaged"),
        (newer, "schema version 3"),
    ],
    ids=["text", "empty", "folder", "pipe", "hdf5", "damaged", "newer"],
)
def test_what_is_no_readable_record_is_never_overwritten(out: Path, make: Any, word: str) -> None:
    make(out, make_request())
    before = out.read_bytes() if out.is_file() else None
    for options in ({}, {"overwrite": True}):
        refused(lambda options=options: RecordWriter(out, make_request(), **options), str(out), word)
    assert os.listdir(out.parent) == ["out.h5"]
    assert before == (out.read_bytes() if out.is_file() else None)
    refused(lambda: open_record(out), str(out))
    refused(lambda: read_request(out), str(out))


@pytest.mark.parametrize("inside", ["file", "folder", "json", "newer"])
def test_a_folder_of_somebody_else_in_the_place_of_the_parts(out: Path, inside: str) -> None:
    parts = out.with_name("out.h5.parts")
    if inside == "file":
        parts.write_text("mine")
    else:
        parts.mkdir()
        texts = {"json": '{"format": "other"}', "newer": '{"format": "landscape-record", "schema_version": 3}'}
        (parts / ("notes.txt" if inside == "folder" else "request.json")).write_text(texts.get(inside, "mine"))
    refused(lambda: RecordWriter(out, make_request(), overwrite=True), str(parts))
    assert parts.exists()
    refused(lambda: open_record(out), str(parts))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a record"])
def test_a_lost_request_is_made_again_from_the_parts(out: Path, tmp_path: Path, beside: bool) -> None:
    request = make_request(shas=SHA[2:5]) if beside else make_request()
    if beside:
        write(out, make_request(shas=SHA[:2]))
    whole = shutil.copytree(tmp_path, tmp_path / "whole") / "out.h5"
    parts = interrupted(out, request, 2)
    before = json.loads((parts / "request.json").read_text())
    (parts / "request.json").unlink()
    with open_record(parts) as tree:
        assert len(tree["eigenpairs"]["step"]) == 2
    refused(lambda: RecordWriter(out, OTHER), "k is 3 there and 10 here")
    with RecordWriter(out, request) as writer:
        assert [writer.done(*unit) for unit in request.units] == [True, True, False]
        number = SHA.index(request.units[2][1])
        writer.add("eigenpairs", hessian(number), provenance(number))
        after = json.loads((parts / "request.json").read_text())
    assert before.pop("created") <= after.pop("created")
    assert after == before
    assert not parts.exists()
    assert_same(content(out), content(write(whole, request)))


def test_parts_that_do_not_tell_what_was_asked_for(out: Path) -> None:
    parts = interrupted(out, make_request(), 2)
    (parts / "request.json").unlink()
    other = interrupted(out.with_name("b.h5"), OTHER, 1)
    for path in other.glob("*.h5"):
        shutil.copy(path, parts / "other.h5")
    refused(
        lambda: RecordWriter(out, make_request()), "its parts belong to different requests; move it to another place"
    )
    for path in parts.glob("*.h5"):
        path.write_bytes(b"damaged")
    before = sorted(os.listdir(parts))
    refused(lambda: RecordWriter(out, make_request()), "no readable part", "move it to another place")
    assert sorted(os.listdir(parts)) == before


def test_files_of_the_user_among_the_parts_are_kept(out: Path) -> None:
    parts = interrupted(out, make_request(), 3)
    (parts / "notes.txt").write_text("mine")
    RecordWriter(out, make_request()).finish()
    assert os.listdir(parts) == ["notes.txt"]


@pytest.mark.parametrize("folder", ["missing", "a_file", "/sys", "/proc"])
def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a_file").write_text("")
    if folder.startswith("/") and not Path(folder).is_mount():
        pytest.skip(f"there is no {folder} here")
    path = tmp_path / folder / "out.h5"
    refused(lambda: RecordWriter(path, make_request()), str(path), "cannot be written")
    assert os.listdir(tmp_path) == ["a_file"]


def test_a_name_that_is_too_long_is_told_at_once(tmp_path: Path) -> None:
    refused(lambda: RecordWriter(tmp_path / ("x" * 252), make_request()), "name too long")


def test_nothing_is_left_by_a_writer_that_adds_nothing(out: Path) -> None:
    with RecordWriter(out, make_request()):
        pass
    assert os.listdir(out.parent) == []


def test_a_link_leads_to_the_record(out: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    out.symlink_to(tmp_path / "else" / "real.h5")
    write(out, make_request())
    assert out.is_symlink()
    assert os.listdir(tmp_path / "else") == ["real.h5"]


def test_there_is_no_such_record(out: Path) -> None:
    refused(lambda: open_record(out), str(out), "no record")


# Appending


def test_a_request_for_less_is_answered_by_what_is_there(out: Path) -> None:
    before = write(out, make_request(loss={})).read_bytes()
    for less in (make_request(), make_request(shas=SHA[:1]), make_request(shas=SHA[1:2], loss={})):
        with RecordWriter(out, less) as writer:
            assert writer.finished
            assert all(writer.done(*unit) for unit in less.units)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (make_request(shas=SHA[:3]), make_request(shas=SHA[:4], loss={})),
        (make_request(shas=SHA[:3], loss={}), make_request(shas=SHA[2:5])),
        (make_request(shas=SHA[:3], loss={}), Request.every({"loss": {}}, SHA[3:4], COMMON)),
    ],
    ids=["more", "other checkpoints", "another measurement"],
)
def test_what_an_unfinished_run_finished_goes_into_another_record(
    out: Path, tmp_path: Path, before: Request, after: Request
) -> None:
    interrupted(out, before, 2)
    stored = before.units[:2]
    assert all(RecordWriter(out, after).done(*unit) for unit in stored)
    write(out, after)
    assert os.listdir(out.parent) == ["out.h5"]
    assert set(read_request(out).units) == {*after.units, *stored}
    (tmp_path / "other").mkdir()
    assert_same(content(out), content(write(tmp_path / "other" / "at_once.h5", read_request(out))))


def test_an_unfinished_run_that_asked_for_more_is_resumed_after_another_interruption(out: Path) -> None:
    interrupted(out, make_request(), 1)
    more = make_request(shas=SHA[:4], loss={})
    interrupted(out, more, 1)
    again = RecordWriter(out, more)
    assert [again.done(*unit) for unit in more.units[:3]] == [True, True, False]
    (out.with_name("out.h5.parts") / "request.json").unlink()
    assert [RecordWriter(out, more).done(*unit) for unit in more.units[:3]] == [True, True, False]


def test_the_root_has_the_attributes_of_the_page(out: Path) -> None:
    write(out, make_request())
    parts = interrupted(out.with_name("b.h5"), make_request(), 1)
    page = (ROOT / "docs/record.md").read_text(encoding="utf-8")
    _, _, after = page.partition("**Root attributes.**")
    documented = set(re.findall(r"^- `(\w+)`", after.partition("\n\n**")[0], re.MULTILINE))
    with h5py.File(out) as file:
        assert set(file.attrs) == documented
        assert (file.attrs["schema_version"], file.attrs["schema_minor"]) == (2, 0)
        assert "now 2" in after
    assert documented <= set(json.loads((parts / "request.json").read_text()))


def test_a_system_that_allocates_nothing_beforehand_writes_all_the_same(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a system is macOS, which has no posix_fallocate."""
    whole = write(tmp_path / "whole.h5", make_request())
    monkeypatch.delattr(os, "posix_fallocate")
    assert_same(content(write(out, make_request())), content(whole))


def test_append_new_checkpoints_and_new_measurements(out: Path, tmp_path: Path) -> None:
    write(out, make_request(shas=SHA[:2]))
    both = make_request(shas=SHA[:3], loss={"on": "all"})
    writer = RecordWriter(out, both)
    assert not writer.finished
    assert [writer.done(*unit) for unit in both.units] == [True, True, False, False, False, False]
    write(out, both)
    assert_same(content(out), content(write(tmp_path / "at_once.h5", both)))
    assert RecordWriter(out, both).finished
    assert RecordWriter(out, make_request(shas=SHA[:1])).finished


def test_append_tells_done_from_asked_for(out: Path) -> None:
    write(out, make_request(shas=SHA[:2]))
    write(out, Request.every({"loss": {}}, SHA[2:3], COMMON))
    writer = RecordWriter(out, make_request(shas=SHA[2:3], loss={}))
    assert not writer.finished
    assert not writer.done("eigenpairs", SHA[2])
    assert writer.done("loss", SHA[2])


def test_append_resumes(out: Path, tmp_path: Path) -> None:
    write(out, make_request(shas=SHA[:1]))
    request = make_request(shas=SHA[1:4])
    interrupted(out, request, 2)
    writer = RecordWriter(out, request)
    assert [writer.done(*unit) for unit in request.units] == [True, True, False]
    write(out, request)
    assert_same(content(out), content(write(tmp_path / "at_once.h5", make_request(shas=SHA[:4]))))


def test_append_needs_the_same_settings_and_common(out: Path) -> None:
    before = write(out, make_request()).read_bytes()
    refused(lambda: RecordWriter(out, OTHER), "eigenpairs k is 3 there and 10 here")
    other = COMMON | {"data": {"sha256": "e" * 64}, "arguments": [1]}
    message = refused(lambda: RecordWriter(out, make_request(common=other)), "data sha256 is dd")
    assert "arguments is not given there and [1] here" in message
    assert out.read_bytes() == before


def test_what_an_earlier_row_tells(out: Path) -> None:
    request = make_request(shas=SHA[:3], loss={})
    assert RecordWriter(out, request).earlier("eigenpairs") is None
    writer = RecordWriter(out, request)
    writer.add("eigenpairs", hessian(1), provenance(1, route="cached"))
    assert writer.earlier("loss") is None
    del writer
    assert RecordWriter(out, request).earlier("eigenpairs") == provenance(1, route="cached")
    write(out, request)
    more = RecordWriter(out, make_request(shas=SHA[2:5]))
    assert more.earlier("eigenpairs") == provenance(0)


def test_what_was_measured_on_the_checkpoint_before(out: Path) -> None:
    request = make_request(shas=SHA[:3])
    writer = RecordWriter(out, request)
    assert writer.previous("eigenpairs", SHA[0]) is None
    assert writer.previous("eigenpairs", SHA[1]) is None, "it isn't measured yet"
    writer.add("eigenpairs", hessian(0), provenance(0))
    np.testing.assert_array_equal(writer.previous("eigenpairs", SHA[1]).eigenvalues, hessian(0).eigenvalues)
    del writer
    write(out, request)
    more = RecordWriter(out, make_request(shas=SHA[3:5]))
    before = more.previous("eigenpairs", SHA[3])
    assert str(before.sha256.values) == SHA[2], "rows that are there come first"
    np.testing.assert_array_equal(before.eigenvectors, hessian(2).eigenvectors)


# The units that the measuring code may return


def variable(**changes: Any) -> xr.Dataset:
    return xr.Dataset({"v": ("x", np.zeros(2), ATTRS | changes)})


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (xr.Dataset({"v": ("x", np.zeros(2))}), "units and long_name are required"),
        (variable().assign_attrs(a=1), "provenance"),
        (variable(units="seconds"), "write s"),
        (variable(units="days since 2000-01-01"), "write s"),
        (variable().rename(v="sha256"), "sha256"),
        (variable().rename(v="x_length"), "x_length"),
        (variable().rename(x="checkpoint"), "checkpoint"),
        (variable().astype(complex), "cannot be stored"),
        (variable().astype(np.float16), "cannot be stored"),
        (variable().astype("datetime64[ns]"), "cannot be stored"),
        (xr.Dataset({"v": ("x", np.array(["a", None], object), ATTRS)}), "cannot be stored"),
    ],
)
def test_a_unit_that_breaks_the_schema(out: Path, unit: xr.Dataset, words: str) -> None:
    writer = RecordWriter(out, make_request())
    with pytest.raises(ValueError, match=words):
        writer.add("eigenpairs", unit, provenance(0))
    assert os.listdir(out.parent) == []


def test_units_of_one_group_fit_together(out: Path) -> None:
    writer = RecordWriter(out, make_request())
    writer.add("eigenpairs", hessian(0), provenance(0))
    unit = hessian(1, 5)
    moved = unit.assign_coords(index=("index", [0, 1, 3, 4, 5], ATTRS))
    refused(
        lambda: writer.add("eigenpairs", moved, provenance(1)), "step_1.pt", "the coordinate index has other values"
    )
    refused(lambda: writer.add("eigenpairs", unit.astype("float32"), provenance(1)), "has another type")
    refused(lambda: writer.add("eigenpairs", unit.drop_vars("converged"), provenance(1)), "converged")
    refused(lambda: writer.add("eigenpairs", unit.drop_vars("index"), provenance(1)), "index")
    writer.add("eigenpairs", unit, provenance(1))
    assert len(list(out.with_name("out.h5.parts").glob("*.h5"))) == 2


def test_coordinates_agree_beyond_the_first_unit_after_a_resume(out: Path) -> None:
    interrupted(out, make_request(), 1)
    RecordWriter(out, make_request()).add("eigenpairs", hessian(1, 5), provenance(1))
    longer = hessian(2, 5).assign_coords(index=("index", [0, 1, 2, 3, 9], ATTRS))
    refused(lambda: RecordWriter(out, make_request()).add("eigenpairs", longer, provenance(2)), "coordinate index")


def test_a_coordinate_of_names(out: Path) -> None:
    names = xr.Variable("layer", ["attn", "mlp é"], ATTRS)
    with RecordWriter(out, make_request(shas=SHA[:2])) as writer:
        for number in range(2):
            unit = xr.Dataset({"v": ("layer", np.zeros(2), ATTRS)}, coords={"layer": names})
            writer.add("eigenpairs", unit, provenance(number))
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        assert float(tree["eigenpairs/v"].sel(checkpoint=1, layer="mlp é")) == 0


def test_only_what_was_asked_for_and_only_once(out: Path) -> None:
    writer = RecordWriter(out, make_request())
    with pytest.raises(ValueError, match="not asked for"):
        writer.add("loss", loss(0), provenance(0))
    with pytest.raises(ValueError, match="not asked for"):
        writer.add("eigenpairs", hessian(5), provenance(5))
    writer.add("eigenpairs", hessian(0), provenance(0))
    with pytest.raises(ValueError, match="there already"):
        writer.add("eigenpairs", hessian(0), provenance(0))


# The request


def test_the_fingerprint_knows_what_matters() -> None:
    request = make_request()
    reordered = make_request(hessian=dict(reversed(HESSIAN.items())), common=dict(reversed(COMMON.items())))
    assert reordered.fingerprint == request.fingerprint
    numpy = make_request(hessian=HESSIAN | {"k": np.int64(3), "tol": np.float64(1e-3)})
    assert numpy.fingerprint == request.fingerprint
    others = [
        OTHER,
        make_request(shas=SHA[:2]),
        make_request(shas=SHA[2::-1]),
        make_request(loss={}),
        make_request(common={}),
    ]
    assert len({each.fingerprint for each in [request, *others]}) == 6
    assert Request.from_plain(json.loads(to_json(request.plain()))).fingerprint == request.fingerprint


def test_a_checkpoint_named_twice_is_measured_once() -> None:
    assert make_request(shas=[SHA[1], SHA[0], SHA[1]]).units == [("eigenpairs", SHA[1]), ("eigenpairs", SHA[0])]


@pytest.mark.parametrize(
    ("name", "sha"), [("../x", SHA[0]), ("Hessian", SHA[0]), ("eigenpairs", "../x"), ("eigenpairs", "")]
)
def test_names_that_could_leave_the_folder(name: str, sha: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        Request.every({name: {}}, [sha], {})


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="object cannot be stored"):
        _ = make_request(common={"model": object()}).fingerprint


# Messages about records


def test_the_examples_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "run.landscape.h5", make_request(loss={"on": "all"}))
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(ROOT / "docs/record.md"), module_relative=False, encoding="utf-8")
    assert result.attempted > 20
    assert result.failed == 0


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
def test_the_commands_of_the_document(tmp_path: Path) -> None:
    write(tmp_path / "run.landscape.h5", make_request())
    commands = re.findall(r"^\$ (h5dump .*)$", (ROOT / "docs/record.md").read_text(encoding="utf-8"), re.MULTILINE)
    printed = [subprocess.check_output(each.split(), cwd=tmp_path, text=True) for each in commands]
    for text, words in zip(
        printed, ("/eigenpairs/converged", "which", "(2,0): 4, 3, 2", "(1,0): 3, 2, 1"), strict=True
    ):
        assert words in text


def test_the_record_needs_no_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import landscape.record; print('imported')"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True) == "imported\n"


def test_a_heap_without_end_is_found_before_hdf5_reads_it(tmp_path):
    """HDF5 1.14 loops endlessly at free space of size 0, which a partly zeroed file has."""
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file.attrs["text"] = "some text"
    whole = (tmp_path / "good.h5").read_bytes()
    heap = whole.index(b"GCOL\x01")
    assert not has_endless_heap(tmp_path / "good.h5")
    for start in (heap + 16, heap + 48):  # the first object, and the free space behind it
        (tmp_path / "bad.h5").write_bytes(whole[:start] + bytes(len(whole) - start))
        assert has_endless_heap(tmp_path / "bad.h5")
        with pytest.raises(InputError, match="damaged"):
            open_record(tmp_path / "bad.h5")
    for start in range(heap, heap + 16):  # a signature or a size that HDF5 refuses itself
        (tmp_path / "bad.h5").write_bytes(whole[:start] + b"\xff" + whole[start + 1 :])
        assert not has_endless_heap(tmp_path / "bad.h5")
    (tmp_path / "empty.h5").write_bytes(b"")
    assert not has_endless_heap(tmp_path / "empty.h5")


def test_the_beginning_of_a_heap_among_numbers_is_no_heap(tmp_path):
    numbers = np.frombuffer(b"GCOL\x01\0\0\0" + bytes(8) + bytes(range(1, 17)) * 300, "u1")
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file["numbers"] = numbers
    assert not has_endless_heap(tmp_path / "good.h5")
