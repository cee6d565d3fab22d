"""The second-order language: its probabilities, its samples, and a single layer that represents it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from data.secondorder import SecondOrderLanguage
from landscape.errors import InputError
from models.attention import AttentionModel

LANGUAGE = SecondOrderLanguage()


def test_probabilities_are_a_softmax_over_the_last_two() -> None:
    tokens = np.array([[3, 1, 4, 1]])
    found = LANGUAGE.log_probabilities(tokens)[0]
    A, B = LANGUAGE.tables
    for t, (last, before) in enumerate([(3, None), (1, 3), (4, 1)]):
        logits = [A[last][v] + (0 if before is None else B[before][v]) for v in range(6)]
        total = math.log(sum(math.exp(each) for each in logits))
        assert found[t] == pytest.approx([each - total for each in logits], abs=1e-12)


def test_samples_follow_the_probabilities() -> None:
    """Counts of the symbol after each pair agree with the probabilities: no binomial tail is below 1e-7."""
    tokens = SecondOrderLanguage(length=4).sample(30_000, 5)
    A, B = LANGUAGE.tables
    assert set(np.unique(tokens)) == set(range(6))
    for before in range(6):
        for last in range(6):
            chosen = tokens[(tokens[:, 2] == before) & (tokens[:, 3] == last), 4]
            likely = np.exp(A[last] + B[before])
            often = stats.binom(len(chosen), likely / likely.sum())
            counts = np.bincount(chosen, minlength=6)
            assert min(often.cdf(counts).min(), often.sf(counts - 1).min()) > 1e-7


def test_a_single_layer_can_have_its_logits() -> None:
    """The embedding holds the symbol twice. A head that looks one place back writes the symbol before it."""
    model = AttentionModel(6, width=12, heads=1, head_width=6, offsets=3).double()
    A, B = (torch.from_numpy(table) for table in LANGUAGE.tables)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[:, :6] = torch.eye(6)
        attention = model.layer.attention
        attention.value.weight[:, :6] = torch.eye(6)
        attention.output.weight[6:] = torch.eye(6)
        attention.relative_bias[0] = torch.tensor([0.0, 60.0, 0.0])  # e^-60 is below rounding
        model.head.weight[:, :6], model.head.weight[:, 6:] = A.T, B.T
        tokens = LANGUAGE.sample(20, 0)
        found = model(torch.from_numpy(tokens[:, :-1])).log_softmax(dim=1).transpose(1, 2)
    # The first position has no position before it, and looks at itself.
    assert found[:, 1:].numpy() == pytest.approx(LANGUAGE.log_probabilities(tokens)[:, 1:], abs=1e-12)


@pytest.mark.parametrize("wrong", [{"symbols": 1}, {"length": 0}, {"spread": -1.0}, {"spread": math.nan}])
def test_impossible_languages_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        SecondOrderLanguage(**wrong)


def test_no_sequences_are_refused() -> None:
    with pytest.raises(InputError):
        LANGUAGE.sample(0, 0)
