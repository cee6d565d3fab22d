"""Fixtures: a small project for tests of the command, and records for tests of figures.

Tests run on one thread, unless the variable TEST_THREADS sets another number (`make test-kernels`). The matrices are
small, so threads would wait for each other longer than they compute.
"""

from __future__ import annotations

import os

# Set before NumPy and torch are imported, which read these variables. Processes that tests start inherit them.
os.environ.update(
    dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), os.environ.get("TEST_THREADS", "1"))
)

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.func import functional_call

from landscape.checkpoint import save_checkpoint
from landscape.cli.probe import main

if TYPE_CHECKING:
    from landscape.figures import RecordView

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ROOT = Path(__file__).parents[1]


# The test files that take longest. They come first, so that no process ends with one of them.
LONGEST = ("test_figures", "test_hostile", "test_cli", "test_letters", "test_pretrained", "test_limits",
           "test_eigenpairs", "test_measurements", "test_run", "test_ticks", "test_record", "test_hessian",
           "test_routes")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of `LONGEST` first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def own_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset a module's generator RNG before each test, so that its numbers don't depend on earlier tests."""
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0))


# Problem factories of a project of 13 parameters, so small that a run takes milliseconds.
PROBLEM = """
import torch
from torch import nn
from landscape.problem import Problem

number = 3

def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 2, generator=generator), torch.randn(20, 1, generator=generator)

def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

def tiny(checkpoint, *, scale=1.0):
    inputs, targets = data()
    return Problem(model(), nn.MSELoss(), [(inputs, scale * targets)])

def raises(checkpoint, **_):
    raise RuntimeError("no such corpus")

def not_a_problem(checkpoint, **_):
    return model()

def nan_data(checkpoint, **_):
    inputs, targets = data()
    return Problem(model(), nn.MSELoss(), [(inputs * float("nan"), targets)])

def infinite_data(checkpoint, **_):
    inputs, targets = data()
    return Problem(model(), nn.MSELoss(), [(inputs, targets / 0)])

def nan_loss(checkpoint, **_):
    return Problem(model(), lambda output, target: (output - target).sum(1) * float("nan"), [data()])

def infinite_loss(checkpoint, **_):
    return Problem(model(), lambda output, target: (output - target).sum(1).abs() / 0, [data()])

def nan_gradient(checkpoint, **_):
    return Problem(model(), lambda output, target: (0 * (output - target)).sum(1).sqrt(), [data()])
"""


@dataclass(frozen=True)
class Ran:
    """The exit status, the output and the errors of a command."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class TinyProject:
    """A project in a folder that is the working directory, with the checkpoints a.pt, b.pt and c.pt."""

    folder: Path

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

    def save(self, name: str, seed: int, step: int | None = None, **more: object) -> Path:
        """Write a checkpoint with weights drawn from a seed."""
        generator = torch.Generator().manual_seed(seed)
        state = {key: torch.randn(value.shape, generator=generator) for key, value in self.model().state_dict().items()}
        return save_checkpoint(self.folder / name, state, step=step, **more)

    def hessian(self, name: str) -> Tensor:
        """The dense Hessian at a checkpoint in float64, by torch.func.hessian of the mean squared error."""
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(20, 2, generator=generator).double(), torch.randn(20, 1, generator=generator).double()
        model = self.model().double()
        state = torch.load(self.folder / name)["state"]
        shapes = {key: value.shape for key, value in model.named_parameters()}

        def loss(vector: Tensor) -> Tensor:
            pieces = vector.split([shape.numel() for shape in shapes.values()])
            named = {key: piece.view(shape) for (key, shape), piece in zip(shapes.items(), pieces, strict=True)}
            return (functional_call(model, named, (x,)) - y).square().mean()

        return torch.func.hessian(loss)(torch.cat([state[key].double().flatten() for key in shapes]))

    def listing(self) -> dict[str, str]:
        """Every file with the hash of its content, and every folder with an empty text, except Python's caches."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            for path in sorted(self.folder.rglob("*"))
            if "__pycache__" not in path.parts
        }


def _running(program: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        status = program([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """A function that runs landscape-probe in this process."""
    return _running(main, capsys)


@pytest.fixture
def plot(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """A function that runs landscape-plot in this process, in a folder of the test's own."""
    from landscape.cli.plot import main as plot_main

    monkeypatch.chdir(tmp_path)
    return _running(plot_main, capsys)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyProject:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "problem.py").write_text(PROBLEM)
    (tmp_path / "pyproject.toml").write_text('[tool.landscape.problems]\ndefault = "problem.py:tiny"\n')
    project = TinyProject(tmp_path)
    for seed, name in enumerate(("a", "b", "c")):
        project.save(f"{name}.pt", seed, step=10 * seed)
    return project


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The records of `tests.support.drawn`, written once for all processes that test figures."""
    from tests.support.drawn import RECORDS, write_records  # imported here, because few tests need figures

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "records"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            write_records(folder)
            (folder / "made").touch()
    return [folder / name for name in RECORDS]


@pytest.fixture(scope="session")
def shown(records: list[Path]) -> list[RecordView]:
    from landscape.figures import RecordView

    views = [RecordView.read(path) for path in records]
    watched = [RecordView.read(path.with_name(f"watched-{path.name}")) for path in records]
    names = ("top_eigenvalues", "crossings", "events")
    return [
        replace(view, groups=view.groups | {name: other.groups[name] for name in names})
        for view, other in zip(views, watched, strict=True)
    ]
