"""Losses of single samples: labels of a problem's samples, fixed subsets, and the measurement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from landscape import InputError, Problem
from landscape.measurements import History, Samples
from landscape.record import open_record

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOKENS = torch.randn(10, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGETS = torch.randint(0, 5, (10, 6), generator=torch.Generator().manual_seed(2))
TARGETS[0] = -100  # a fully masked sample
TARGETS[1, 2:] = -100
ABOUT = {"type": ["a", "b"] * 5, "difficulty": range(10)}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(tokens).transpose(1, 2)


def tokens(sizes: tuple[int, ...] = (10,), **more: object) -> Problem:
    batches = list(zip(TOKENS.split(sizes), TARGETS.split(sizes), strict=True))
    return Problem(Tokens(), nn.CrossEntropyLoss(), batches, **more)


def measured(problem: Problem, checkpoints: int = 1, **settings: bool) -> xr.Dataset:
    samples = Samples(**settings).resolve(problem, checkpoints)
    return samples.measure(problem, lambda *_: None, History()).dataset


@pytest.mark.parametrize("sizes", [(10,), (4, 6), (3, 3, 3, 1)])
def test_losses_and_accuracies_of_samples_and_tokens_whatever_the_batches(sizes):
    row = measured(tokens(sizes))
    logits = Tokens()(TOKENS).detach()
    each = functional.cross_entropy(logits, TARGETS, reduction="none", ignore_index=-100)
    kept = TARGETS != -100
    right = (logits.argmax(1) == TARGETS) & kept
    np.testing.assert_allclose(row.loss.values, (each.sum(1) / kept.sum(1)).numpy(), rtol=1e-13)
    np.testing.assert_allclose(row.accuracy.values, (right.sum(1).double() / kept.sum(1)).numpy(), rtol=1e-13)
    assert np.isnan(row.loss.values[0])
    assert list(row.weight.values) == kept.sum(1).tolist()
    np.testing.assert_allclose(row.term_loss.values, torch.where(kept, each, torch.nan).numpy(), rtol=1e-13)
    np.testing.assert_array_equal(row.term_correct.values, torch.where(kept, right.int(), -1).numpy())
    total = np.nansum(row.loss.values * row.weight.values) / row.weight.values.sum()
    assert total == pytest.approx(tokens(sizes).loss(), rel=1e-13)


def test_tokens_are_stored_where_there_are_several_and_they_fit():
    assert "term_loss" in measured(tokens())
    assert "term_loss" not in measured(tokens(), terms=False)
    assert "term_loss" not in measured(tokens(), checkpoints=10**6)
    single = Problem(nn.Linear(3, 4, dtype=torch.float64), nn.CrossEntropyLoss(), [(X, TARGETS[:, 0] % 4)])
    assert "term_loss" not in measured(single, terms=True)
    padded = [(TOKENS[:4], TARGETS[:4]), (TOKENS[4:, :3], TARGETS[4:, :3])]
    row = measured(Problem(Tokens(), nn.CrossEntropyLoss(), padded))
    assert row.term_loss.shape == (10, 6)
    assert np.isnan(row.term_loss.values[4:, 3:]).all()
    assert (row.term_correct.values[4:, 3:] == -1).all()


def test_a_loss_without_classes_has_no_accuracy():
    row = measured(Problem(nn.Linear(3, 1, dtype=torch.float64), nn.MSELoss(), [(X, X[:, :1])]))
    assert np.isnan(row.accuracy.values).all()
    assert np.isfinite(row.loss.values).all()


def test_what_the_data_set_says_goes_along():
    problem = tokens((4, 6), about=ABOUT)
    assert problem.about["type"].tolist() == ["a", "b"] * 5
    assert problem.about["difficulty"].dtype == np.float64
    row = measured(problem)
    assert row.about_type.values.tolist() == ["a", "b"] * 5
    assert row.about_difficulty.values.tolist() == list(range(10))
    assert not problem.halves()[0].about, "halves take samples from every batch"
    assert problem.at(problem.vector + 1).about == problem.about
    assert problem.to(dtype=torch.float32, micro_batch=3).about == problem.about
    others = [tokens((4, 6)), tokens((4, 6), about=ABOUT | {"difficulty": range(1, 11)}), problem]
    assert len({each.data_sha256 for each in others}) == 3, "what is told is part of the data"
    assert tokens((4, 6), about=ABOUT).data_sha256 == problem.data_sha256


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ({"a type": ["a"] * 10}, "letters, digits and _"),
        ({"type": ["a"] * 9}, r"has the shape \(9,\), and the data have 10 samples"),
        ({"type": [["a"]] * 10}, r"has the shape \(10, 1\)"),
        ({"type": [None] * 10}, "NaN or infinite"),
        ({"type": [object()] * 10}, "neither texts alone nor numbers alone"),
        ({"hard": [*range(9), float("nan")]}, "NaN or infinite"),
    ],
)
def test_what_is_told_about_samples_is_checked(about, line):
    with pytest.raises(InputError, match=line):
        tokens(about=about)


def test_nothing_is_told_about_the_samples_of_a_shuffling_loader():
    loader = DataLoader(TensorDataset(X, X[:, :1]), batch_size=4, shuffle=True)
    with pytest.raises(InputError, match="the loader shuffles"):
        Problem(nn.Linear(3, 1, dtype=torch.float64), nn.MSELoss(), loader, about=ABOUT)


@pytest.mark.parametrize("sizes", [(10,), (4, 6), (9, 1)])
def test_a_subset_is_a_draw_of_samples_with_what_is_known_of_them(sizes):
    problem = tokens(sizes, about=ABOUT)
    some = problem.sampled(4, seed=3)
    assert some.about["difficulty"].shape == (4,)
    chosen = some.about["difficulty"].astype(int)
    np.testing.assert_allclose(
        some.by_sample().losses.numpy(), problem.by_sample().losses.numpy()[chosen], rtol=1e-12, atol=0
    )
    assert sorted(set(chosen)) == list(chosen), "in the order of the data, none twice"
    assert list(problem.sampled(4, seed=3).about["difficulty"]) == list(chosen)
    assert problem.sampled(10) is problem
    assert problem.sampled(99) is problem
    with pytest.raises(InputError, match="at least 1 sample"):
        problem.sampled(0)


def test_samples_that_depend_on_each_other_have_no_subset():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    problem = Problem(model, nn.MSELoss(), [(X, X[:, :1])], training=True)
    with pytest.raises(InputError, match="samples are mixed"):
        problem.sampled(5)


def test_on_the_command_line(command, tiny):
    ran = command("a.pt", "b.pt", "--samples")
    assert (ran.status, ran.err) == (0, "")
    assert "losses of 20 samples: 10 % below" in ran.out
    with open_record("a.landscape.h5") as record:
        samples, losses = record["samples"].dataset.load(), record["loss"].dataset.load()
    assert samples.loss.shape == (2, 20)
    np.testing.assert_allclose(samples.loss.mean("sample"), losses.loss, rtol=1e-6)
