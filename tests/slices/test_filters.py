"""Filters: the weights of each output unit are found independently, by the gradient of the module's output."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from transformers.pytorch_utils import Conv1D

from landscape import Problem
from landscape.slices import gaussian, normalised
from landscape.slices.filters import filters_of

# Modules with the shape of an input of two samples. Output units are in dimension 1, and in the last for Conv1D.
MODULES = {
    "linear": (lambda: nn.Linear(4, 6), (2, 4)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
    "transposed 2d, groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "transposed 3d, depthwise": (lambda: nn.ConvTranspose3d(4, 4, 2, groups=4), (2, 4, 3, 3, 3)),
    "Conv1D of GPT-2": (lambda: Conv1D(6, 4), (2, 4)),
}
TRANSPOSED = (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5))
PARAMETRISED = {
    "weight_norm": (lambda module: parametrizations.weight_norm(module, dim=1), "parametrizations.weight.original1"),
    "spectral_norm": (parametrizations.spectral_norm, "parametrizations.weight.original"),
    "orthogonal": (parametrizations.orthogonal, "parametrizations.weight.original"),
    "weight_norm, old": (lambda module: weight_norm(module, dim=1), "weight_v"),
    "spectral_norm, old": (spectral_norm, "weight_orig"),
}


def posed(model, shape):
    """A problem of a module; directions don't depend on its loss."""
    torch.manual_seed(0)
    fn = lambda module, x: module(x).reshape(len(x), -1).square().mean(1)  # noqa: E731
    return Problem.from_sample_losses(model, fn, [torch.randn(shape)], dtype=torch.float64)


def outputs_made(module, shape):
    """For each parameter, by output unit, which entries that unit depends on; by the gradient of its sum alone."""
    output = module.eval()(torch.randn(shape) + 3)
    units = output.transpose(0, 1).flatten(1)
    made = {name: [] for name, _ in module.named_parameters()}
    for unit in units:
        gradients = torch.autograd.grad(unit.square().sum(), list(module.parameters()), retain_graph=True)
        for name, gradient in zip(made, gradients, strict=True):
            made[name].append(gradient != 0)
    return made


@pytest.mark.parametrize("kind", MODULES)
def test_the_weights_of_each_output_have_the_norm_of_the_weights_and_outputs_share_none(kind):
    make, shape = MODULES[kind]
    torch.manual_seed(0)
    module = make()
    masks = torch.stack(outputs_made(module, shape)["weight"])
    assert masks.sum(0).eq(1).all(), "each weight has a part in one output"
    problem = posed(module, shape)
    weights, along = (problem.layout.unflatten(v) for v in (problem.vector, gaussian(problem, 0).vector))
    assert not along["bias"].any()
    for mask in masks:
        assert along["weight"][mask].norm() == pytest.approx(float(weights["weight"][mask].norm()), rel=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", PARAMETRISED)
def test_a_parametrised_weight_has_the_filters_of_the_weight(kind):
    (make, shape), (parametrise, name) = TRANSPOSED, PARAMETRISED[kind]
    torch.manual_seed(0)
    module = make()
    masks = outputs_made(module, shape)["weight"]
    problem = posed(parametrise(module), shape)
    weights, along = (problem.layout.unflatten(v) for v in (problem.vector, gaussian(problem, 0).vector))
    assert not along["bias"].any()
    for mask in masks:
        assert along[name][mask].norm() == pytest.approx(float(weights[name][mask].norm()), rel=1e-12)


def test_the_lengths_of_weight_norm_are_a_filter_each_where_they_are_of_outputs():
    (make, shape), lengths = TRANSPOSED, "parametrizations.weight.original0"
    for dim, filters in ((1, [[each] for each in range(3)]), (0, [[0, 1], [2, 3]])):  # (1, 3, 1) and (4, 1, 1)
        torch.manual_seed(0)
        problem = posed(parametrizations.weight_norm(make(), dim=dim), shape)
        at, along = (
            problem.layout.unflatten(v)[lengths].flatten() for v in (problem.vector, gaussian(problem, 0).vector)
        )
        for each in filters:
            assert along[each].norm() == pytest.approx(float(at[each].norm()), rel=1e-12)


def test_a_linear_layer_and_its_transposed_twin_give_the_same_direction():
    torch.manual_seed(0)
    linear, twin = nn.Linear(4, 6), Conv1D(6, 4)
    with torch.no_grad():
        twin.weight.copy_(linear.weight.T)
        twin.bias.copy_(linear.bias)
    one, other = posed(linear, (2, 4)), posed(twin, (2, 4))
    assert one.loss() == pytest.approx(other.loss(), rel=1e-14)
    drawn = one.layout.unflatten(gaussian(one, 0, normalisation="none").vector)
    parts = {"weight": drawn["weight"].T, "bias": drawn["bias"]}
    mine = one.layout.unflatten(normalised(one, one.layout.flatten(drawn), "d").vector)
    theirs = other.layout.unflatten(normalised(other, other.layout.flatten(parts), "d").vector)
    assert torch.allclose(mine["weight"], theirs["weight"].T, rtol=1e-14, atol=0)


def test_a_transposed_convolution_and_the_convolution_it_is_give_the_same_direction():
    """With stride 1 a transposed convolution is a convolution of mirrored kernels, group by group."""
    torch.manual_seed(0)
    transposed, plain = nn.ConvTranspose1d(4, 6, 3, groups=2), nn.Conv1d(4, 6, 3, groups=2, padding=2)

    def twin(weight):
        """The weights (in, out / groups, k) as (out, in / groups, k), written index by index."""
        found = torch.empty(6, 2, 3, dtype=weight.dtype)
        for group in range(2):
            for i in range(2):
                for o in range(3):
                    found[3 * group + o, i] = weight[2 * group + i, o].flip(0)
        return found

    with torch.no_grad():
        plain.weight.copy_(twin(transposed.weight))
        plain.bias.copy_(transposed.bias)
    x = torch.randn(2, 4, 5)
    assert torch.allclose(transposed(x), plain(x), atol=1e-6)
    one, other = posed(transposed, (2, 4, 5)), posed(plain, (2, 4, 5))
    drawn = one.layout.unflatten(gaussian(one, 0, normalisation="none").vector)
    parts = {"weight": twin(drawn["weight"]), "bias": drawn["bias"]}
    mine = one.layout.unflatten(normalised(one, one.layout.flatten(drawn), "d").vector)
    theirs = other.layout.unflatten(normalised(other, other.layout.flatten(parts), "d").vector)
    assert torch.allclose(twin(mine["weight"]), theirs["weight"], rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["linear", "transposed 2d, groups", "Conv1D of GPT-2"])
def test_scaling_one_output_scales_its_part_of_the_direction_alone(kind):
    """This is the purpose of normalisation: with one draw, each output's part is proportional to its weights."""
    make, shape = MODULES[kind]
    torch.manual_seed(0)
    module = make()
    mask = outputs_made(module, shape)["weight"][1]
    before = posed(module, shape)
    parts = before.layout.unflatten(gaussian(before, 0).vector)["weight"]
    with torch.no_grad():
        module.weight[mask] *= 7
    after = posed(module, shape)
    scaled = after.layout.unflatten(gaussian(after, 0).vector)["weight"]
    assert torch.allclose(scaled, torch.where(mask, 7 * parts, parts), rtol=1e-6, atol=0)


def test_rows_are_filters_wherever_nothing_else_is_known():
    """An embedding's row makes one token's vector, a gate's row of a recurrent layer one unit of that gate."""
    for model in (nn.Embedding(5, 3), nn.Bilinear(2, 3, 4), nn.LSTM(3, 4), nn.MultiheadAttention(4, 2)):
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        found = filters_of(model)
        assert found.keys() == shapes.keys()
        for name, filters in found.items():
            if len(shapes[name]) == 1:
                assert filters is None
            else:
                assert filters.view == (shapes[name][0], -1)
                assert filters.within == (1,)


def test_scales_of_normalisation_over_several_dimensions_are_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)), nn.LayerNorm((2, 2)), nn.Flatten())
    problem = posed(model, (5, 3))
    parts = problem.layout.unflatten(gaussian(problem, 0).vector)
    assert not parts["2.weight"].any()
    assert not parts["2.bias"].any()
    assert parts["0.weight"].any()
