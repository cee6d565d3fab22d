"""Records of older versions: they are read and drawn under present names, and never written to.

The record was written by version 0.1: `landscape-probe data/single.pt --hessian -k 2 --no-eigenvectors --density
--probes 2 --steps 5`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from landscape import InputError, density_of, eigenpairs_of, join_records, open_record
from landscape.figures import RecordView, available
from landscape.record import read_request
from tests.conftest import ROOT


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the old record."""
    return Path(shutil.copy(ROOT / "tests" / "support" / "record_of_0.1.h5", tmp_path / "old.h5"))


def test_an_older_record_has_the_names_of_today(old):
    with h5py.File(old) as file:
        assert "hessian" in file
        stored = file["hessian/eigenvalues"][0]
    with open_record(old) as record:
        assert set(record.children) == {"density", "eigenpairs", "loss"}
        row = record["eigenpairs"].dataset.isel(checkpoint=0).load()
        np.testing.assert_array_equal(row.eigenvalues.values, stored)
        assert density_of(record["density"].dataset.isel(checkpoint=0).load()).probes == 2
    assert read_request(old).settings["hessian"]["k"] == 2


def test_an_older_record_is_drawn(old, tmp_path):
    assert {"eigenvalues", "density", "summary"} <= set(available([RecordView.read(old)]))


def test_nothing_is_added_to_an_older_record(old, command):
    before = old.read_bytes()
    ran = command(str(ROOT / "data" / "single.pt"), "--trace", "-o", str(old), "--project", str(ROOT))
    assert ran.status == 2
    assert "has an older version: landscape-probe reads and draws this record, but can't add to it" in ran.err
    assert old.read_bytes() == before


def test_an_older_record_is_not_joined(old, tmp_path):
    with pytest.raises(InputError, match="has an older version"):
        join_records([old], tmp_path / "joined.h5")


def test_an_older_unfinished_record_is_refused(old, tmp_path):
    parts = tmp_path / "run.h5.parts"
    parts.mkdir()
    (parts / "request.json").write_text('{"format": "landscape-record", "schema_version": 1, "request": {}}')
    with pytest.raises(InputError, match="has an older version"):
        open_record(tmp_path / "run.h5")


def test_eigenpairs_without_vectors_say_so(old):
    """Stored eigenpairs of old and new records are read alike; this old record has no vectors."""
    with open_record(old) as record, pytest.raises(InputError, match="eigenvectors"):
        eigenpairs_of(record["eigenpairs"].dataset.isel(checkpoint=0).load())
