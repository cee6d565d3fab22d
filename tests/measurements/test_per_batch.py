"""Largest eigenvalues of mini-batches against dense Hessians in float64, on the samples of each mini-batch."""

from __future__ import annotations

import copy

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from landscape import InputError, Problem
from landscape.measurements.eigenpairs import chance_of_miss
from landscape.problem.mini_batches import mini_batches

SAMPLES, LENGTH, IGNORED = 13, 4, -100


def tokens():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, LENGTH, 3, generator=generator)
    y = torch.randint(5, (SAMPLES, LENGTH), generator=generator)
    y[torch.rand(y.shape, generator=generator) < 0.4] = IGNORED
    return x, y


class PerToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))

    def forward(self, x):
        return self.layers(x).movedim(-1, 1)


def model():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return PerToken()


def masked() -> Problem:
    """Sequences in uneven batches, some tokens of which don't count."""
    x, y = tokens()
    batches = [(x[a:b], y[a:b]) for a, b in ((0, 5), (5, 6), (6, 13))]
    return Problem(model(), nn.CrossEntropyLoss(ignore_index=IGNORED), batches)


def dense(places) -> torch.Tensor:
    """The Hessian of torch's own mean loss over some sequences, in float64."""
    x, y = tokens()
    network = copy.deepcopy(model()).double()
    shapes = {name: each.shape for name, each in network.named_parameters()}

    def loss(vector):
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        output = functional_call(network, named, (x[places].double(),))
        return nn.functional.cross_entropy(output, y[places], ignore_index=IGNORED)

    start = torch.cat([each.detach().flatten() for each in network.parameters()])
    return torch.autograd.functional.hessian(loss, start)


@pytest.mark.parametrize("size", [1, 4, 13])
def test_a_mini_batch_has_the_mean_loss_of_its_own_terms(size):
    order = np.random.default_rng(3).permutation(SAMPLES)
    parts = list(mini_batches(masked(), size, seed=3))
    assert len(parts) == SAMPLES // size
    for index, part in enumerate(parts):
        wanted = dense(np.sort(order[index * size : (index + 1) * size]))
        operator = part.to(dtype=torch.float64).hessian()
        found = torch.stack([operator @ unit for unit in torch.eye(part.layout.dim, dtype=torch.float64)])
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)  # weights in float32, sums in float64


def test_eigenvalues_of_mini_batches_and_of_all(command, tiny):
    ran = command("a.pt", "--per-batch", 6, "--seed", 2, "-o", "a.h5")
    assert ran.status == 0
    assert "on 3 mini-batches of 6 samples (2 samples left over)" in ran.out
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 2, generator=generator).double(), torch.randn(20, 1, generator=generator).double()
    state = {name: value.double() for name, value in torch.load("a.pt")["state"].items()}
    network = tiny.model().double()

    def largest(places):
        def loss(*values):
            return nn.functional.mse_loss(
                functional_call(network, dict(zip(state, values, strict=True)), (x[places],)), y[places]
            )

        blocks = torch.autograd.functional.hessian(loss, tuple(state.values()))
        sizes = [value.numel() for value in state.values()]
        rows = [torch.cat([b.reshape(n, m) for b, m in zip(row, sizes, strict=True)], 1)
                for row, n in zip(blocks, sizes, strict=True)]  # fmt: skip
        return torch.linalg.eigvalsh(torch.cat(rows))[-1].item()

    order = np.random.default_rng(2).permutation(20)
    wanted = [largest(np.sort(order[start : start + 6])) for start in (0, 6, 12)]
    with h5py.File("a.h5") as file:
        row = {name: file["per_batch"][name][0] for name in ("eigenvalue", "interval", "whole", "whole_interval",
                                                             "mean", "mean_standard_error", "deviation",
                                                             "quantiles")}  # fmt: skip
    assert (row["interval"][:, 0] <= wanted).all()
    assert (wanted <= row["interval"][:, 1]).all()
    assert row["whole_interval"][0] <= largest(np.arange(20)) <= row["whole_interval"][1]
    np.testing.assert_allclose(row["eigenvalue"], wanted, rtol=1e-3)
    with h5py.File("a.h5") as file:
        chances = [*file["per_batch/miss_probability"][0], file["per_batch/whole_miss_probability"][0]]
    assert max(chances) <= 1e-3
    assert f"a larger eigenvalue was missed: {chance_of_miss(sum(chances))}" in ran.out
    assert row["mean"] == pytest.approx(np.mean(wanted), rel=1e-3)
    assert row["deviation"] == pytest.approx(np.std(wanted, ddof=1), rel=0.05)
    assert row["mean_standard_error"] == pytest.approx(np.std(wanted, ddof=1) / 3**0.5, rel=0.05)
    assert row["quantiles"][2] == pytest.approx(np.median(wanted), rel=1e-3)


@pytest.mark.parametrize("size", [2, 5, 10])
def test_the_mean_is_at_least_the_eigenvalue_of_all(command, tiny, size):
    """The largest eigenvalue is convex, and the matrix of all samples is the mean of the mini-batches'."""
    assert command("b.pt", "--per-batch", size, "--tol", 1e-6, "--dtype", "float64", "-o", "b.h5").status == 0
    with h5py.File("b.h5") as file:
        assert file["per_batch/mean"][0] >= file["per_batch/whole_interval"][0, 0]
        assert file["per_batch/eigenvalue"].shape == (1, 20 // size)


def test_a_mini_batch_of_all_samples_is_all_samples(command, tiny):
    assert command("a.pt", "--per-batch", 20, "--matrix", "ggn", "-o", "a.h5").status == 0
    with h5py.File("a.h5") as file:
        group = file["per_batch_ggn"]
        assert group["eigenvalue"][0, 0] == pytest.approx(group["whole"][0], rel=1e-5)
        assert np.isnan(group["deviation"][0])


@pytest.mark.parametrize("size", [0, 21, -3])
def test_a_size_without_mini_batches_is_refused(command, tiny, size):
    before = tiny.listing()
    ran = command("a.pt", f"--per-batch={size}")
    assert (ran.status, ran.out) == (2, "")
    assert f"a mini-batch has 1 to 20 samples here, not {size}" in ran.err
    assert tiny.listing() == before


def test_samples_that_mix_have_no_mini_batches():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    problem = Problem(network, nn.MSELoss(), [(torch.randn(8, 3), torch.randn(8, 1))], training=True)
    with pytest.raises(InputError, match="depend on one another"):
        list(mini_batches(problem, 4))
