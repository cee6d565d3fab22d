"""The README's code runs as printed, and its links lead somewhere."""

import re
import runpy
import shlex
import sys
import types
from pathlib import Path

import pytest
import torch

from landscape.cli.plot import main as plot
from landscape.cli.probe import main
from landscape.record import open_record
from models.train import app
from tests.conftest import ROOT
from tests.problem.test_strangers import CASES

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
MY_PROJECT = """
import torch

class MyModel(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

def validation_loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator)
    return [(x, torch.randint(0, 2, (20,), generator=generator))]
"""


def test_the_factory_of_the_readme_probes_a_checkpoint_of_its_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_project.py").write_text(MY_PROJECT)
    (tmp_path / "my_problem.py").write_text(BLOCKS[0])
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "checkpoint.pt")
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"landscape-probe checkpoint\.pt (.*)", README)
    try:
        assert main(["checkpoint.pt", *line.replace("-k 20", "-k 8").split()]) == 0
    finally:
        sys.modules.pop("my_project", None)
    assert (tmp_path / "checkpoint.h5").exists()
    assert "8 parameters" in capsys.readouterr().out


def test_the_three_lines_of_the_readme_give_eigenpairs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    exec(compile(BLOCKS[1], "README.md", "exec"), {})
    assert "True" in capsys.readouterr().out


def test_the_criterion_of_the_readme_can_be_asked():
    model = types.SimpleNamespace(loops=1)
    exec(compile(BLOCKS[2], "README.md", "exec"), {"model": model})
    assert model.loops == 1  # two epochs aren't enough for a plateau


def test_sharpness_along_a_training_runs_as_printed(tmp_path, monkeypatch, capsys):
    """Python blocks are files, commands run in order, and lines of text are in the output of the commands before."""
    page = (ROOT / "docs" / "sharpness-along-a-training.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    programs, printed = {"landscape-probe": main, "landscape-plot": plot}, ""
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL):
        if kind == "python":
            Path(block.split("\n")[0].removeprefix("# ")).write_text(block)
        elif kind == "text":
            assert all(line in printed for line in block.splitlines())
        else:
            for line in block.splitlines():
                program, *words = shlex.split(line)
                if program == "python":
                    runpy.run_path(words[0], run_name="__main__")
                    continue
                files = sorted(map(str, Path().glob(words[0]))) if words[0].endswith("*.pt") else words[:1]
                assert programs[program]([*files, *words[1:]]) == 0, line
            printed = " ".join(capsys.readouterr().out.split())
    assert {each.stem for each in Path("figures").iterdir()} == {
        "fast-0-edge-of-stability",
        "fast-0-critical-sharpness",
    }
    assert [each.stem for each in Path("groups").iterdir()] == ["slow-vs-fast-groups"]


def watching(name):
    """The program of this name on the page on watching."""
    page = (ROOT / "docs" / "watch.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```python\n(# {name}\n.*?)```", page, flags=re.DOTALL)
    Path(name).write_text(block)
    runpy.run_path(name, run_name="__main__")


DEFAULT_GROUPS = {"loss", "top_eigenvalues", "stability", "critical_sharpness", "noise_scale"}


def test_the_training_of_the_page_on_watching_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watching("watched.py")
    with open_record("run.landscape.h5") as tree:
        assert set(tree.children) >= DEFAULT_GROUPS
    assert plot(["run.landscape.h5", "--figure", "timeline", "--figure", "edge-of-stability", "-o", "figures"]) == 0


@pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck:UserWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging:UserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:GPU available but not used:UserWarning")
def test_the_training_in_lightning_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watching("in_lightning.py")
    with open_record("lightning.landscape.h5") as tree:
        assert set(tree.children) >= DEFAULT_GROUPS


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
def test_the_training_in_the_trainer_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watching("in_trainer.py")
    with open_record("trainer.landscape.h5") as tree:
        assert "loss" in tree.children
    assert Path("trained/checkpoint-30/watch.pt").exists()


def test_the_training_commands_of_the_readme_are_understood():
    for line in re.findall(r"python -m models\.train (.*?)(?:`|  #|\n)", README):
        _, bound, _ = app.parse_args(line.split())
        bound.arguments["settings"].check()


@pytest.mark.parametrize("page", sorted(["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]))
def test_what_the_pages_name_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    places = re.findall(r"(?<![\w/])((?:docs|landscape|models|data|analysis|benchmarks|tests)/[\w./-]*\w)", text)
    assert not [place for place in places if not (ROOT / place).exists()]


def test_the_tests_of_the_situations_of_strangers_are_there():
    """Every row of the table names a test that exists, and every case of that test's file has its row."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split("## Strangers' situations")[1]
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| (\d) \| (tests/[\w/]+\.py), (.+?) \|$", page.split("\n## ")[0], re.MULTILINE
    )
    assert f"\n{len(rows)} things" in page
    assert len(rows) >= 50
    cases = {row[4].strip("`") for row in rows if row[4].startswith("`")}
    assert cases <= set(CASES)
    assert set(CASES) - cases == {"Embedding(max_norm=1, norm_type=1)"}  # another norm of the same
    for _, _, _, file, name in rows:
        if not name.startswith("`"):
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), name
