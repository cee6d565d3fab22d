"""Penalties in the objective: they count once in its loss, gradient, matrices and slices, for any split into batches.

The right values are closed forms (the Hessian of W/2 |theta|^2 is W times the identity), and the user's own scalar loss
with the weights written into the model in place.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import landscape
from landscape import (
    EmpiricalFisher,
    ExactFisher,
    GaussNewton,
    Hessian,
    InputError,
    MonteCarloFisher,
    Problem,
    WeightDecay,
)
from landscape.checkpoint import save_checkpoint
from landscape.curvature.differences import DifferenceHessian
from landscape.curvature.reduced import ReducedHessian
from landscape.loops.untied import untied
from landscape.machine.processes import Processes
from landscape.slices.directions import gradient_direction
from landscape.slices.lines import line
from tests.support.oracles import dense

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(1))
W = 0.3
SIZES = {"one batch": [20], "uneven batches": [7, 12, 1]}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batches(sizes):
    return list(zip(X.split(sizes), Y.split(sizes), strict=True))


def decay(named):
    return W / 2 * sum(p.pow(2).sum() for p in named.values())


def pairs(sizes=(20,), **more):
    """A problem without weight decay, and the problem with weight decay."""
    plain, penalised = (Problem(network(), nn.CrossEntropyLoss(), batches(list(sizes)), penalty=each, **more)
                        for each in (None, decay))  # fmt: skip
    return plain, penalised


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_loss_gradient_and_standard_error(sizes):
    plain, penalised = pairs(sizes)
    theta = plain.vector
    added = W / 2 * float(theta @ theta)
    assert penalised.loss() == pytest.approx(plain.loss() + added, rel=1e-14)
    assert torch.allclose(penalised.gradient(), plain.gradient() + W * theta, rtol=1e-13, atol=1e-15)
    assert penalised.evaluate().standard_error == pytest.approx(plain.evaluate().standard_error, rel=1e-12)
    for part, whole in zip(penalised.sample_losses(), plain.sample_losses(), strict=True):
        assert torch.equal(part[0], whole[0]), "what one sample loses has no penalty"
    own = Problem.from_sample_losses(
        network(), lambda m, b: functional.cross_entropy(m(b[0]), b[1], reduction="none"), batches(sizes), penalty=decay
    )
    assert own.loss() == pytest.approx(penalised.loss(), rel=1e-14)


@pytest.mark.parametrize("route", ["cached", "rebuilt", "linearised"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_products_on_every_route(route, sizes):
    plain, penalised = pairs(sizes)
    identity = torch.eye(plain.layout.dim, dtype=torch.float64)
    found = dense(Hessian(penalised, route=route)) - dense(Hessian(plain, route="rebuilt"))
    assert torch.allclose(found, W * identity, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [GaussNewton, ExactFisher, MonteCarloFisher, EmpiricalFisher])
def test_every_matrix_has_the_penaltys_hessian_added(kind):
    plain, penalised = pairs([7, 12, 1])
    identity = torch.eye(plain.layout.dim, dtype=torch.float64)
    assert torch.allclose(dense(kind(penalised)) - dense(kind(plain)), W * identity, rtol=0, atol=1e-14)
    assert any("every matrix includes the Hessian of this penalty" in note for note in penalised.notes)


def test_draws_of_a_monte_carlo_fisher_have_it_each():
    _, penalised = pairs()
    fisher = MonteCarloFisher(penalised, samples=3)
    assert torch.allclose(sum(dense(fisher.draw(i)) for i in range(3)) / 3, dense(fisher), rtol=0, atol=1e-14)


def test_differences_and_less_precision():
    plain, penalised = pairs()
    identity = torch.eye(plain.layout.dim, dtype=torch.float64)
    operator = DifferenceHessian(penalised)
    off = dense(operator) - dense(plain.hessian()) - W * identity
    assert off.norm() < 10 * operator.error * dense(operator).norm()
    narrow = [each.to(dtype=torch.float32) for each in (plain, penalised)]
    reduced = [dense(ReducedHessian(each)) for each in narrow]
    # bfloat16 has 8 bits. W as a factor and the derivative of a square round at most once or twice each.
    assert torch.allclose(reduced[1] - reduced[0], W * identity.float(), rtol=0, atol=W * 2**-7)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_count_it_once(size, monkeypatch):
    """Each process adds the penalty to the total. So without exchange, the sum of n results has the penalty n times."""
    monkeypatch.setattr(Processes, "total", lambda self, part: part)
    plain, penalised = pairs([7, 13])
    split = [penalised.distributed_over(Processes(rank, size)) for rank in range(size)]
    identity = torch.eye(plain.layout.dim, dtype=torch.float64)
    for kind in (Hessian, GaussNewton):
        added = sum(dense(kind(each)) for each in split) - dense(kind(plain))
        assert torch.allclose(added, size * W * identity, rtol=0, atol=1e-13)
    gradients = sum(each.gradient() for each in split) - plain.gradient()
    assert torch.allclose(gradients, size * W * plain.vector, rtol=0, atol=1e-13)
    # Sums over samples are weighted by the share of each process, and these shares add up to one.
    losses = sum(each.by_sample().losses for each in split)
    assert torch.allclose(losses, penalised.by_sample().losses, rtol=1e-13)


def test_parts_of_the_data_and_of_the_parameters():
    plain, penalised = pairs([8, 12])
    added = W / 2 * float(plain.vector @ plain.vector)
    parts = [(plain.halves()[i], penalised.halves()[i]) for i in range(2)]
    parts += [(plain.sampled(5), penalised.sampled(5)), (plain.micro_batched(3), penalised.micro_batched(3))]
    parts += [(plain.first_samples(4), penalised.first_samples(4)), (plain.restricted("0"), penalised.restricted("0"))]
    for without, with_it in parts:
        assert with_it.loss() - without.loss() == pytest.approx(added, rel=1e-12)
    without, with_it = parts[-1]
    identity = torch.eye(16, dtype=torch.float64)
    assert torch.allclose(dense(with_it.hessian()) - dense(without.hessian()), W * identity, rtol=0, atol=1e-14)
    elsewhere = penalised.restricted("0").at(torch.zeros(16, dtype=torch.float64))
    last = penalised.vector[16:]
    value = elsewhere.loss() - plain.restricted("0").at(elsewhere.vector).loss()
    assert value == pytest.approx(W / 2 * float(last @ last), rel=1e-12)


class Looped(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.block(x))
        return self.last(x)


def test_untied_copies_share_it():
    """H_tied = E^T H_untied E holds with the penalty, which doesn't couple different passes."""
    plain, penalised = (
        Problem(Looped().double(), nn.CrossEntropyLoss(), batches([20]), penalty=p) for p in (None, decay)
    )
    free, loop = untied(penalised)
    spread = dense(free.hessian())
    without = dense(untied(plain)[0].hessian())
    identity = torch.eye(3 * loop.dim, dtype=torch.float64)
    assert torch.allclose(spread - without, W / 3 * identity, rtol=0, atol=1e-14)
    tied = dense(penalised.restricted("block").hessian())
    assert torch.allclose(loop.gather(loop.gather(spread).T.contiguous()), tied, rtol=0, atol=1e-13)
    assert free.loss() == pytest.approx(penalised.loss(), rel=1e-13)


def test_slices_have_it():
    _, penalised = pairs([7, 13])
    model = network()
    direction = gradient_direction(penalised)
    found = line(penalised, direction, np.array([-1.0, -0.5, 0, 0.5, 1.0]))
    with torch.no_grad():
        for position, loss in zip(found.positions, found.losses, strict=True):
            there = penalised.layout.unflatten(penalised.vector + position * direction.vector)
            for name, p in model.named_parameters():
                p.copy_(there[name])
            own = functional.cross_entropy(model(X), Y) + decay(dict(model.named_parameters()))
            assert loss == pytest.approx(float(own), rel=1e-13)
    weighted = (found.sample_weights[:, None] * found.sample_losses).sum(0) / found.sample_weights.sum()
    np.testing.assert_allclose(weighted, found.losses, rtol=1e-13)
    wide = direction.vector.double()
    hessian = dense(penalised.hessian())
    assert found.curvature == pytest.approx(float(wide @ hessian @ wide), rel=1e-12)


def test_a_penalty_that_reads_the_model_itself():
    model = network()
    problem = Problem(
        model, nn.CrossEntropyLoss(), batches([20]), penalty=lambda _: decay(dict(model.named_parameters()))
    )
    _, penalised = pairs()
    assert torch.allclose(dense(problem.hessian()), dense(penalised.hessian()), rtol=0, atol=1e-14)


def test_penalties_of_any_shape():
    """Penalties for non-orthogonality and a linear penalty agree with central differences of their values."""

    def orthogonal(named):
        weight = named["0.weight"]
        return (weight @ weight.T - torch.eye(4, dtype=weight.dtype)).square().sum() + 2 * named["2.bias"].sum()

    plain = pairs()[0]
    penalised = plain.with_penalty(orthogonal)
    added = dense(penalised.hessian()) - dense(plain.hessian())
    direction = torch.randn(plain.layout.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = 1e-4
    values = [float(orthogonal(plain.layout.unflatten(plain.vector + step * direction))) for step in (h, 0, -h)]
    # The quartic's fourth derivative is some thousands here, and the rounding is some 1e-14 over h^2.
    assert float(direction @ added @ direction) == pytest.approx(
        (values[0] - 2 * values[1] + values[2]) / h**2, rel=1e-4
    )
    linear = plain.with_penalty(lambda named: named["2.bias"].sum())
    assert torch.equal(dense(linear.hessian()), dense(plain.hessian()))
    assert (linear.gradient() - plain.gradient()).sum() == pytest.approx(3)


def test_what_is_no_penalty_is_refused():
    plain, penalised = pairs()
    for penalty, word in (
        (lambda named: named["0.weight"].square(), r"one real number .* shape \(4, 3\)"),
        (lambda named: 0.1, "and gave 0.1"),
        (lambda named: named["0.weight"].sum() * torch.nan, "is nan here"),
    ):
        with pytest.raises(InputError, match=word):
            plain.with_penalty(penalty)
        with pytest.raises(InputError, match=word):
            Problem(network(), nn.CrossEntropyLoss(), batches([20]), penalty=penalty)
    with pytest.raises(InputError, match="the objective has a penalty"):
        penalised.with_penalty(decay)
    with pytest.raises(InputError, match="the penalty is NaN or infinite here"):
        plain.with_penalty(lambda named: (named["0.weight"].square().sum() - 1e-9).sqrt()).at(0 * plain.vector).loss()
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="a weight decay is positive and finite"):
            WeightDecay(weight, ("0.weight",), 4)


def test_two_penalties_are_two_problems():
    names = tuple(pairs()[0].layout.names)
    plain = pairs()[0]
    descriptions = {
        plain.description,
        *(
            plain.with_penalty(WeightDecay(w, chosen, 4)).description
            for w in (0.1, 0.2)
            for chosen in (names, names[:2])
        ),
    }
    assert len(descriptions) == 5


# ------------------------------------------------------------------------------------------------- the command


def trained(tiny, groups, optimizer=torch.optim.SGD, names=True, **settings):
    """Write a checkpoint whose optimiser has weight decay in some groups of the tiny model."""
    model = tiny.model()
    named = dict(model.named_parameters())
    parameters = [
        {"params": [(n, named[n]) if names else named[n] for n in chosen], "weight_decay": w} for w, chosen in groups
    ]
    made = optimizer(parameters, lr=0.1, **settings)
    model(torch.ones(4, 2)).square().mean().backward()
    made.step()
    return save_checkpoint(tiny.folder / "trained.pt", model.state_dict(), optimizer=made.state_dict()), model


WEIGHTS, BIASES = ["0.weight", "2.weight"], ["0.bias", "2.bias"]


@pytest.mark.parametrize(
    ("groups", "decayed"),
    [
        ([(0.1, WEIGHTS), (0.0, BIASES)], WEIGHTS),
        ([(0.0, BIASES), (0.1, WEIGHTS)], WEIGHTS),
        ([(0.2, ["0.weight", "0.bias", "2.weight", "2.bias"])], WEIGHTS + BIASES),
        ([(0.0, WEIGHTS), (0.0, BIASES)], WEIGHTS + BIASES),
    ],
)
@pytest.mark.parametrize("names", [True, False])
def test_weight_decay_is_over_what_the_optimiser_decays(tiny, groups, decayed, names):
    path, model = trained(tiny, groups, momentum=0.9, names=names)
    plain = landscape.load_problem(path, dtype="float64")
    found = landscape.load_problem(path, dtype="float64", weight_decay=W)
    named = dict(model.named_parameters())
    added = W / 2 * sum(float(named[name].detach().double().square().sum()) for name in decayed)
    assert found.loss() - plain.loss() == pytest.approx(added, rel=1e-9)
    of = "the checkpoint's optimiser decays these" if any(w for w, _ in groups) else "no optimiser of the checkpoint"
    assert any(f"over {len(decayed)} of 4 parameter tensors: {of}" in note for note in found.notes)


def test_weight_decay_without_an_optimiser_is_over_all(tiny):
    plain, found = (landscape.load_problem("a.pt", weight_decay=w) for w in (None, W))
    theta = plain.vector.double()
    assert found.loss() - plain.loss() == pytest.approx(W / 2 * float(theta @ theta), rel=1e-5)
    assert not any("AdamW" in note for note in found.notes)


@pytest.mark.parametrize(("optimizer", "said"), [(torch.optim.AdamW, True), (torch.optim.Adam, False)])
def test_decay_beside_the_gradient_is_no_part_of_the_objective(tiny, optimizer, said):
    path, _ = trained(tiny, [(0.1, WEIGHTS), (0.0, BIASES)], optimizer)
    found = landscape.load_problem(path, weight_decay=W)
    assert any("AdamW's own decay is no part of an objective" in note for note in found.notes) == said


def test_groups_that_cannot_be_told_apart_are_refused(tiny, command):
    trained(tiny, [(0.1, WEIGHTS), (0.0, BIASES)], names=False)  # plain SGD keeps no tensors, so shapes are unknown
    ran = command("trained.pt", "--weight-decay", W)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert "make the optimiser of model.named_parameters()" in ran.err
    assert command("a.pt", "--weight-decay", 0).status == 2


def test_the_record_names_it_and_mixes_no_two_objectives(tiny, command):
    ran = command("a.pt", "--hessian", "-k", 2, "--weight-decay", W, "-o", "a.h5")
    assert ran.status == 0
    with landscape.open_record("a.h5") as record:
        row = record["eigenpairs"].dataset
        told = json.loads(str(row.provenance.values[0]))
        theirs = np.linalg.eigvalsh(tiny.hessian("a.pt").numpy() + W * np.eye(13))
        expected = theirs[np.argsort(-abs(theirs))][:2]
        np.testing.assert_allclose(row.eigenvalues.values[0], expected, rtol=1e-4)
    assert told["weight_decay"] == W
    assert told["penalty"] == "weight decay 0.3/2 |theta|^2 over all parameters"
    for other in ([], ["--weight-decay", 0.2]):
        refused = command("a.pt", "--hessian", "-k", 2, *other, "-o", "a.h5")
        assert refused.status == 2
        assert "weight_decay is 0.3 there" in refused.err
    again = command("a.pt", "--hessian", "-k", 2, "--weight-decay", W, "-o", "a.h5")
    assert "complete already" in again.out
