"""A record that grows while a training runs: its rows after every way to end and to go on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import landscape
from landscape.figures.record_view import RecordView
from landscape.record import GrowingRecord, RecordWriter, Request, open_record, read_provenance, row_at
from landscape.record.hdf5 import survey
from landscape.record.request import to_json
from tests.record.test_record import ATTRS, SHA, loss, refused
from tests.support.crashing import watched

COMMON = {"problem": "digits", "arguments": {"width": np.int64(8)}, "dtype": "float32"}
GROUPS = {"loss": {}, "curvature": {"k": 3, "which": "LM"}}


def scalars(value: float) -> xr.Dataset:
    return xr.Dataset({"loss": ((), value, ATTRS), "products": ((), np.int64(value), ATTRS)})


def curvature(value: float, k: int = 2) -> xr.Dataset:
    """A row whose number of eigenvalues is free."""
    return xr.Dataset(
        {
            "eigenvalues": ("index", value + np.arange(k, dtype=float), ATTRS),
            "converged": ("index", np.arange(k) % 2 == 0, ATTRS),
            "name": ("index", np.array([f"é{number}" for number in range(k)], str), ATTRS),
            "method": ((), f"as at {value}", ATTRS),
            "moved": (("index", "parameter"), np.full((k, 5), value, np.float32), ATTRS),
        },
        coords={"index": ("index", 10 * np.arange(k), ATTRS)},
    )


def provenance(**more: Any) -> dict[str, Any]:
    return {"command": "train.py", "seed": 0, "versions": {"torch": "2.13"}} | more


def growing(path: Path, **options: bool) -> GrowingRecord:
    record = GrowingRecord(path, COMMON, **options)
    for name, of_group in GROUPS.items():
        record.declare(name, of_group)
    return record


def add(record: GrowingRecord, step: int, value: float | None = None) -> None:
    value = step if value is None else value
    record.add("loss", scalars(value), step, provenance(started=random.random()))
    if step % 2 == 0:
        record.add("curvature", curvature(value, step % 5), step, provenance(started=random.random()))


def content(path: Path) -> dict[str, Any]:
    """Everything that a record says, without times."""
    with open_record(path) as tree:
        found: dict[str, Any] = {}
        for name, node in tree.children.items():
            group = node.to_dataset().load()
            found[name] = {each: (data.dims, data.dtype, data.values.tolist()) for each, data in group.items()}
            texts = [json.loads(text) for text in group.provenance.values]
            found[name]["provenance"] = [{k: v for k, v in text.items() if k != "started"} for text in texts]
            found[name]["index"] = group.index.values.tolist() if "index" in group.coords else None
            found[name]["attrs"] = {key: value for key, value in group.attrs.items() if key != "started"}
        return {"request": tree.attrs["request"], "groups": repr(found)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run.landscape.h5"


# What is read back


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("most", [2, 32])
def test_rows_come_back_as_they_were_added(out: Path, finished: bool, most: int) -> None:
    record = growing(out)
    with mock.patch("landscape.record.sequence._MOST_PARTS", most):
        for step in range(12):
            add(record, step)
            if step % 2:
                record.flush()
    if finished:
        assert record.finish() == out
        assert os.listdir(out.parent) == [out.name]
    with open_record(out) as tree:
        assert tree["loss"].step.values.tolist() == list(range(12))
        assert tree["curvature"].step.values.tolist() == list(range(0, 12, 2))
        for name, maker in {"loss": scalars, "curvature": lambda step: curvature(step, step % 5)}.items():
            group = tree[name].to_dataset().load()
            for position, step in enumerate(group.step.values.tolist()):
                row, added = row_at(group, position), maker(step)
                assert dict(row.sizes) == dict(added.sizes)
                for variable, values in added.variables.items():
                    np.testing.assert_array_equal(row[variable].values, values.values)
                    assert row[variable].dtype.kind == values.dtype.kind
                    assert row[variable].attrs == values.attrs
                digest = hashlib.sha256(to_json([COMMON, step]).encode()).hexdigest()
                about = {"path": f"step {step} of a watched training", "sha256": digest, "step": step}
                assert read_provenance(tree, name, position)["checkpoint"] == about
                assert row.sha256.item() == digest


def test_values_are_copied(out: Path) -> None:
    record, values, index = growing(out), np.zeros(2), np.arange(2)
    row = xr.Dataset({"a": ("index", values, ATTRS), "b": (("x",), index, ATTRS)})
    record.add("curvature", row, 0, provenance())
    values[:], index[:] = 1, 7
    record.flush()
    with open_record(out) as tree:
        assert tree["curvature/a"].values.tolist() == [[0, 0]]
        assert tree["curvature/b"].values.tolist() == [[0, 1]]


def test_the_longest_row_leaves_nothing_when_it_is_dropped(out: Path) -> None:
    record = growing(out)
    for step, k in enumerate((1, 1, 4)):
        record.add("curvature", curvature(step, k), step, provenance())
    record.flush()
    record.resume(2)
    record.finish()
    with open_record(out) as tree:
        assert dict(tree["curvature"].sizes) == {"checkpoint": 2, "index": 1, "parameter": 5}
        assert "index_length" not in tree["curvature"]


def test_a_record_of_many_rows_is_joined_and_drawn(out: Path) -> None:
    halves = [out.with_name("early.h5"), out.with_name("late.h5")]
    for path, steps in ((out, range(8)), (halves[0], range(4)), (halves[1], range(4, 8))):
        record = growing(path)
        for step in steps:
            add(record, step)
        record.flush()
        unfinished = RecordView.read(path)
        assert unfinished.series("loss").step.values.tolist() == list(steps)
        record.finish()
    assert content(landscape.join_records(halves[::-1], out.with_name("joined.h5"))) == content(out)
    view = RecordView.read(out)
    assert view.series("curvature").step.values.tolist() == [0, 2, 4, 6]
    assert view.row("curvature", 4)["eigenvalues"].values.tolist() == [4, 5, 6, 7]
    assert [each["step"] for each in view.identity["checkpoints"]] != []


@pytest.mark.parametrize("meanwhile", ["flush", "finish"])
def test_a_reader_misses_nothing_while_parts_are_merged(
    out: Path, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landscape.record.sequence._MOST_PARTS", 2)
    record, read = growing(out), []
    for step in range(2):
        add(record, step)
        record.flush()
    add(record, 2)

    def survey_then_write(path: Path) -> Any:
        found = survey(path)
        if not read:
            getattr(record, meanwhile)()
        read.append(path.name)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("landscape.record.parts.survey", survey_then_write)
        with open_record(out) as tree:
            assert tree["loss/step"].values.tolist() == [0, 1, 2]
    assert read[0] == "rows-00000000.h5"
    record.close()


# What is refused


def test_rows_that_do_not_fit_are_refused_when_they_are_added(out: Path) -> None:
    record = growing(out)
    add(record, 3)
    for step, words in ((3, "can't follow step 3"), (2, "can't follow step 3"), (-1, "no step")):
        with pytest.raises(ValueError, match=words):
            record.add("loss", scalars(0), step, provenance())
    with pytest.raises(ValueError, match="isn't declared"):
        record.add("trace", scalars(0), 4, provenance())
    with pytest.raises(ValueError, match="units and long_name"):
        record.add("loss", xr.Dataset({"loss": 0.0}), 4, provenance())
    other = scalars(0).drop_vars("products")
    refused(lambda: record.add("loss", other, 4, provenance()), "loss of step 4", "products")
    record.flush()
    record.close()
    again = growing(out)
    again.resume(4)
    refused(lambda: again.add("loss", other, 4, provenance()), "loss of step 4", "products")
    assert again.counts == {"loss": 1, "curvature": 0}


def test_other_settings_are_refused(out: Path) -> None:
    record = growing(out)
    record.declare("loss", {})
    refused(lambda: record.declare("curvature", {"k": 5, "which": "LM"}), "curvature k is 3 there and 5 here")
    add(record, 0)
    record.finish()
    for common, k, words in ((COMMON | {"dtype": "float64"}, 3, "dtype is float32"), (COMMON, 4, "k is 3 there")):
        other = GrowingRecord(out, common)
        other.declare("curvature", {"k": k, "which": "LM"})
        refused(lambda other=other: other.resume(0), words)
        assert os.listdir(out.parent) == [out.name]
    late = GrowingRecord(out, COMMON)
    late.resume(1)
    refused(lambda: late.declare("curvature", {"k": 4}), "k is 3 there and 4 here")


@pytest.mark.parametrize("finished", [False, True])
def test_a_fresh_training_replaces_nothing_unasked(out: Path, finished: bool) -> None:
    record = growing(out)
    add(record, 0)
    record.finish() if finished else record.close()
    before = content(out)
    refused(growing(out).begin, "overwrite=True", "checkpoint")
    new = growing(out, overwrite=True)
    add(new, 0, 5.0)
    assert content(out) == before
    new.flush()
    with open_record(out) as tree:
        assert tree["loss/loss"].values.tolist() == [5.0]
    new.finish()
    with open_record(out) as tree:
        assert tree["loss/loss"].values.tolist() == [5.0]
    with pytest.raises(ValueError, match="finished"):
        add(new, 1)


def test_a_resumed_training_keeps_its_rows_with_overwrite(out: Path) -> None:
    record = growing(out)
    add(record, 0)
    record.close()
    again = growing(out, overwrite=True)
    again.resume(1)
    add(again, 1)
    again.finish()
    with open_record(out) as tree:
        assert tree["loss/step"].values.tolist() == [0, 1]


def test_other_files_are_left_alone(out: Path) -> None:
    out.write_text("mine")
    for call in (growing(out, overwrite=True).begin, lambda: growing(out).resume(0)):
        refused(call, "is not a landscape record")
    assert out.read_text() == "mine"
    out.unlink()
    writer = RecordWriter(out, Request.every({"loss": {}, "trace": {}}, [SHA[0]], COMMON))
    writer.add("loss", loss(0), {"checkpoint": {"path": "a.pt", "sha256": SHA[0], "step": 0}})
    writer._parts.release()
    refused(lambda: growing(out).resume(0), "landscape-probe")


def test_one_run_at_a_time_writes(out: Path) -> None:
    record = growing(out)
    add(record, 0)
    request = Request.every({"loss": {}}, [SHA[0]], COMMON)
    for call in (growing(out).begin, lambda: growing(out).resume(0), lambda: RecordWriter(out, request)):
        refused(call, "is being written by process")
    record.close()
    growing(out).resume(0)


def test_a_damaged_part_is_named(out: Path) -> None:
    record = growing(out)
    for step in range(3):
        add(record, step)
        record.flush()
    record.close()
    part = sorted(out.with_name(out.name + ".parts").glob("*.h5"))[1]
    part.write_bytes(part.read_bytes()[:3000])
    refused(lambda: growing(out).resume(3), part.name, "damaged")
    with open_record(out) as tree:
        assert tree["loss/step"].values.tolist() == [0, 2]


def test_rows_wait_for_a_disk_that_is_full(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = growing(out)
    add(record, 0)
    record.flush()
    add(record, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        refused(record.flush, "No space left")
        refused(record.finish, "No space left")
    assert record.counts == {"loss": 2, "curvature": 1}
    add(record, 2)
    record.finish()
    with open_record(out) as tree:
        assert tree["loss/step"].values.tolist() == [0, 1, 2]


def test_a_process_that_follows_writes_nothing_and_knows_as_much(out: Path) -> None:
    first, follower = growing(out), growing(out, follows=True)
    for record in (first, follower):
        record.begin()
        for step in range(4):
            add(record, step)
        record.flush()
        record.resume(2)
        assert record.counts == {"loss": 2, "curvature": 1}
        with pytest.raises(ValueError, match="can't follow step 1"):
            add(record, 1)
        add(record, 2)
    for record in (first, follower):
        record.finish()
    with open_record(out) as tree:
        assert tree["loss/step"].values.tolist() == [0, 1, 2]


# Every way to end and to go on

LAST = 9


def train(path: Path) -> None:
    """A training that stores a checkpoint, here its step, and goes on from it."""
    checkpoint, record = path.with_suffix(".step"), growing(path, overwrite=True)
    start, counts = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, {})
    if start:
        record.resume(start)
        assert record.counts == counts
    for step in range(start, LAST):
        add(record, step)
        if step % 2 == 0:
            record.flush()
        if step % 4 == 2:
            checkpoint.with_suffix(".new").write_text(json.dumps([step + 1, record.counts]))
            checkpoint.with_suffix(".new").replace(checkpoint)
    record.finish()


def in_child(work: Callable[[], None]) -> int:
    """Exit status of a forked process; negative for a signal."""
    if not (process := os.fork()):
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(path: Path, calls: Path, at: int | None = None) -> int:
    """Train in a child that is killed before one of the writer's calls."""

    def work() -> None:
        watched({"at": at, "signal": signal.SIGKILL}, calls)
        with mock.patch("landscape.record.sequence._MOST_PARTS", 2):
            train(path)

    return in_child(work)


def check_kills(folder: Path, moments: Callable[[int], Iterable[int]]) -> None:
    whole, calls = folder / "whole.h5", folder / "calls"
    assert killed(whole, calls) == 0
    expected = content(whole)
    for number, at in enumerate(moments(int(calls.read_text()))):
        path = folder / f"{at}" / "run.h5"
        path.parent.mkdir()
        assert killed(path, calls, at) == -signal.SIGKILL
        if number % 2:  # a second kill, soon after the training has gone on
            killed(path, calls, 20 + at % 50)
        assert killed(path, calls) == 0
        assert content(path) == expected, at
        assert {each.name for each in path.parent.iterdir()} == {"run.h5", "run.step"}
        shutil.rmtree(path.parent)


def test_a_killed_training_goes_on_without_a_trace(tmp_path: Path) -> None:
    check_kills(tmp_path, lambda calls: range(calls // 3, calls + 1, calls // 3))


def test_parts_that_were_merged_but_not_removed_count_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landscape.record.sequence._MOST_PARTS", 2)
    record, parts = growing(out), out.with_name(out.name + ".parts")
    for step in range(3):
        add(record, step)
        if step == 2:
            shutil.copytree(parts, out.with_name("before"))
        record.flush()
    record.close()
    removed = {each.name for each in out.with_name("before").glob("*.h5")} - {each.name for each in parts.iterdir()}
    for name in removed:
        shutil.copy(out.with_name("before") / name, parts)
    assert removed
    again = growing(out)
    again.resume(3)
    assert again.counts == {"loss": 3, "curvature": 2}
    assert not removed & {each.name for each in parts.iterdir()}
    again.close()


@pytest.mark.slow
def test_a_training_is_killed_at_every_call(tmp_path: Path) -> None:
    check_kills(tmp_path, lambda calls: range(1, calls + 1))


ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 3)),
    st.tuples(st.just("add"), st.integers(1, 3)),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.sampled_from(["crash", "finish", "resume"]), st.integers(0, 12)),
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(actions=st.lists(ACTIONS, max_size=14))
def test_each_row_is_there_once_with_its_latest_value(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    """Rows on disk and in memory are followed by two dictionaries."""
    out = tmp_path_factory.mktemp("any") / "out.h5"
    record, on_disk, in_memory = growing(out), {}, {}
    with mock.patch("landscape.record.sequence._MOST_PARTS", 2):
        for value, (action, number) in enumerate(actions):
            if action == "add":
                step = max([-1, *on_disk, *in_memory]) + number
                record.add("loss", scalars(value), step, provenance())
                in_memory[step] = float(value)
                continue
            if action == "crash":
                record._parts.release()
                record, in_memory = growing(out), {}
            elif action == "finish":
                record.finish()
            elif action == "flush":
                record.flush()
            on_disk, in_memory = on_disk | in_memory, {}
            if action in ("crash", "finish", "resume"):
                record.resume(number)
                on_disk = {step: kept for step, kept in on_disk.items() if step < number}
            assert record.counts["loss"] == len(on_disk)
            if on_disk:
                with open_record(out) as tree:
                    steps = tree["loss/step"].values.tolist()
                    assert dict(zip(steps, tree["loss/loss"].values.tolist(), strict=True)) == on_disk
                    assert steps == sorted(on_disk)
    record.close()


def test_a_part_states_the_request_of_its_own_rows(out: Path) -> None:
    """The size of a part doesn't grow with the number of rows before."""
    record = growing(out)
    for step in range(60):
        record.add("loss", scalars(step), step, provenance())
        if step % 20 == 19:
            record.flush()
    sizes = []
    for part in sorted(out.with_name(out.name + ".parts").glob("*.h5")):
        with h5py.File(part) as file:
            assert len(json.loads(file.attrs["request"])["measurements"]["loss"]["checkpoints"]) == 20
        sizes.append(part.stat().st_size)
    assert max(sizes) - min(sizes) < 1000
    record.close()
