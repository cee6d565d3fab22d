"""The sweep along training: its table counts its solves rightly, and the claims about it hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.accuracy.late import continue_training
from benchmarks.accuracy.sweep import Snapshot, snapshots, summarise, sweep, table, uncontained
from benchmarks.support.cases import ROOT
from benchmarks.support.plan import SMALL
from landscape import top_eigenpairs
from landscape.checkpoint import read_checkpoint
from tests.support.oracles import symmetric


@pytest.fixture(scope="module")
def series() -> list[Snapshot]:
    """Snapshots with outliers above a bulk; the eigenvectors turn a little from one snapshot to the next."""
    rng = np.random.default_rng(0)
    start = symmetric([5.0, 4.0, 3.0, -2.0, *rng.uniform(-1, 1, 200)]).numpy()
    drift = rng.standard_normal((2, 204, 204)) / 2000
    return [Snapshot.of(start + sum(drift[:i] + drift[:i].transpose(0, 2, 1), np.zeros_like(start))) for i in range(3)]


def test_training_goes_on_from_a_shipped_checkpoint(tmp_path):
    first, second = continue_training(ROOT / SMALL, tmp_path, apart=1, pairs=1)
    before, after = read_checkpoint(first), read_checkpoint(second)
    assert (before.step, after.step) == (4000, 4001)
    shipped = read_checkpoint(ROOT / SMALL).state
    assert all(torch.equal(tensor, shipped[name]) for name, tensor in before.state.items())
    assert any(not torch.equal(tensor, shipped[name]) for name, tensor in after.state.items())


def test_every_way_is_counted_over_all_pairs_and_seeds(series):
    costs = sweep(series, seeds=2, ks=(1, 3))
    assert [(cost.k, cost.goal, cost.start) for cost in costs] == [
        (k, goal, start) for k in (1, 3) for goal in ("residual 0.001", "value 0.01") for start in ("cold", "warm")
    ]
    assert all(len(cost.products) == 4 for cost in costs)
    assert all(cost.incomplete == cost.uncontained == 0 for cost in costs)
    cold = top_eigenpairs(series[1].operator, 1)
    assert (costs[0].products[0], costs[0].verification[0]) == (cold.products, cold.products_verification)
    lines = table(costs).markdown().splitlines()
    assert len(lines) == 2 + 2 + 8
    assert lines[4].startswith("| k = 1, residual 0.001, cold | ")


def test_an_eigenvalue_outside_its_interval_is_counted(series):
    pairs = top_eigenpairs(series[0].operator, 3)
    exact = series[0].exact[:3]
    assert uncontained(pairs, exact) == 0
    assert uncontained(pairs, exact + np.array([0, 1, 0])) == 1
    assert summarise(3, "", "", [(pairs, exact + 1), (pairs, exact)]).uncontained == 3


@pytest.mark.slow
def test_snapshots_are_those_of_training_going_on(tmp_path):
    first, second = snapshots(ROOT / SMALL, 1, 1, tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-004000.pt", "step-004020.pt"]
    assert first.operator.dim == len(first.exact) == 1224
    assert first.operator.dtype == torch.float32
    assert 0 < abs(abs(first.exact[0]) - abs(second.exact[0])) < abs(first.exact[0])


@pytest.mark.slow
def test_what_the_sweep_claims(tmp_path):
    """Late in training a goal for the eigenvalues and a warm start each save products, and no interval is wrong.

    Measurements over three pairs and ten seeds gave these savings. The top ten to 1 % take 20 % fewer products than
    to residuals of 1e-3. A warm start saves 15 % for one pair and 4 % for ten. The test asserts half of these savings,
    or that nothing is lost.
    """
    one, one_warm, _, _, ten, ten_warm, values, values_warm = sweep(snapshots(ROOT / SMALL, 3, 64, tmp_path), seeds=10)
    assert all(cost.uncontained == cost.incomplete == 0 for cost in (one, one_warm, ten, ten_warm, values, values_warm))
    assert np.mean(values.products) <= 0.9 * np.mean(ten.products)
    assert np.mean(values_warm.products) <= np.mean(values.products)
    assert np.median(one_warm.products) <= 0.925 * np.median(one.products)
    assert np.mean(ten_warm.products) <= np.mean(ten.products)
