"""The notebooks run from top to bottom, and the committed outputs are theirs."""

from __future__ import annotations

import nbclient
import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


# The second trains two models.
RUNS = [pytest.param(path, marks=[pytest.mark.slow] * path.stem.startswith("2"), id=path.stem) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", RUNS)
@pytest.mark.filterwarnings("default")  # the kernel's own
def test_runs_from_top_to_bottom(path, monkeypatch):
    """An error in a cell fails the test, and every cell with a committed figure makes a figure again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    committed = nbformat.read(path, as_version=4)
    again = nbclient.NotebookClient(
        nbformat.from_dict(committed), timeout=300, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for before, now in zip(committed.cells, again.cells, strict=True):
        if before.cell_type == "code":
            assert kinds(before) == kinds(now), before.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2


def kinds(cell: nbformat.NotebookNode) -> set[str]:
    """The kinds of a cell's outputs, of images and plain text; printed messages are no such output."""
    found = {name for output in cell.outputs for name in output.get("data", {})}
    return found & {"image/png", "text/plain"}
