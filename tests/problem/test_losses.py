"""Terms of losses: sum w l / sum w over one batch equals the loss itself, for every loss of torch."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from landscape import InputError
from landscape.problem.losses import terms_of

CPU, DOUBLE = torch.device("cpu"), torch.float64


def _tensors(kind):
    g = torch.Generator().manual_seed(4)
    output = torch.randn(8, 5, generator=g, dtype=DOUBLE)
    tokens = torch.randn(8, 5, 6, generator=g, dtype=DOUBLE)
    return {
        "classes": (output, torch.randint(0, 5, (8,), generator=g)),
        "tokens": (tokens, torch.randint(0, 5, (8, 6), generator=g)),
        "probabilities": (output, output.softmax(1).roll(1, 0)),
        "log probabilities": (output.log_softmax(1), output.roll(1, 0).softmax(1)),
        "reals": (output, torch.randn(8, 5, generator=g, dtype=DOUBLE)),
        "binary": (output, torch.randint(0, 2, (8, 5), generator=g).double()),
        "signs": (output, torch.randint(0, 2, (8, 5), generator=g).double() * 2 - 1),
        "log classes": (output.log_softmax(1), torch.randint(0, 5, (8,), generator=g)),
        "multilabel": (output, torch.randint(0, 5, (8, 5), generator=g)),
    }[kind]


WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1])

LOSSES = [
    (nn.CrossEntropyLoss(), "classes"),
    (nn.CrossEntropyLoss(), "tokens"),
    (nn.CrossEntropyLoss(weight=WEIGHTS), "tokens"),
    (nn.CrossEntropyLoss(ignore_index=1), "tokens"),
    (nn.CrossEntropyLoss(ignore_index=1, weight=WEIGHTS, label_smoothing=0.2), "tokens"),
    (nn.CrossEntropyLoss(weight=WEIGHTS), "probabilities"),
    (nn.CrossEntropyLoss(reduction="none"), "classes"),
    (nn.NLLLoss(weight=WEIGHTS), "log classes"),
    (nn.MSELoss(), "reals"),
    (nn.L1Loss(), "reals"),
    (nn.SmoothL1Loss(beta=0.3), "reals"),
    (nn.HuberLoss(delta=0.7), "reals"),
    (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), "binary"),
    (nn.BCEWithLogitsLoss(weight=WEIGHTS), "binary"),
    (nn.KLDivLoss(reduction="batchmean"), "log probabilities"),
    (nn.SoftMarginLoss(), "signs"),
    (nn.MultiMarginLoss(weight=WEIGHTS.double()), "classes"),
    (nn.MultiLabelMarginLoss(), "multilabel"),
    (nn.PoissonNLLLoss(), "binary"),
    (functional.cross_entropy, "tokens"),
    (partial(functional.cross_entropy, ignore_index=2, weight=WEIGHTS), "tokens"),
    (functional.mse_loss, "reals"),
    (partial(functional.huber_loss, delta=0.4), "reals"),
    (partial(functional.binary_cross_entropy_with_logits, pos_weight=WEIGHTS), "binary"),
    (lambda output, target: ((output - target) ** 2).mean(), "reals"),
    (
        lambda output, target: functional.cross_entropy(output.transpose(1, 2).reshape(-1, 5), target.flatten()),
        "tokens",
    ),
]


def _as_double(loss):
    """Torch's value of the loss, with class weights in the type of the outputs."""
    if isinstance(loss, nn.Module):
        if getattr(loss, "reduction", "") == "none":
            return lambda output, target: loss(output, target).mean()
        return loss.double()
    if isinstance(loss, partial):
        keywords = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in loss.keywords.items()}
        return partial(loss.func, **keywords)
    return loss


@pytest.mark.parametrize(("loss", "kind"), LOSSES)
def test_weighted_terms_give_the_loss(loss, kind):
    output, target = _tensors(kind)
    found = terms_of(loss, CPU, DOUBLE)
    losses, weights = found.check(output, target)
    assert losses.shape == weights.shape
    assert len(losses) == 8
    expected = _as_double(loss)(output, target)
    # Two orders of summation of at most 48 terms of size below 10.
    assert abs((losses * weights).sum() / weights.sum() - expected) < 48 * 10 * torch.finfo(DOUBLE).eps


def test_masked_terms_have_weight_zero_and_class_weights_are_the_targets():
    output, target = _tensors("tokens")
    _, weights = terms_of(nn.CrossEntropyLoss(ignore_index=1, weight=WEIGHTS), CPU, DOUBLE).terms(output, target)
    assert torch.equal(weights, torch.where(target == 1, 0.0, WEIGHTS.double()[target]))
    masked = target.clone()
    masked[:, 3:] = -100
    losses, weights = terms_of(nn.CrossEntropyLoss(weight=WEIGHTS), CPU, DOUBLE).terms(output, masked)
    assert not weights[:, 3:].any()
    assert losses.isfinite().all()


def test_a_function_that_returns_losses_is_taken_at_its_word():
    output, target = _tensors("reals")
    losses, weights = terms_of(lambda o, t: (o - t).abs(), CPU, DOUBLE).terms(output, target)
    assert torch.equal(losses, (output - target).abs())
    assert torch.equal(weights, torch.ones_like(losses))


def test_the_users_loss_module_is_left_alone():
    loss = nn.CrossEntropyLoss(weight=WEIGHTS)
    terms_of(loss, CPU, DOUBLE)
    assert loss.reduction == "mean"
    assert loss.weight.dtype == torch.float32


def _masked_mean(output, target):
    """A mean over kept tokens. It is no mean over samples, since samples keep different numbers of tokens."""
    kept = target != 1
    return (functional.cross_entropy(output, target, reduction="none") * kept).sum() / kept.sum()


@pytest.mark.parametrize(
    ("loss", "kind", "word"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), "classes", "mean"),
        (partial(functional.mse_loss, reduction="sum"), "reals", "mean"),
        ("mse", "reals", "function"),
        (_masked_mean, "tokens", "from_sample_losses"),
        (lambda output, target: ((output - target) ** 2).sum(), "reals", "isn't the mean"),
        (lambda output, target: 1.0, "reals", "float"),
    ],
)
def test_losses_that_are_no_mean_over_terms_are_refused(loss, kind, word):
    output, target = _tensors(kind)
    with pytest.raises(InputError, match=word) as caught:
        terms_of(loss, CPU, DOUBLE).check(output, target)
    assert "\n" not in str(caught.value)


def test_one_number_for_structured_targets_asks_for_the_other_form():
    with pytest.raises(InputError, match="from_sample_losses"):
        terms_of(lambda output, target: target["a"].mean(), CPU, DOUBLE).terms(torch.ones(2), {"a": torch.ones(2)})
