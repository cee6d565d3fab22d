"""The criteria on curves for which it is known when they become calm."""

import math

import numpy as np
import pytest

from landscape.dynamics.plateau import Plateau, ShiftCriterion, noise_threshold
from landscape.errors import InputError
from models.criteria import AtEpoch


def fires_at(criterion: ShiftCriterion, losses: list[float], norms: list[float]) -> int | None:
    """The number of epochs after which the criterion first fires."""
    for epoch, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
        if criterion.update(loss, norm):
            return epoch
    return None


class TestShiftCriterion:
    def test_waits_for_both_to_be_calm_for_the_patience(self) -> None:
        """Losses change by 1 up to epoch 5, norms up to epoch 8. Epochs 9, 10 and 11 are the first three calm ones."""
        losses = [10.0, 9, 8, 7, 6] + [5.99] * 10
        norms = [8.0, 7, 6, 5, 4, 3, 2, 1] + [0.99] * 7
        assert fires_at(ShiftCriterion(0.1, 0.1, patience=3), losses, norms) == 11
        assert fires_at(ShiftCriterion(0.1, math.inf, patience=3), losses, norms) == 8
        assert fires_at(ShiftCriterion(math.inf, 0.1, patience=3), losses, norms) == 11

    def test_one_epoch_in_motion_starts_the_patience_anew(self) -> None:
        losses = [1.0, 1, 1, 2, 2, 2, 2, 2]
        assert fires_at(ShiftCriterion(0.5, math.inf, patience=3), losses, losses) == 7

    def test_a_rise_is_a_change_too(self) -> None:
        assert fires_at(ShiftCriterion(0.5, 0.5, patience=1), [1.0, 2, 3, 4], [0.0] * 4) is None

    def test_a_change_of_the_threshold_itself_is_motion(self) -> None:
        assert fires_at(ShiftCriterion(0.5, 0.5, patience=1), [1.0, 1.5], [0.0] * 2) is None

    def test_says_yes_for_as_long_as_it_is_calm(self) -> None:
        criterion = ShiftCriterion(0.5, 0.5, patience=2)
        assert [criterion.update(1, 1) for _ in range(5)] == [False, False, True, True, True]

    def test_evidence_has_all_that_led_to_the_answer(self) -> None:
        criterion = ShiftCriterion(0.5, 0.25, patience=2)
        criterion.update(1.0, 2.0)
        criterion.update(0.875, 1.875)
        assert criterion.evidence == {
            "calm": 1, "patience": 2, "change_loss": -0.125, "threshold_loss": 0.5, "change_grad_norm": -0.125,
            "threshold_grad_norm": 0.25,
        }  # fmt: skip

    def test_what_is_not_a_number_is_not_calm(self) -> None:
        assert fires_at(ShiftCriterion(patience=1), [math.nan] * 40, [1.0] * 40) is None
        assert fires_at(ShiftCriterion(1.0, 1.0, patience=1), [math.inf] * 40, [1.0] * 40) is None

    @pytest.mark.parametrize(
        "wrong", [{"delta_loss": 0}, {"delta_grad": -1}, {"patience": 0}, {"delta_loss": math.nan}]
    )
    def test_impossible_settings_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(InputError):
            ShiftCriterion(**wrong)

    def test_a_number_that_is_watched_and_not_given_is_named(self) -> None:
        with pytest.raises(InputError, match="grad_norm wasn't given"):
            ShiftCriterion().watch({"loss": 1.0})


class TestNoise:
    def test_threshold_is_two_deviations_of_a_difference(self) -> None:
        """The median threshold over 2,000 seeds of 22 normal values about a line is 2 sqrt(2) sigma within a tenth.

        The median of 20 correlated second differences varies by some 25 %, that of 2,000 medians by less than 1 %, and
        the median of |z| over few values is biased by some percent.
        """
        generator = np.random.default_rng(0)
        found = [noise_threshold(list(0.3 * np.arange(22) + generator.normal(0, 0.1, 22))) for _ in range(2000)]
        assert np.median(found) == pytest.approx(2 * math.sqrt(2) * 0.1, rel=0.1)

    def test_noise_about_a_level_is_calm_and_fires(self) -> None:
        """With thresholds from their noise, two numbers are calm in 87 % of epochs, over 200 runs of 300 epochs."""
        generator = np.random.default_rng(1)
        epochs, calm = [], []
        for _ in range(200):
            losses, norms = generator.normal(size=(2, 300))
            epochs.append(fires_at(ShiftCriterion(patience=10), list(losses), list(norms)))
            criterion = ShiftCriterion(patience=10)
            for pair in zip(losses[:100], norms[:100], strict=True):
                criterion.update(*pair)
                calm.append(criterion.calm > 0)
        assert np.mean(np.reshape(calm, (200, 100))[:, 30:]) == pytest.approx(0.87, abs=0.02)
        assert None not in epochs
        assert min(epochs) >= 12 + 9  # ten second differences need twelve values, so epoch 12 is the first calm one

    def test_a_fall_well_above_the_noise_is_not_calm(self) -> None:
        generator = np.random.default_rng(2)
        for _ in range(50):
            losses = -np.arange(100) + generator.normal(0, 0.1, 100)
            assert fires_at(ShiftCriterion(None, math.inf, patience=3), list(losses), [0.0] * 100) is None

    def test_a_constant_is_calm(self) -> None:
        assert fires_at(ShiftCriterion(patience=3), [0.7] * 40, [0.1] * 40) == 14
        assert fires_at(ShiftCriterion(patience=3), [0.7] * 40, [0.0] * 40) == 14

    def test_what_is_left_out_may_be_nan(self) -> None:
        assert fires_at(ShiftCriterion(0.1, math.inf, patience=3), [0.7] * 40, [math.nan] * 40) == 4

    def test_too_few_values_tell_nothing(self) -> None:
        assert noise_threshold([1.0] * 11) is None
        assert noise_threshold([1.0] * 12) is not None


def test_at_epoch_counts() -> None:
    criterion = AtEpoch(3)
    assert [criterion.watch({}) for _ in range(4)] == [False, False, True, True]


def test_a_plateau_of_anything() -> None:
    criterion = Plateau({"top_eigenvalue": 0.1}, patience=2)
    assert [criterion.watch({"top_eigenvalue": value, "loss": 9.0}) for value in (3, 2, 2, 2)] == [
        False,
        False,
        False,
        True,
    ]
