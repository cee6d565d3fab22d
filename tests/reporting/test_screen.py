"""Printed results: words are whole at any width of the terminal, and a result is shown once."""

import json
import re
import sys

import nbclient
import nbformat
import numpy as np
import pytest
from rich.table import Table

import landscape
from landscape.cli import screen
from landscape.reporting.display import eigenvalue_table

NOTE = (
    "the plane's loss need not be that checkpoint's own, see a/folder/with-a-name/that-is-longer/than-the-screen/is.pt"
)
ROWS = [("blocks.0.attention.qkv.weight", "1.23456e-05", "0.123 (95 %: 0.101 to 0.145)", "undecided")]


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, item: str | Table) -> str:
    """The text that a terminal of this width is given, without colours."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = screen._Screen()
    (shown.table if isinstance(item, Table) else shown.sentence)(item)
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_sentence_is_broken_between_words(monkeypatch, capsys, width):
    lines = printed(monkeypatch, capsys, width, NOTE).splitlines()
    assert " ".join(lines) == NOTE
    assert all(len(line) <= width or " " not in line for line in lines)
    assert (len(lines) == 1) == (width >= len(NOTE))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_table_has_whole_words(monkeypatch, capsys, width):
    """A table has no frame if its words leave no space for one, and the edge never breaks a frame."""
    table = Table("layer", "top eigenvalue", "crossings of the floor", "verdict")
    for row in ROWS:
        table.add_row(*row)
    text = printed(monkeypatch, capsys, width, table)
    words = " ".join([*ROWS[0], "top eigenvalue crossings of the floor"]).split()
    assert [word for word in words if word not in re.split(r"[\s│┃]+", text)] == []
    widest = max(map(len, text.splitlines()))
    assert ("┃" in text) == (width >= 80)
    assert widest <= width or "┃" not in text


def test_where_no_terminal_is_a_line_stays_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    screen._Screen().sentence(NOTE)
    assert capsys.readouterr().out == NOTE + "\n"


def test_a_caption_is_broken_too(monkeypatch, capsys):
    one = np.ones(1)
    table = eigenvalue_table(one, np.array([[0.9, 1.1]]), one / 10, one > 0, "in float64")
    assert "has an eigenvalue this close" in " ".join(printed(monkeypatch, capsys, 45, table).split())


CELL = """
import landscape
import numpy as np
pairs = landscape.top_eigenpairs(np.diag(np.arange(1.0, 41)), 2)
"""


@pytest.mark.filterwarnings("default")  # the kernel's own
def test_a_notebook_shows_a_result_once_in_a_frame_that_holds_together(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = "from landscape.cli.screen import _Screen\nfrom rich.table import Table\n_Screen().table(Table('a word'))"
    cells = [nbformat.v4.new_code_cell(CELL + "pairs"), nbformat.v4.new_code_cell(command)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    shown, printed_ = (
        cell.outputs
        for cell in nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
        .execute()
        .cells
    )
    assert [output.output_type for output in shown] == ["execute_result"]
    (data,) = (output.data for output in shown)
    assert data["text/plain"].count("relative residual") == 1
    assert "monospace" in data["text/html"]
    assert "line-height:normal" in data["text/html"]
    assert "\x1b" not in data["text/plain"]
    assert [output.output_type for output in printed_] == ["stream"]
    assert "a word" in printed_[0].text


@pytest.mark.parametrize(("size", "said"), [(None, []), (0, []), (999_999, []), (2_400_000, ["2 MB"])])
def test_memory_is_told_from_a_megabyte_on(tiny, size, said):
    asked = landscape.TopEigenpairs(k=1)
    row = landscape.probe(tiny.folder / "a.pt", [asked], "a.h5").rows[0].data["eigenpairs"]
    told = json.loads(str(row.provenance.values)) | {"memory": size}
    shown = asked.show(row.assign(provenance=((), json.dumps(told))))
    lines = [line for line in shown if isinstance(line, str) and "memory" in line]
    assert [line.split(",")[0] for line in lines] == [f"memory beyond model and data: {each}" for each in said]
