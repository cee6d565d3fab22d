"""Buffers along slices: all right values come from the user's own model, with weights and buffers written in place."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm

from landscape import InputError, Problem
from landscape.machine.processes import Processes
from landscape.record import open_record, read_provenance, read_request
from landscape.slices import (
    Direction,
    find_extent,
    gaussian,
    gradient_direction,
    line,
    orthogonalised,
    plane,
    project,
    toward,
)
from landscape.slices.batchnorm import re_estimated

TOLERANCE = 1e-9  # in float64: some 1e4 roundings of a loss near 1


def data(*shape, samples=50):
    generator = torch.Generator().manual_seed(0)
    x = 2 + 3 * torch.randn(samples, *shape, generator=generator, dtype=torch.float64)
    return x, (x.flatten(1)[:, 0] > 2).long() + (x.flatten(1).sum(1) > 6)


class Keeping(nn.Module):
    """A layer with common kinds of buffers: an average, a mask, a scale, a switch, a frozen weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.register_buffer("average", torch.randn(3))
        self.register_buffer("rotation", torch.randn(3, dtype=torch.complex128))
        self.register_buffer("mask", torch.where(torch.rand(3) < 0.4, -torch.inf, torch.rand(3)))
        self.register_buffer("scale", torch.rand(()) + 0.1)
        self.register_buffer("steps", torch.randint(0, 9, ()))
        self.register_buffer("on", torch.rand(3) < 0.5)

    def forward(self, x):
        hidden = (self.layer(x) - self.average) * self.scale + self.frozen * self.on + self.rotation.abs()
        return torch.logsumexp(hidden + self.mask, 1, keepdim=True) + hidden + 0.1 * self.steps


MODELS = {
    "BatchNorm": lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)),
    "InstanceNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)),
        nn.InstanceNorm1d(1, affine=True, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(3, 3),
    ),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3)),
    "spectral norm, old": lambda: nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3)),
    "of the user's own": Keeping,
}


def trained(make, seed, shape=(3,)):
    """A model in evaluation mode after some steps in training mode, in which buffers move too."""
    torch.manual_seed(seed)
    model, (x, y) = make().double().train(), data(*shape)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(5 + 10 * seed):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():  # torch's old spectral norm leaves a tensor with a graph, which can't be copied
        model.eval()(x)
    return model


def posed(model, sizes=(30, 20), shape=(3,), **more):
    return Problem(
        model, nn.CrossEntropyLoss(), list(zip(*(each.split(sizes) for each in data(*shape)), strict=True)), **more
    )


def own_loss(model, shape=(3,)):
    """The losses by plain torch."""
    x, y = data(*shape)
    with torch.no_grad():
        return float(functional.cross_entropy(model(x), y))


def written(start, moves, variance_at_least=0.0):
    """A copy of a model with weights and buffers a + sum c (b - a) written in place, for models b with coefficients c.

    Entries that aren't finite in all models, and values that aren't floating-point, come from one model: from that with
    the largest coefficient if this is at least a half, else from ``start``.
    """
    model = copy.deepcopy(start)
    nearest, most = max(moves, key=lambda move: move[1])
    for name, value in model.state_dict().items():
        ends = [(other.state_dict()[name], share) for other, share in moves]
        chosen = nearest.state_dict()[name] if most >= 0.5 else value.clone()
        new = chosen.clone()
        if value.is_floating_point() or value.is_complex():
            for index in np.ndindex(tuple(value.shape)):
                if all(bool(each[index].isfinite()) for each in (value, *(end for end, _ in ends))):
                    new[index] = value[index] + sum(share * (end[index] - value[index]) for end, share in ends)
        value.copy_(new.clamp(min=variance_at_least) if name.endswith("running_var") else new)
    return model


# ---------------------------------------------------------------------- interpolated


@pytest.mark.parametrize("kind", MODELS)
def test_a_line_to_another_problem_ends_at_its_own_loss_and_lies_between(kind):
    first, other = (trained(MODELS[kind], seed) for seed in (0, 1))
    problem, end = posed(first), posed(other, (50,))
    at = np.array([-0.2, 0.0, 0.3, 0.7, 1.0, 1.2])
    expected = [own_loss(written(first, [(other, a)])) for a in at]
    found = line(problem, toward(end), at)
    assert own_loss(other) == pytest.approx(expected[4], rel=TOLERANCE)
    assert found.losses == pytest.approx(expected, rel=TOLERANCE)
    assert found.losses[1] == problem.loss(), "to the last bit"
    (note,) = found.notes
    assert note.startswith("along line the buffers go with the parameters (")
    kept = line(problem, Direction(end.vector - problem.vector, "bare"), at)
    assert abs(kept.losses[4] - own_loss(other)) > 1e-3
    assert kept.losses == pytest.approx(line(problem, toward(end), at, buffers="keep").losses, rel=1e-15)


def test_of_a_loss_by_sample_too_in_single_precision():
    first, other = (trained(MODELS["BatchNorm"], seed).float() for seed in (0, 1))
    x, y = data(3)
    fn = lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1], reduction="none")  # noqa: E731
    problem, end = (Problem.from_sample_losses(m, fn, [(x.float(), y)]) for m in (first, other))
    rounding = 100 * torch.finfo(torch.float32).eps  # theta + (theta' - theta) rounds, as does the forward pass
    assert line(problem, toward(end), np.array([0.0, 1.0])).losses[1] == pytest.approx(end.loss(), rel=rounding)


@pytest.mark.parametrize("kind", ["BatchNorm", "of the user's own"])
def test_on_a_plane_each_checkpoint_has_its_own_buffers_at_its_own_place(kind):
    """The orthogonalised second direction contains a part of the first direction with the opposite sign."""
    first, *others = (trained(MODELS[kind], seed) for seed in (0, 1, 2))
    problem, ends = posed(first), [posed(other) for other in others]
    straight = orthogonalised([toward(end)(problem) for end in ends])
    places = project([end.vector for end in ends], problem.vector, straight).coordinates
    for place, other in zip(places, others, strict=True):
        across, up = (np.array([0.0, value]) for value in place)
        found = plane(problem, *straight, across, up)
        assert found.losses[1, 1] == pytest.approx(own_loss(other), rel=TOLERANCE)
    # Anywhere else, by each checkpoint's own coefficient: those of (0.3, 0.2) in the basis of the ways to them.
    (_, across), (b, up) = places[0], places[1]
    assert across == pytest.approx(0, abs=1e-9)
    found = plane(problem, *straight, np.array([0.0, 0.3]), np.array([0.0, 0.2]))
    shares = np.linalg.solve(places.T, [0.3, 0.2])
    expected = own_loss(written(first, list(zip(others, shares, strict=True))))
    assert found.losses[1, 1] == pytest.approx(expected, rel=TOLERANCE)
    assert "go with the parameters" in found.notes[0]
    assert (b, up) != (0, 1)


def test_beside_a_random_direction_the_other_end_is_met_wherever_it_lies():
    first, other = (trained(MODELS["BatchNorm"], seed) for seed in (0, 1))
    problem, end = posed(first), posed(other)
    random, to = gaussian(problem, 0), toward(end)(problem)
    for given in ([to, random], [random, to]):
        straight = orthogonalised(given)
        ((across, up),) = project([end.vector], problem.vector, straight).coordinates
        found = plane(problem, *straight, np.array([0.0, across]), np.array([0.0, up]))
        assert found.losses[1, 1] == pytest.approx(own_loss(other), rel=TOLERANCE)
        assert any("Gaussian 1 the buffers stay" in note for note in found.notes)
        assert any("line the buffers go" in note for note in found.notes)


def test_variances_are_never_negative():
    first, other = (trained(MODELS["BatchNorm"], seed) for seed in (0, 1))
    problem = posed(first)
    found = line(problem, toward(posed(other)), np.array([-40.0, 0.0]))
    raw = first[1].running_var - 40 * (other[1].running_var - first[1].running_var)
    assert (raw < 0).any()
    assert found.losses[0] == pytest.approx(own_loss(written(first, [(other, -40.0)])), rel=TOLERANCE)
    assert found.notes[-1] == "running variances extrapolate below 0 at 1 point, and are 0 there"


def test_an_adaptive_plane_and_the_extent_have_the_buffers_of_their_points():
    first, other = (trained(MODELS["BatchNorm"], seed) for seed in (0, 1))
    problem, end = posed(first), posed(other)
    straight, at = orthogonalised([toward(end)(problem), gaussian(problem, 0)]), np.linspace(-1, 1, 11)
    whole = plane(problem, *straight, at, at)
    some = plane(problem, *straight, at, at, adaptive=0.05)
    assert (some.losses[some.evaluated] == whole.losses[some.evaluated]).all()
    extent = find_extent(problem, toward(end), 0.2)
    for side, risen in ((extent.low, extent.risen[0]), (extent.high, extent.risen[1])):
        assert risen
        assert own_loss(written(first, [(other, side)])) > own_loss(first) + 0.2
        assert own_loss(written(first, [(other, 0.9 * side)])) <= own_loss(first) + 0.2


def test_parameters_that_do_not_vary_stay_and_a_note_says_so():
    first, other = (trained(MODELS["BatchNorm"], seed) for seed in (0, 1))
    problem = posed(first).restricted("3")
    found = line(problem, toward(posed(other)), np.array([0.0, 1.0]))
    mixture = copy.deepcopy(other)
    for name, parameter in mixture.named_parameters():
        if not name.startswith("3."):
            parameter.data.copy_(first.get_parameter(name))
    assert found.losses[1] == pytest.approx(own_loss(mixture), rel=TOLERANCE)
    assert found.notes[0].startswith("0.weight, 0.bias, 1.weight, 1.bias differ at the end of line and don't vary")


# ---------------------------------------------------------------------- kept


def test_where_nothing_is_known_of_buffers_that_training_moves_a_note_says_that_they_stay():
    problem = posed(trained(MODELS["BatchNorm"], 0))
    told = "the buffers stay as they are at the centre (1.running_mean, 1.running_var)"
    at = np.array([0.0, 0.1])
    for direction in (gaussian(problem, 0), gradient_direction, Direction(torch.ones_like(problem.vector), "mine")):
        (note,) = line(problem, direction, at).notes
        assert note.endswith(told)
    (note,) = plane(problem, gaussian(problem, 0), gaussian(problem, 0, 1), at, at).notes
    assert note == f"along filter-normalised Gaussian 1, filter-normalised Gaussian 2 {told}"
    spectral = posed(trained(MODELS["spectral norm"], 0))
    assert "._u" in line(spectral, gaussian(spectral, 0), at).notes[0]


def test_models_without_such_buffers_are_told_nothing():
    first, other = (
        trained(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)), s) for s in (0, 1)
    )
    problem, at = posed(first), np.array([0.0, 1.0])
    assert line(problem, gaussian(problem, 0), at).notes == ()
    assert line(problem, toward(posed(other)), at).notes == ()
    whole = posed(trained(MODELS["BatchNorm"], 0), (50,), training=True)
    assert line(whole, gaussian(whole, 0), at).notes == ()


# ---------------------------------------------------------------------- computed anew


class Branched(nn.Module):
    """Four BatchNorm layers: one behind another, beside each other, of 1 and of 2 dimensions; the last isn't called."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 2), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm1d(4)])
        self.idle, self.middle, self.head = nn.BatchNorm1d(4), nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.norms[0](self.one(x)).relu()
        x = self.norms[1](self.two(x)).tanh() + self.norms[2](input=x)
        return self.head(self.norms[3](self.middle(x.mean((2, 3)))).tanh())


SHAPE = (2, 4, 4)


@pytest.mark.parametrize(("sizes", "passes"), [((50,), 1), ((20, 29, 1), 4)])
def test_statistics_are_those_of_all_data_as_one_batch_in_training_mode(sizes, passes):
    first, other = (trained(Branched, seed, SHAPE) for seed in (0, 1))
    problem, end = posed(first, sizes, SHAPE), posed(other, sizes, SHAPE)
    before = {name: value.clone() for name, value in first.state_dict().items()}
    at = np.array([-1.0, 0.0, 0.4, 1.0])
    found = line(problem, toward(end), at, buffers="re-estimate")
    for loss, a in zip(found.losses, at, strict=True):
        assert loss == pytest.approx(own_loss(written(first, [(other, a)]).train(), SHAPE), rel=TOLERANCE)
    (note,) = found.notes
    assert f"forward passes more a point: {passes}" in note
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    assert not any(module._forward_pre_hooks for module in first.modules())


def test_means_and_variances_are_written_as_training_mode_leaves_them():
    """With momentum 1, training mode leaves the batch's mean, and its variance times n / (n - 1)."""
    model = trained(MODELS["BatchNorm"], 0)
    problem = posed(model, (7, 43))
    with torch.no_grad(), problem.evaluating():
        found, passes = re_estimated(problem, problem.vector)
    whole = copy.deepcopy(model).train()
    whole[1].momentum = 1.0
    whole(data(3)[0])
    assert passes == 1
    assert torch.allclose(found["1.running_mean"], whole[1].running_mean, rtol=1e-12)
    assert torch.allclose(found["1.running_var"], whole[1].running_var * 49 / 50, rtol=1e-12)


class Together(Processes):
    """One of several threads that add up tensors as several processes do."""

    def __init__(self, rank, parts, barrier):
        super().__init__(rank, len(parts))
        self.__dict__.update(parts=parts, barrier=barrier)

    def total(self, part):
        self.parts[self.rank] = part.clone()
        self.barrier.wait()
        part.copy_(sum(self.parts))
        self.barrier.wait()
        return part


def test_several_processes_have_the_statistics_of_all_data():
    models = [trained(Branched, 0, SHAPE) for _ in range(3)]
    parts, barrier = [None] * 2, threading.Barrier(2)
    problems = [
        posed(model, (20, 29, 1), SHAPE).distributed_over(Together(rank, parts, barrier))
        for rank, model in enumerate(models[:2])
    ]

    def work(problem):
        with torch.no_grad():
            return re_estimated(problem, problem.vector)

    with ThreadPoolExecutor(2) as pool:
        (one, passes), (other, _) = pool.map(work, problems)
    whole, _ = work(posed(models[2], (50,), SHAPE))
    assert passes == 4
    for name, values in whole.items():
        assert torch.equal(one[name], other[name])
        assert torch.allclose(one[name], values, rtol=1e-10)


def test_a_random_plane_with_statistics_computed_anew():
    model = trained(MODELS["BatchNorm"], 0)
    problem, at = posed(model), np.array([0.0, 0.5])
    directions = [gaussian(problem, 0, index) for index in range(2)]
    found = plane(problem, *directions, at, at, buffers="re-estimate")
    moved = copy.deepcopy(model).train()
    torch.nn.utils.vector_to_parameters(
        problem.vector + 0.5 * directions[0].vector + 0.5 * directions[1].vector, moved.parameters()
    )
    assert found.losses[1, 1] == pytest.approx(own_loss(moved), rel=TOLERANCE)
    extent = find_extent(problem, directions[0], 0.2, buffers="re-estimate")
    assert extent.risen == (True, True)


def test_what_cannot_be_is_refused_in_one_line():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.norm(self.norm(x).tanh()))

    plain, twice = posed(nn.Linear(3, 3).double()), posed(Twice().double().eval())
    whole = posed(trained(MODELS["BatchNorm"], 0), (50,), training=True)
    wider = posed(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)).double())
    at = np.array([0.0, 1.0])
    for call, told in (
        (lambda: line(plain, gaussian(plain, 0), at, buffers="re-estimate"), "no BatchNorm with running statistics"),
        (lambda: line(whole, gaussian(whole, 0), at, buffers="re-estimate"), "takes the statistics of the batch"),
        (lambda: line(twice, gaussian(twice, 0), at, buffers="re-estimate"), "norm is called 4 times for 2 batches"),
        (lambda: line(plain, gaussian(plain, 0), at, buffers="anew"), "must be interpolate, keep, re-estimate"),
        (lambda: line(plain, toward(wider), at), "leads to another model"),
        (lambda: line(plain, toward(plain), at), "both ends are the same point"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not any(module._forward_pre_hooks for module in twice.model.modules())


# ---------------------------------------------------------------------- the command

FACTORY = """
import torch
from torch import nn
from landscape import Problem

def normed(checkpoint):
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.load("data.pt")
    return Problem(model, nn.CrossEntropyLoss(), [(x[:30], y[:30]), (x[30:], y[30:])])
"""


@pytest.fixture
def run(tiny):
    """Three checkpoints of a network with BatchNorm; their models by name."""
    (tiny.folder / "normed.py").write_text(FACTORY)
    torch.save(data(3), tiny.folder / "data.pt")
    models = {name: trained(MODELS["BatchNorm"], seed) for seed, name in enumerate("xyz")}
    for step, (name, model) in enumerate(models.items()):
        torch.save({"model": model.state_dict(), "step": step}, tiny.folder / f"{name}.pt")
    return models


def row_of(record, group):
    with open_record(record) as tree:
        return tree[group].dataset.isel(checkpoint=0).load(), read_provenance(tree, group, 0)["notes"]


ASKED = ["--problem", "normed.py:normed", "--points", 3, "--reach", 1]


def test_the_command_ends_a_line_at_the_other_checkpoint_and_says_what_it_did(command, run):
    rights = {
        "interpolate": own_loss(run["y"]),
        "re-estimate": own_loss(copy.deepcopy(run["y"]).train()),
    }
    stale = copy.deepcopy(run["y"])
    stale[1].running_mean, stale[1].running_var = run["x"][1].running_mean, run["x"][1].running_var
    rights["keep"] = own_loss(stale)
    for rule, right in rights.items():
        ran = command("x.pt", *ASKED, "--slice", "1d", "--direction", "y.pt", "--buffers", rule, "-o", f"{rule}.h5")
        assert (ran.status, ran.err) == (0, "")
        row, notes = row_of(f"{rule}.h5", "slices_1d")
        assert row.position.values[0, -1] == 1
        assert float(row.loss[0, -1]) == pytest.approx(right, rel=TOLERANCE)
        (note,) = [note for note in notes if "uffers" in note or "statistics" in note]
        assert f"note: {note}" in ran.out
    by_default = command("x.pt", *ASKED, "--slice", "1d", "--direction", "y.pt", "-o", "interpolate.h5")
    assert "nothing measured" in by_default.out


def test_a_record_that_kept_buffers_is_gone_on_with_where_it_is_right(command, run):
    """Settings of such a record don't mention buffers."""
    for direction, rule, words in (
        ("filter", "interpolate", False),
        ("y.pt", "interpolate", True),
        ("y.pt", "keep", False),
    ):
        asked = ["--slice", "1d", "--direction", direction, "--buffers", rule, "-o", "r.h5", "--overwrite"]
        assert command("x.pt", *ASKED, *asked).status == 0
        assert ("buffers" in read_request("r.h5").settings["slices_1d"]) == words


def test_a_plane_of_the_run_says_that_its_losses_are_not_the_checkpoints_own(command, run):
    asked = ["--slice", "2d", "--direction", "pca", "--direction", "pca", "--at", 0, "-o", "p.h5"]
    assert command("x.pt", "y.pt", "z.pt", *ASKED, *asked).status == 0
    _, notes = row_of("p.h5", "slices_2d")
    assert any(note.startswith("along principal component 1, principal component 2 the buffers stay") for note in notes)
    assert any(note.startswith("the run's checkpoints have other buffers (1.running_mean") for note in notes)


def test_profiles_of_the_valley_say_that_buffers_stay(command, run):
    ran = command("x.pt", "--problem", "normed.py:normed", "--valley", "-k", 2, "--points", 7, "-o", "v.h5")
    assert ran.status in (0, 3)
    (note,) = [note for note in row_of("v.h5", "valley")[1] if "buffers" in note]
    assert note.startswith("along eigenvector 1, eigenvector 2 the buffers stay as they are at the centre")


def test_the_command_refuses_statistics_that_there_are_not(command, tiny):
    ran = command("a.pt", "--slice", "1d", "--buffers", "re-estimate")
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert "no BatchNorm with running statistics" in ran.err
    ran = command("a.pt", "--buffers", "keep")
    assert "no requested measurement uses --buffers: add --slice" in ran.err
