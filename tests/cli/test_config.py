"""Options from a file: one parser, precedence of the command line, and records that don't need the file."""

from __future__ import annotations

import json
import shlex

import pytest

import landscape


def command_in(record, measurement="eigenpairs"):
    with landscape.open_record(record) as tree:
        return json.loads(str(tree[measurement].provenance.values[0]))["command"]


def test_a_file_gives_what_the_command_line_does(command, tiny):
    (tiny.folder / "run.toml").write_text('checkpoints = ["a.pt", "b.pt"]\nhessian = true\nk = 2\nout = "file.h5"\n')
    assert command("--config", "run.toml").status == 0
    stored = command_in("file.h5")
    assert stored == "landscape-probe a.pt b.pt --hessian -k 2 -o file.h5"
    again = command(*shlex.split(stored)[1:])
    assert "complete already, nothing measured" in again.out


@pytest.mark.parametrize("option", [("-k", "3"), ("-k=3",)])
def test_the_command_line_comes_first(command, tiny, option):
    (tiny.folder / "run.toml").write_text("eigenpairs = true\nk = 2\ntol_estimate = 0.1\ntrace = true\n")
    assert command("a.pt", "--config=run.toml", *option, "-o", "run.h5").status == 0
    with landscape.open_record("run.h5") as tree:
        assert tree["eigenpairs"].sizes["index"] == 3
    assert "--tol-estimate 0.1" in command_in("run.h5", "trace")


def test_lists_and_switches(command, tiny):
    (tiny.folder / "run.toml").write_text(
        'slice = ["1d"]\ndirection = ["gaussian", "gradient"]\npoints = 3\nreach = 0.5\n'
        "hessian = true\nk = 1\neigenvectors = false\noverwrite = false\n"
    )
    assert command("a.pt", "--config", "run.toml", "-o", "run.h5").status == 0
    with landscape.open_record("run.h5") as tree:
        assert [name.split()[0] for name in tree["slices_1d"].direction.values] == ["Gaussian", "gradient"]
        assert "eigenvectors" not in tree["eigenpairs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hesian = true", "run.toml: 'hesian' is not an option; did you mean hessian?"),
        ("quux = true", "run.toml: 'quux' is not an option; landscape-probe --help lists the options"),
        ('config = "other.toml"', "run.toml: 'config' is not an option"),
        ("k = ", "run.toml: is not a TOML file of options"),
        ("[k]\na = 1", "run.toml: k is a dict"),
        ("k = 2.5", "not a whole number"),
        ('which = "MIDDLE"', "MIDDLE"),
        ('hessian = true\nkind = "ggn"', "run.toml: 'kind' is not an option"),
        ('hessian = true\nmatrix = "ggn"', "with --matrix ggn use --eigenpairs"),
    ],
)
def test_a_wrong_file_is_one_line(command, tiny, text, message):
    (tiny.folder / "run.toml").write_text(text)
    before = tiny.listing()
    ran = command("a.pt", "--config", "run.toml")
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert message in ran.err
    assert tiny.listing() == before


@pytest.mark.parametrize("given", [("--config",), ("--config", "nowhere.toml"), ("--config", "a.toml", "--config=b")])
def test_a_file_that_is_not_there(command, tiny, given):
    ran = command("a.pt", *given)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_options(shell):
    from landscape.cli import plot, probe

    assert "effective-dimension" in probe.app.generate_completion(shell=shell)
    assert "figure" in plot.app.generate_completion(shell=shell)
