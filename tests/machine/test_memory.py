"""Limits of memory: they are given in words, respected and measured."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from landscape import (
    Hessian,
    InputError,
    MatrixOperator,
    Preconditioned,
    Problem,
    lanczos,
    load_problem,
    open_record,
    top_eigenpairs,
)
from landscape.curvature.fitting import fitted
from landscape.loading.source import Source
from landscape.machine.memory import OVERHEAD, Growth, bytes_of
from landscape.measurements import TopEigenpairs
from landscape.measurements.runner import probe
from landscape.problem.batches import part
from landscape.spectrum.basis_memory import basis_capacity, vectors_beside
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GB", 8 * 10**9), ("500 MB", 5 * 10**8), ("1.5gib", 3 * 2**29), ("70000000", 7 * 10**7), ("0.1T", 10**11)],
)
def test_amounts_are_read(text, expected):
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "-1GB", "1.2.3GB", "0GB", "nan"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(InputError, match="is no amount of memory; write 8GB"):
        bytes_of(text)


def test_too_little_is_refused():
    with pytest.raises(InputError, match="50MB is too little: a process takes 30 MB for itself"):
        bytes_of("50MB")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_growth_is_seen_also_when_it_is_over():
    growth = Growth(CPU)
    held = torch.ones(50_000_000)  # 200 MB
    del held
    assert 190e6 < growth.most() < 230e6
    assert Growth(CPU).most() < 20e6


def wide(samples=40):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(samples, 20, generator=g), torch.randint(0, 3, (samples,), generator=g)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 2000), nn.Tanh(), nn.Linear(2000, 3))
    return Problem(model, nn.CrossEntropyLoss(), [(x, y)])


def graph_of(problem, samples):
    return Hessian(problem.with_tensors((), part(problem.batches[0], 0, samples)), 0).route.graph_bytes


def test_batches_are_split_until_one_fits():
    problem = wide()
    assert fitted(problem) is problem
    plenty = problem.to(memory=10**9)
    assert fitted(plenty) is plenty
    graph = Hessian(problem, 0).route.graph_bytes
    tight = fitted(problem.to(memory=OVERHEAD + 5 * graph // 2))
    largest = max(len(x) for x, _ in tight.batches)
    assert 4 * graph_of(problem, largest) <= 5 * graph // 2 < 4 * graph_of(problem, largest + 1)
    assert tight.data_sha256 == problem.data_sha256
    vector = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(tight.hessian().matvec(vector), problem.hessian().matvec(vector), atol=1e-6)


def test_batches_that_cannot_be_split_are_refused():
    model = nn.Sequential(nn.Linear(20, 2000), nn.BatchNorm1d(2000), nn.Linear(2000, 3))
    problem = Problem(model, nn.CrossEntropyLoss(), wide().batches, training=True)
    with pytest.raises(InputError, match="can't be split"):
        fitted(problem.to(memory=OVERHEAD + 10**6))


def test_the_basis_is_what_fits():
    operator = MatrixOperator(torch.eye(1000))
    size = 4 * 1000
    assert basis_capacity(operator, 5) == 350
    assert basis_capacity(operator, 5, 10**9) == 350
    assert basis_capacity(operator, 5, (20 + vectors_beside(5)) * size) == 20
    least = 2 * 5 + 4 + vectors_beside(5)
    assert basis_capacity(operator, 5, least * size) == 14
    assert basis_capacity(operator, 5, least * size - 1) == 30, "in a file"
    with pytest.raises(InputError, match=r"5 eigenpairs of 1,000 parameters need \d+ kB for vectors beside the basis"):
        basis_capacity(operator, 5, vectors_beside(5) * size - 1)
    assert basis_capacity(MatrixOperator(torch.eye(3)), 3, 20 * 12) == 3


def test_a_small_basis_finds_the_same_pairs():
    g = torch.Generator().manual_seed(0)
    matrix = torch.diag(torch.linspace(0, 1, 300, dtype=torch.float64) ** 4)
    rotation, _ = torch.linalg.qr(torch.randn(300, 300, generator=g, dtype=torch.float64))
    operator = MatrixOperator((rotation @ matrix @ rotation.T + (rotation @ matrix @ rotation.T).T) / 2)
    pairs = top_eigenpairs(operator, 3, tol=1e-6, memory=(12 + vectors_beside(3)) * 8 * 300, max_products=2000)
    assert pairs.converged.all()
    assert pairs.eigenvalues == pytest.approx(matrix.diag().flip(0)[:3].numpy(), rel=1e-10)


def test_every_basis_is_held_to_what_the_operator_leaves():
    problem = wide().to(memory=2 * OVERHEAD + 10 * 48003 * 4, compile_products="off")
    hessian = problem.hessian()
    assert hessian.memory == problem.memory - hessian.peak_bytes
    for kept in (2 * hessian + hessian, hessian.shifted(1.0), Preconditioned(hessian, np.ones(hessian.dim))):
        assert kept.memory == hessian.memory
    with pytest.raises(InputError, match=r"a basis of 900 vectors .* take 346 MB, and \d+ MB are left"):
        lanczos(hessian, 900)
    assert basis_capacity(hessian, 3, hessian.memory) < basis_capacity(hessian, 3)
    assert top_eigenpairs(hessian, 3, tol=0.1).converged.all()
    with pytest.raises(InputError, match="ask for fewer, or allow more memory"):
        top_eigenpairs(hessian, 300)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("allowed", [80, pytest.param(160, marks=pytest.mark.slow)])
def test_a_solve_keeps_to_its_memory_and_foresees_it(allowed, tmp_path):
    """The solve runs in a fresh process, so that earlier tests don't affect the measured memory."""
    out = tmp_path / "out.h5"
    command = ["data/looped.pt", "--hessian", "-k", "3", "--memory", f"{allowed}MB", "-o", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "landscape", *command], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "memory beyond model and data" in done.stdout
    with open_record(out) as record:
        told = json.loads(str(record["eigenpairs/provenance"].values[0]))
    assert told["memory"] <= allowed * 1e6
    assert abs(told["memory"] - told["memory_foreseen"]) <= max(0.15 * told["memory_foreseen"], 100e6)
    assert told["route"]["budget_bytes"] == (allowed * 10**6 - OVERHEAD) // 2


def test_memory_of_a_problem_that_is_loaded():
    problem = load_problem(ROOT / "data/looped.pt", project=ROOT, memory="1GB", compile_products="off")
    assert (problem.memory, problem.compile_products) == (10**9, "off")
    assert problem.at(problem.vector).memory == 10**9


def test_a_solve_that_tells_nothing_on_its_way_is_measured_too(tiny):
    """The problem has one parameter, so the basis spans the space after one product, without a step to report."""
    result = probe(
        ["a.pt"], [TopEigenpairs(1, tol_value=0.1)], "one.h5", source=Source(params="2.bias", compile_products="off")
    )
    told = json.loads(str(result.rows[0].data["eigenpairs"].provenance.values))
    assert told["memory_foreseen"] is not None or sys.platform != "linux"
    assert bool(result.rows[0].data["eigenpairs"].converged.all())
