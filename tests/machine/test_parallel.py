"""Several processes as one: shards add up to the whole, records equal those of one process, one failure ends all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import landscape
from landscape import EmpiricalFisher, ExactFisher, GaussNewton, Hessian, InputError, MonteCarloFisher, Problem
from landscape.machine.processes import SINGLE_PROCESS, Processes, own_device, process_group
from tests.support.oracles import dense


def posed(sizes, training=False, model=None):
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    batches = [
        (torch.randn(n, 3, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)) for n in sizes
    ]
    return Problem(model.double(), nn.CrossEntropyLoss(), batches, training=training)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), size=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_every_sample_is_of_one_process_and_shares_are_even(sizes, size):
    problem = posed(sizes)
    among = replace(problem.data, processes=Processes(0, size))
    if not all(among._parts(sizes, rank) for rank in range(size)):
        with pytest.raises(InputError, match="start fewer processes, or give larger batches"):
            problem.distributed_over(Processes(0, size))
        return
    split = [problem.distributed_over(Processes(rank, size)) for rank in range(size)]
    own = [each.local_shard().batches for each in split]
    inputs = torch.cat([batch[0] for batches in own for batch in batches])
    everything = torch.cat([batch[0] for batch in problem.batches])
    assert sorted(inputs.tolist()) == sorted(everything.tolist())
    counts = [sum(len(batch[0]) for batch in batches) for batches in own]
    assert max(counts) - min(counts) <= len(sizes)


@pytest.mark.parametrize("sizes", [[10], [5, 3, 2], [2, 2, 2, 3]], ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_parts_add_up_to_the_whole(sizes, size, monkeypatch):
    """The contributions of all processes to products, gradients and sums add up to the whole, without any exchange."""
    monkeypatch.setattr(Processes, "total", lambda self, part: part)
    problem = posed(sizes)
    split = [problem.distributed_over(Processes(rank, size)) for rank in range(size)]

    def close(parts, whole):
        return torch.allclose(sum(parts), whole, rtol=1e-12, atol=1e-14)

    for kind in (Hessian, GaussNewton, ExactFisher, MonteCarloFisher, EmpiricalFisher):
        assert close([dense(kind(each)) for each in split], dense(kind(problem)))
    labels = [MonteCarloFisher(each, samples=3).draw(1) for each in split]
    assert close(map(dense, labels), dense(MonteCarloFisher(problem, samples=3).draw(1)))
    assert close([each.gradient() for each in split], problem.gradient())
    sums = [each.by_sample() for each in split]
    whole = problem.by_sample()
    for name in ("losses", "weights", "correct"):
        assert close([getattr(each, name) for each in sums], getattr(whole, name))  # kernels depend on the batch's size
    assert sum(each.terms for each in sums) == whole.terms


def test_what_cannot_be_split_is_refused():
    with pytest.raises(InputError, match="some of 3 processes would have none of the 2 samples in 1 batches"):
        posed([2]).distributed_over(Processes(0, 3))
    split = posed([8]).distributed_over(Processes(0, 8))
    for fewer in (split.halves, lambda: split.sampled(3)):
        with pytest.raises(InputError, match="some of 8 processes would have none"):
            fewer()
    mixing = posed([8], training=True, model=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    with pytest.raises(InputError, match="can't be split"):
        mixing.distributed_over(Processes(0, 2))
    assert mixing.distributed_over(SINGLE_PROCESS) is mixing


def test_a_process_that_was_started_by_itself_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group() as processes:
        assert processes == SINGLE_PROCESS
        assert processes.first
        assert processes.total(torch.ones(2)).tolist() == [1, 1]
        assert processes.in_order(lambda: 3) == 3
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert own_device() == "cuda:2"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", *command]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=300)


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments)


ASKED = (
    "--hessian",
    "-k",
    "2",
    "--trace",
    "--probes",
    "3",
    "--per-layer",
    "--slice",
    "2d",
    "--points",
    "5",
    "--samples",
)


@pytest.mark.slow
def test_the_record_of_two_processes_is_that_of_one(tiny, tmp_path):
    asked = ("a.pt", "b.pt", *ASKED, "--batch-size", "7", "--dtype", "float64")
    alone = run("landscape", *asked, "-o", "one.h5")
    assert alone.returncode == 0, alone.stderr
    together = torchrun("-m", "landscape", *asked, "-o", "two.h5")
    assert together.returncode == 0, together.stderr
    assert together.stdout.replace("two.h5", "one.h5").splitlines()[:4] == alone.stdout.splitlines()[:4]
    assert together.stdout.count("Record:") == 1
    with landscape.open_record("one.h5") as one, landscape.open_record("two.h5") as two:
        assert set(one.children) == set(two.children)
        for name in one.children:
            compare(one[name].dataset, two[name].dataset)
    assert not list(tmp_path.glob("**/*.parts"))
    again = torchrun("-m", "landscape", *asked, "-o", "two.h5")
    assert again.returncode == 0
    assert again.stdout.splitlines()[:4] == together.stdout.splitlines()[:4]


def compare(one: xr.Dataset, two: xr.Dataset) -> None:
    for name, variable in one.variables.items():
        if variable.dtype.kind != "f":
            continue
        ours, theirs = variable.values, two[name].values
        if name == "eigenvectors":  # up to their sign
            ours, theirs = abs(ours), abs(theirs)
        if name in (
            "residuals",
            "rounding",
            "orthogonality",
            "intervals",
            "interval",
            "miss_probability",
        ):  # levels of rounding
            continue
        scale = np.nanmax(abs(ours), initial=1e-300)
        assert np.allclose(ours, theirs, rtol=0, atol=1e-10 * scale, equal_nan=True), name


@pytest.mark.slow
def test_bad_input_is_one_line_of_one_process(tiny):
    done = torchrun("-m", "landscape", "a.pt", "no.pt", "--hessian")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("landscape-probe:")]
    assert lines == ["landscape-probe: no.pt: no such file; check the path"]
    merged = torchrun("-m", "landscape", "a.pt", "--merge", "-o", "m.h5")
    assert "--merge runs in one process" in merged.stderr


FAILING = """
import os, sys
from landscape.cli.probe import main
from landscape.measurements import Loss

measure = Loss.measure

def failing(self, problem, *rest):
    from landscape.errors import InputError
    if os.environ["RANK"] == "1":
        raise InputError("the second disk is full")
    return measure(self, problem, *rest)

Loss.measure = failing
sys.exit(main(sys.argv[1:]))
"""


def test_one_process_that_fails_ends_all_with_its_message(tiny, tmp_path):
    Path("failing.py").write_text(FAILING)
    done = torchrun("failing.py", "a.pt", "-o", "out.h5")
    assert done.returncode != 0
    assert "landscape-probe: a.pt: the second disk is full" in done.stderr
    assert done.stderr.count("landscape-probe:") == 1
    assert not Path("out.h5").exists()


SHARDED = """
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.func import functional_call

distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()

generator = torch.Generator().manual_seed(1)
x, y = torch.randn(10, 6, generator=generator).double(), torch.randint(0, 4, (10,), generator=generator)
loss = nn.functional.cross_entropy
whole = dict(model().named_parameters())
along = {name: torch.randn(p.shape, generator=generator).double() for name, p in whole.items()}

def products(parameters, along, output):
    gradient = torch.autograd.grad(loss(output(), y), parameters, create_graph=True)
    return torch.autograd.grad(gradient, parameters, along)

expected = products(list(whole.values()), list(along.values()), lambda: functional_call(model(), whole, x))

shards = {n: distribute_tensor(p.detach(), mesh, [Shard(0)]).requires_grad_() for n, p in whole.items()}
pieces = [distribute_tensor(each, mesh, [Shard(0)]) for each in along.values()]
gathered = lambda: functional_call(model(), {n: p.full_tensor() for n, p in shards.items()}, x)
found = products(list(shards.values()), pieces, gathered)
assert all(torch.allclose(f.full_tensor(), e, rtol=1e-12, atol=1e-15) for f, e in zip(found, expected))

sharded = model()
for each in (sharded[0], sharded[2], sharded):
    fully_shard(each, mesh=mesh)
parameters = list(sharded.parameters())
gradient = torch.autograd.grad(loss(sharded(x), y), parameters, create_graph=True, allow_unused=True)
assert all(each is None for each in gradient)
loss(sharded(x), y).backward(create_graph=True)
assert not any(p.grad.requires_grad for p in sharded.parameters())
print("as told" if distributed.get_rank() == 0 else "", flush=True)
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_what_is_told_of_sharded_parameters_holds(tmp_path):
    """Claims of docs/scale.md: a fully sharded model has no second derivative, and DTensors have one."""
    program = tmp_path / "sharded.py"
    program.write_text(SHARDED)
    done = torchrun(str(program))
    assert "as told" in done.stdout, done.stderr


SHARED = """
import sys, torch
from torch import nn
from landscape import Problem, log_det, top_eigenpairs
from landscape.machine.memory import OVERHEAD
from landscape.machine.processes import process_group
from landscape.spectrum.basis_memory import bytes_of_basis, vectors_beside

def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    inputs = torch.randn(41, 6, dtype=torch.float64)
    return Problem(model, nn.CrossEntropyLoss(), [(inputs, torch.randint(0, 4, (41,)))])

k = 3
alone = top_eigenpairs(problem().hessian(), k, tol=1e-8)
expected = log_det(problem().hessian(), 1.0, probes=3).value
with process_group() as processes:
    hessian = problem().split_over(processes).hessian()
    for fitting, place, taken in ((7.5, "device", 14 * 52), (4, "file", 0)):  # of 2 k + 4, by halves 14 fit, or 7
        hessian.memory = int((vectors_beside(k) + fitting) * 8 * hessian.dim)
        found = bytes_of_basis(hessian, k, None, 1000)
        assert found == 8 * taken, found
        pairs = top_eigenpairs(hessian, k, tol=1e-8)
        assert (pairs.place, pairs.shared) == (place, True), pairs
        assert pairs.products > 26, "it was restarted"
        assert pairs.converged.all()
        assert abs(pairs.eigenvalues - alone.eigenvalues).max() < 1e-10 * abs(alone.eigenvalues).max()
        assert pairs.orthogonality < 1e-14
        v = pairs.eigenvectors
        residuals = (hessian @ v - v * torch.as_tensor(pairs.eigenvalues)).norm(dim=0)
        assert (residuals.numpy() <= pairs.residuals + pairs.rounding).all()
        assert abs(log_det(hessian, 1.0, probes=3).value - expected) < 1e-9 * abs(expected)
        hessian.memory *= 3  # a certified solve plans with a third
        certified = top_eigenpairs(hessian, k, tol_value=1e-4)
        assert (certified.place, certified.shared) == (place, True)
        assert (certified.intervals[:, 0] <= alone.eigenvalues + 1e-12).all()
        assert (certified.intervals[:, 1] >= alone.eigenvalues - 1e-12).all()
    short = problem().to(memory=OVERHEAD + 50_000, compile_products="off").distributed_over(processes).hessian()
    taken = torch.tensor([float(short.peak_bytes)])
    assert processes.total(taken) != 2 * short.peak_bytes, "one has a sample more"
    assert processes.largest(short.memory) == short.memory == -processes.largest(-short.memory)
    print("the same" if processes.first else "", flush=True)
"""


def test_processes_share_a_basis_for_which_one_has_no_room(tmp_path):
    program = tmp_path / "shared.py"
    program.write_text(SHARED)
    done = torchrun(str(program))
    assert "the same" in done.stdout, done.stderr


@given(length=st.integers(0, 30), size=st.integers(1, 7))
def test_every_place_is_of_one_process(length, size):
    shares = [Processes(rank, size).share(length) for rank in range(size)]
    assert [at for share in shares for at in range(length)[share]] == list(range(length))
    assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1
