"""A growing record: rows in the order of steps, whatever ended the run in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.errors import InputError
from landscape.figures.record_view import RecordView
from landscape.record import join_records, open_record
from landscape.record.growing import GrowingRecord
from tests.conftest import ROOT

PROVENANCE = {"command": "landscape.watch", "versions": {}, "notes": []}


def row(value, length=2):
    attributes = {"units": "1", "long_name": "a number"}
    return xr.Dataset(
        {
            "value": xr.Variable((), float(value), attributes),
            "text": xr.Variable((), "one text", attributes),
            "name": xr.Variable("place", [f"{value}-{i}" for i in range(length)], attributes),
        }
    )


def growing(path, **more):
    record = GrowingRecord(path, {"problem": "one"}, **more)
    for name in ("loss", "trace"):
        record.declare(name, {"tol": 1})
    return record


def values(path, group="loss"):
    with open_record(path) as tree:
        data = tree[group].to_dataset().load()
    return dict(zip(data.step.values.tolist(), data.value.values.tolist(), strict=True))


def test_rows_are_there_finished_or_not(tmp_path):
    path = tmp_path / "run.landscape.h5"
    record = growing(path)
    for step in range(5):
        record.add("loss", row(step, 1 + step % 3), step, PROVENANCE)
        if step % 2:
            record.add("trace", row(10 * step), step, PROVENANCE)
        if step == 2:
            record.flush()
    assert values(tmp_path / "run.landscape.h5.parts") == {0: 0, 1: 1, 2: 2}
    record.finish()
    assert not (tmp_path / "run.landscape.h5.parts").exists()
    assert values(path) == {step: step for step in range(5)}
    assert values(path, "trace") == {1: 10, 3: 30}
    with open_record(path) as tree:
        names = tree["loss"]["name"].values
        assert [[each for each in line if each] for line in names] == [
            [f"{step}-{i}" for i in range(1 + step % 3)] for step in range(5)
        ]
    view = RecordView.read(path)
    assert view.row("loss", 3).value == 3
    other = growing(tmp_path / "other.h5")
    other.add("loss", row(7), 7, PROVENANCE)
    other.finish()
    join_records([path, tmp_path / "other.h5"], tmp_path / "both.h5")
    assert values(tmp_path / "both.h5") == {**values(path), 7: 7}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["add", "flush", "crash", "finish"]) | st.integers(0, 12), max_size=25))
def test_every_step_is_there_once_with_its_latest_value(tmp_path_factory, actions):
    path = tmp_path_factory.mktemp("growing") / "run.h5"
    record, step, expected, version = growing(path), 0, {}, 0
    for action in actions:
        if action == "add":
            version += 1
            record.add("loss", row(version), step, PROVENANCE)
            expected[step] = version
            step += 1
        elif action == "flush":
            record.flush()
        else:
            if action == "crash":
                on_disk = values(path) if [*path.parent.rglob("*.h5")] else {}
                record.release()
                step = max([s + 1 for s in on_disk], default=0)
            elif action == "finish":
                record.finish()
            else:
                record.flush()
                record.release()
                step = min(step, action)
            record = growing(path)
            record.resume(step)
            expected = {each: value for each, value in expected.items() if each < step}
    if expected:
        record.finish()
        assert values(path) == expected


def test_a_record_that_is_there_is_not_written_over(tmp_path):
    path = tmp_path / "run.h5"
    first = growing(path)
    first.add("loss", row(1), 1, PROVENANCE)
    first.finish()
    with pytest.raises(InputError, match="is there already: give another file"):
        growing(path).begin()
    other = GrowingRecord(path, {"problem": "another"})
    other.declare("loss", {"tol": 1})
    with pytest.raises(InputError, match=r"of another training .problem is one there and another here"):
        other.resume(5)
    other.release()
    again = growing(path, overwrite=True)
    again.add("loss", row(2), 0, PROVENANCE)
    again.finish()
    assert values(path) == {0: 2}
    with pytest.raises(InputError, match="there is no folder"):
        growing(tmp_path / "none" / "run.h5")


def test_one_writer_at_a_time(tmp_path):
    first, second = growing(tmp_path / "run.h5"), growing(tmp_path / "run.h5", overwrite=True)
    first.begin()
    with pytest.raises(InputError, match="is being written by"):
        second.begin()
    first.release()
    assert not (tmp_path / "run.h5.parts").exists()


def test_rows_that_do_not_fit_are_refused(tmp_path):
    record = growing(tmp_path / "run.h5")
    record.add("loss", row(1), 1, PROVENANCE)
    with pytest.raises(ValueError, match="has a row of step 1 already"):
        record.add("loss", row(1), 1, PROVENANCE)
    with pytest.raises(InputError, match="loss of step 2 does not fit the earlier rows"):
        record.add("loss", row(1).drop_vars("name"), 2, PROVENANCE)


def test_a_process_that_follows_writes_nothing(tmp_path):
    record = growing(tmp_path / "run.h5", follows=True)
    record.begin()
    record.add("loss", row(1), 1, PROVENANCE)
    record.finish()
    assert list(tmp_path.iterdir()) == []


def test_many_parts_become_one(tmp_path):
    record = growing(tmp_path / "run.h5")
    for step in range(70):
        record.add("loss", row(step), step, PROVENANCE)
        record.flush()
    assert len(list((tmp_path / "run.h5.parts").glob("*.h5"))) < 10
    record.finish()
    assert values(tmp_path / "run.h5") == {step: step for step in range(70)}


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from tests.record.test_growing import PROVENANCE, growing, row
    import landscape.record.growing as growing_module
    record, calls = growing("run.h5"), 0
    if os.path.exists("run.h5.parts"):
        record.resume({start})
    for step in range({start}, 20):
        record.add("loss", row(step), step, PROVENANCE)
        if step == {killed}:
            write = growing_module.write_rows
            def half(path, *rest):
                write(path, *rest)
                os.kill(os.getpid(), signal.SIGKILL)
            growing_module.write_rows = half
        if step % 3 == 2 or step == {killed}:
            record.flush()
    record.finish()
"""


def test_a_killed_run_goes_on(tmp_path):
    """Killed while a part is written: the part isn't there, and the run goes on from its last whole part."""
    for start, killed in ((0, 7), (6, 14), (12, -1)):
        program = textwrap.dedent(KILLED).format(root=str(ROOT), start=start, killed=killed)
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ, check=False)
        assert done.returncode == (0 if killed < 0 else -signal.SIGKILL)
    assert values(tmp_path / "run.h5") == {step: step for step in range(20)}
    assert np.all(np.diff(list(values(tmp_path / "run.h5"))) > 0)
