"""Two small runs with all measurements, whose values are orders of magnitude apart: records for tests of figures."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import landscape
from landscape.checkpoint import save_checkpoint
from landscape.cli.probe import main as probe
from tests.measurements.test_run import CLASSES

# The problem `CLASSES`, but with more samples and groups, and with outputs a hundred times as large.
STEEP = """
class Times(nn.Module):
    def forward(self, logits):
        return 100 * logits

def steep_data():
    x, y = data()
    return torch.cat([x, x[:26] + 0.1]), torch.cat([y, y[:26]])

def steep_model():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), Times())

def steep(checkpoint):
    x, y = steep_data()
    told = {"hard": ["no", "yes", "very"] * 22, "margin": x[:, 0].abs().numpy()}
    return Problem(steep_model(), nn.CrossEntropyLoss(), [(x, y)], about=told)

def classes_model():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
"""

ASKED = ["--hessian", "-k", 1, "--density", "--diagonal", "--critical-sharpness", "--dynamics", "--hops", "--samples",
         "--slice", "1d", "--slice", "2d", "--direction", "pca", "--direction", "pca", "--valley", "--at", -1,
         "--at", 5, "--steps", 5, "--probes", 4, "--points", 9]  # fmt: skip
# Of the last checkpoint alone.
LAST = ["--per-batch", 7, "--sampling-error", "-k", 2, "--noise-scale", "--neighbourhood", "--radii", 0.01,
        "--radii", 0.1, "--steps", 5, "--probes", 4]  # fmt: skip


WATCHED = 30  # steps
RECORDS = ("first.landscape.h5", "second.landscape.h5")


def write_records(folder: Path) -> None:
    """Train both models in a folder, measure all checkpoints into `RECORDS`, and one checkpoint into ``small.h5``."""
    (folder / "problem.py").write_text(CLASSES + STEEP)
    (folder / "pyproject.toml").write_text('[tool.landscape.problems]\ndefault = "problem.py:classes"\n')
    namespace: dict = {}
    exec(CLASSES + STEEP, namespace)
    runs = (
        ("first", "classes", namespace["data"](), namespace["classes_model"], 3, 0.5, range(11)),
        ("second", "steep", namespace["steep_data"](), namespace["steep_model"], 4, 1e-4, [*range(10), 30, 100, 500]),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        for name, problem, (x, y), make, seed, rate, steps in runs:
            torch.manual_seed(seed)
            model = make()
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            files = []
            watch = landscape.watch(
                model,
                functional.cross_entropy,
                [(x, y)],
                optimizer=optimizer,
                record=f"watched-{name}.landscape.h5",
                instruments=[landscape.live.every(1, each) for each in ("top_eigenvalues", "crossings")],
            )
            for step in range(max(steps) + 1):
                if step in steps:
                    files.append(f"{name}-{step:02}.pt")
                    save_checkpoint(files[-1], model.state_dict(), step=step, optimizer=optimizer.state_dict())
                optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                if step < WATCHED:
                    watch.step(step, loss=math.nan if step == 3 else 1.0)
            watch.close()
            own = ["--problem", f"problem.py:{problem}", "-o", f"{name}.landscape.h5"]
            for asked in ([*files, *ASKED, *own], [files[-1], *LAST, *own]):
                assert probe([str(each) for each in asked]) in (0, 3), asked
        assert probe(["first-00.pt", "--hessian", "-k", "1", "-o", "small.h5"]) == 0
