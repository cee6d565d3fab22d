"""Old names: each one works, and warns of its new name by a FutureWarning."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import nn

import landscape
from landscape import figures
from landscape.curvature.hessian import Hessian
from landscape.loading.source import Source
from landscape.machine.processes import SINGLE_PROCESS
from landscape.measurements.runner import Row


@pytest.fixture
def problem():
    torch.manual_seed(0)
    data = [(torch.randn(6, 3), torch.randn(6, 1))]
    return landscape.Problem(nn.Linear(3, 1), nn.MSELoss(), data, dtype=torch.float64)


def test_old_members_give_what_the_new_ones_do(problem):
    pairs = landscape.top_eigenpairs(problem.hessian(), k=2)
    with pytest.warns(FutureWarning, match=r"Eigenpairs\.missed is called miss_probability now; .* 0\.3"):
        assert pairs.missed == pairs.miss_probability
    with pytest.warns(FutureWarning, match=r"Problem\.split_over is called distributed_over now"):
        assert problem.split_over(SINGLE_PROCESS) is problem
    with pytest.warns(FutureWarning, match=r"Problem\.compiling is called compile_products now"):
        assert problem.compiling == "auto"
    row = Row("a.pt", 1, "", {}, ["not converged"], [])
    with pytest.warns(FutureWarning, match=r"Row\.shortfalls is called unmet_goals now"):
        assert row.shortfalls == ["not converged"]
    assert "missed" not in {each.name for each in fields(pairs)}


def test_old_arguments_are_taken(problem):
    with pytest.warns(FutureWarning, match=r"Problem\.to\(compiling=\.\.\.\) is called compile_products now"):
        assert problem.to(compiling="off").compile_products == "off"
    with pytest.warns(FutureWarning, match=r"Source\(compiling=\.\.\.\)"):
        assert Source(compiling="off").compile_products == "off"
    with pytest.warns(FutureWarning, match=r"load_problem\(compiling=\.\.\.\)"):
        assert landscape.load_problem("data/single.pt", compiling="off").compile_products == "off"
    with pytest.warns(FutureWarning, match=r"BatchedOperator\(compiling=\.\.\.\)"):
        assert Hessian(problem, compiling="on").route.compiles


def test_a_superfluous_argument_is_taken(tiny):
    with pytest.warns(FutureWarning, match=r"probe\(append=\.\.\.\) isn't needed any more: .* 0\.3"):
        assert landscape.probe("a.pt", [landscape.Loss()], "run.h5", append=True).measured == 1


@pytest.mark.parametrize(("old", "new"), [("Look", "FigureStyle"), ("Shown", "RecordView")])
def test_old_exports_are_the_new_ones(old, new):
    with pytest.warns(FutureWarning, match=rf"landscape\.figures\.{old} is called {new} now"):
        assert getattr(figures, old) is getattr(figures, new)
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        _ = figures.Other
