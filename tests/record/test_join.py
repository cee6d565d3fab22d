"""Joined records of jobs that each measured some checkpoints, against one record of all checkpoints."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

import landscape
from landscape.checkpoint import read_checkpoint, save_checkpoint
from landscape.cli.probe import main
from landscape.errors import InputError
from landscape.measurements.run import History
from landscape.record import RecordWriter, Request, read_provenance, read_request, row_at
from landscape.record.hdf5 import RowPlace
from landscape.record.merge import merge
from models.settings import TrainingSettings, checkpoints_of
from models.training import train
from tests.record.test_record import ATTRS, SHA


def written(path: Path, *values: np.ndarray | float) -> Path:
    """Write a record of these losses at successive checkpoints."""
    with RecordWriter(path, Request({"loss": {}}, {"loss": tuple(SHA[1 : 1 + len(values)])}, {})) as writer:
        for number, value in enumerate(map(np.asarray, values), 1):
            checkpoint = {"path": f"{number}.pt", "sha256": SHA[number], "step": number}
            unit = xr.Dataset({"value": (("entry",) * value.ndim, value, ATTRS)})
            writer.add("loss", unit, {"checkpoint": checkpoint})
    return path


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of four checkpoints: one of all, and two of jobs, the first of which has the later checkpoints."""
    folder = tmp_path_factory.mktemp("jobs")
    train(TrainingSettings("single", epochs=1, steps_per_epoch=4, batch=4, width=2, heads=1), folder / "run")
    files = checkpoints_of(folder / "run")
    measurements = [landscape.Loss(), landscape.Trace(probes=10), landscape.Samples()]
    for name, chosen in (("whole", files), ("late", files[2:]), ("early", files[:2])):
        landscape.probe(chosen, measurements, folder / f"{name}.h5")
    return folder


@pytest.mark.slow
def test_rows_are_those_of_one_record_in_the_order_of_their_steps(jobs: Path, tmp_path: Path) -> None:
    out = landscape.join_records([jobs / "late.h5", jobs / "early.h5"], tmp_path / "joined.h5")
    with landscape.open_record(out) as joined, landscape.open_record(jobs / "whole.h5") as whole:
        assert list(joined.children) == list(whole.children)
        for name, group in whole.children.items():
            assert joined[name].step.values.tolist() == [0, 1, 2, 4]
            for variable in group.data_vars:
                if variable not in ("provenance", "started", "seconds"):
                    assert np.array_equal(joined[name][variable].values, group[variable].values), (name, variable)


def test_a_joined_record_is_resumed_as_one_of_all(jobs: Path, tmp_path: Path) -> None:
    """A repeated request finds everything measured in the joined record."""
    out = landscape.join_records([jobs / "late.h5", jobs / "early.h5"], tmp_path / "joined.h5")
    measurements = [landscape.Loss(), landscape.Trace(probes=10), landscape.Samples()]
    assert landscape.probe(checkpoints_of(jobs / "run"), measurements, out).measured == 0


def test_records_stay_and_overlap(jobs: Path, tmp_path: Path) -> None:
    before = (jobs / "late.h5").read_bytes()
    out = landscape.join_records([jobs / "late.h5", jobs / "whole.h5"], tmp_path / "joined.h5")
    with landscape.open_record(out) as joined:
        assert joined["loss"].step.values.tolist() == [0, 1, 2, 4]
    assert (jobs / "late.h5").read_bytes() == before


def test_what_several_records_have_is_taken_from_the_first(tmp_path: Path) -> None:
    files = [written(tmp_path / "a.h5", 1.0), written(tmp_path / "b.h5", 2.0, 20.0), written(tmp_path / "c.h5", 3.0)]
    for order, values in (((0, 1, 2), [1, 20]), ((1, 0, 2), [2, 20]), ((2, 1, 0), [3, 20])):
        out = landscape.join_records([files[at] for at in order], tmp_path / f"from-{order[0]}.h5")
        with landscape.open_record(out) as joined:
            assert joined["loss"].dataset["value"].values.tolist() == values


def test_other_settings_and_what_is_there_are_refused(jobs: Path, tmp_path: Path) -> None:
    other = landscape.probe(checkpoints_of(jobs / "run")[:1], [landscape.Trace(probes=11)], tmp_path / "other.h5").path
    with pytest.raises(InputError, match=r"other\.h5 can't be joined with .*late\.h5: trace probes is 10 there"):
        landscape.join_records([jobs / "late.h5", other], tmp_path / "joined.h5")
    assert not (tmp_path / "joined.h5").exists()
    (tmp_path / "there.h5").touch()
    with pytest.raises(InputError, match="exists already"):
        landscape.join_records([jobs / "late.h5"], tmp_path / "there.h5")
    with pytest.raises(InputError, match="is not a landscape record"):
        landscape.join_records([jobs / "late.h5"], tmp_path / "there.h5", overwrite=True)
    assert (tmp_path / "there.h5").read_bytes() == b""
    landscape.join_records([jobs / "late.h5"], other, overwrite=True)
    with pytest.raises(InputError, match="is one of the records"):
        landscape.join_records([jobs / "late.h5"], jobs / "late.h5", overwrite=True)
    with pytest.raises(InputError, match="no record given"):
        landscape.join_records([], tmp_path / "joined.h5")


def test_a_part_of_an_unfinished_record_is_no_record(jobs: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.h5"
    with RecordWriter(tmp_path / "a.h5", read_request(jobs / "whole.h5")) as writer:
        loss = landscape.Loss().measure(
            landscape.load_problem(checkpoints_of(jobs / "run")[0]), lambda *_: None, History()
        )
        with landscape.open_record(jobs / "whole.h5") as whole:
            writer.add("loss", loss.dataset, read_provenance(whole, "loss", 0))
    (written,) = (tmp_path / "a.h5.parts").glob("loss-*.h5")
    written.rename(part)
    with pytest.raises(InputError, match=r"part\.h5 is unfinished: it lacks 11 rows"):
        landscape.join_records([part], tmp_path / "joined.h5")


def test_without_steps_rows_are_in_the_order_of_their_names(jobs: Path, tmp_path: Path) -> None:
    """Numbers in names are ordered as numbers, and the joined record can be resumed."""
    state = read_checkpoint(checkpoints_of(jobs / "run")[0])
    files = []
    for number in (10, 2, 1):
        files.append(tmp_path / f"w{number}.pt")
        changed = {name: value + 0.01 * number for name, value in state.state.items()}
        save_checkpoint(files[-1], changed, problem=state.problem, arguments=state.arguments)
        landscape.probe(files[-1], [landscape.Loss()], tmp_path / f"{number}.h5")
    out = landscape.join_records([tmp_path / f"{number}.h5" for number in (10, 2, 1)], tmp_path / "joined.h5")
    with landscape.open_record(out) as joined:
        assert [Path(each).name for each in joined["loss"].dataset["path"].values] == ["w1.pt", "w2.pt", "w10.pt"]
    assert landscape.probe(files, [landscape.Loss()], out).measured == 0


def test_command(jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--merge", str(jobs / "late.h5"), str(jobs / "early.h5")]
    assert main([*arguments, "-o", str(tmp_path / "joined.h5")]) == 0
    assert "(of 2 records)" in capsys.readouterr().out
    for wrong, says in (
        (arguments, "name the new record with -o"),
        ([*arguments, "--hessian"], "leave out --hessian"),
        (["--merge", str(jobs / "run" / "step-000000.pt"), "-o", str(tmp_path / "a.h5")], "step-000000.pt"),
    ):
        assert main(wrong) == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow
def test_what_can_be_read_of_a_damaged_record_is_saved(jobs: Path, tmp_path: Path, capsys) -> None:
    """If a file's end is cut off, no row is read wrongly, and the record's command measures the lost rows again."""
    whole = (jobs / "whole.h5").read_bytes()
    kept = set()
    for tenths in range(1, 10):
        cut, out = tmp_path / "cut.h5", tmp_path / f"{tenths}.h5"
        cut.write_bytes(whole[: len(whole) * tenths // 10])
        with pytest.raises(InputError, match="damaged"):
            landscape.join_records([cut], out)
        status = main(["--merge", str(cut), "-o", str(out)])
        told = capsys.readouterr()
        if status == 2:
            assert "damaged" in told.err
            assert [path for path in tmp_path.iterdir() if path.name.startswith(out.name)] == []
            continue
        assert status == 3
        with landscape.open_record(out) as saved, landscape.open_record(jobs / "whole.h5") as before:
            rows = sum(group.sizes["checkpoint"] for group in saved.children.values())
            assert told.out.count("LOST: ") == 12 - rows
            for name, group in saved.children.items():
                assert np.isin(group.sha256.values, before[name].sha256.values).all()
                at = [list(before[name].sha256.values).index(sha) for sha in group.sha256.values]
                for variable in group.data_vars:
                    assert np.array_equal(group[variable].values, before[name][variable].values[at]), variable
        kept.add(rows)
    assert kept - {0}
    measurements = [landscape.Loss(), landscape.Trace(probes=10), landscape.Samples()]
    assert landscape.probe(checkpoints_of(jobs / "run"), measurements, out).measured == 12 - rows
    both = landscape.join_records([cut, jobs / "late.h5", jobs / "early.h5"], tmp_path / "both.h5")
    assert landscape.probe(checkpoints_of(jobs / "run"), measurements, both).measured == 0


def test_rows_are_saved_up_to_the_byte_at_which_a_file_was_cut_off(tmp_path: Path) -> None:
    """A row with one missing byte is lost, and a row that ends at the end of the file isn't."""
    made = written(tmp_path / "whole.h5", *(np.full(5000, number + 0.5) for number in range(3)))
    with h5py.File(made) as file:
        data = file["loss/value"].id
        begin, size = data.get_offset(), data.get_storage_size()
    assert size == 3 * 5000 * 8
    for end, rows in ((3 * 40000, 3), (3 * 40000 - 1, 2), (2 * 40000, 2), (2 * 40000 - 1, 1)):
        cut, lost = tmp_path / f"cut-{end}.h5", []
        cut.write_bytes(made.read_bytes()[: begin + end])
        landscape.join_records([cut], tmp_path / f"{end}.h5", on_loss=lost.append)
        with landscape.open_record(tmp_path / f"{end}.h5") as saved:
            values = saved["loss"].dataset["value"].values
        assert values.shape == (rows, 5000)
        assert (values == np.arange(rows)[:, None] + 0.5).all()
        assert len(lost) == 3 - rows


def test_groups_after_a_damaged_one_are_saved(jobs: Path, tmp_path: Path, capsys) -> None:
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes((jobs / "early.h5").read_bytes())
    with h5py.File(damaged, "r+") as file:
        names = list(json.loads(file.attrs["request"])["measurements"])
        del file[names[0]]["sha256"]
    assert main(["--merge", str(damaged), "-o", str(tmp_path / "out.h5")]) == 3
    assert capsys.readouterr().out.count("LOST: ") == 2
    with landscape.open_record(tmp_path / "out.h5") as saved:
        assert set(saved.children) == set(names[1:])
        assert all(group.sizes["checkpoint"] == 2 for group in saved.children.values())


def test_damage_in_one_of_the_rows_names_its_file(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one.h5", 1.0), tmp_path / "other.h5"
    with RecordWriter(other, Request({"loss": {}}, {"loss": SHA[2:3]}, {})) as writer:
        unit = xr.Dataset({"value": ((), 2.0, ATTRS)})
        writer.add("loss", unit, {"checkpoint": {"path": "2.pt", "sha256": SHA[2], "step": 2}})
    with h5py.File(other, "r+") as file:
        del file["loss/value"].attrs["DIMENSION_LABELS"]
    places = {("loss", SHA[1]): RowPlace(one, 0), ("loss", SHA[2]): RowPlace(other, 0)}
    request = Request({"loss": {}}, {"loss": SHA[1:3]}, {})
    with pytest.raises(InputError, match=r"other\.h5 is damaged"):
        merge(tmp_path / "merged.h5", request, places)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 1, 3], [0, 2, 3], [3, 2, 1, 0], [0, 1, 3]])
def test_rows_of_one_file_in_any_order(tmp_path: Path, order: list[int]) -> None:
    """Rows that follow one another are copied as one array; others aren't."""
    values = [np.arange(number, 3 * number, dtype=float) for number in range(1, 5)]
    path = written(tmp_path / "all.h5", *values)
    places = {("loss", SHA[1 + position]): RowPlace(path, position) for position in order}
    merge(tmp_path / "some.h5", Request({"loss": {}}, {"loss": tuple(sha for _, sha in places)}, {}), places)
    with landscape.open_record(tmp_path / "some.h5") as tree:
        group = tree["loss"].to_dataset().load()
    assert group.step.values.tolist() == [position + 1 for position in order]
    for row, position in enumerate(order):
        assert row_at(group, row).value.values.tolist() == values[position].tolist()
