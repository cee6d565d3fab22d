"""Loss and accuracy of a next-token predictor on sequences of two types, with standard errors over sequences.

The tokens of one sequence are dependent, so the sequence is the unit: a figure is a mean over sequences of a mean over
tokens, and its standard error comes from the spread between sequences.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from landscape.errors import InputError

Group = Literal["overall", "simple", "complex"]
GROUPS: tuple[Group, ...] = ("overall", "simple", "complex")


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Scores:
    """What one predictor reaches on each of n sequences.

    Attributes:
        loss: Mean cross-entropy of a sequence's tokens in nats, shape (n,).
        accuracy: Share of a sequence's tokens that are the predictor's most probable symbol, shape (n,). Of several
            equally probable symbols the first counts, which favours none in a language that treats symbols alike.
        is_complex: Type of each sequence, bool of shape (n,).
    """

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    is_complex: NDArray[np.bool_]

    @classmethod
    def of(
        cls, log_probabilities: NDArray[np.float64], tokens: NDArray[np.int64], is_complex: NDArray[np.bool_]
    ) -> "Scores":
        """Score (n, L, V) log probabilities (natural) of the next token against (n, L + 1) tokens."""
        targets = tokens[:, 1:]
        chosen = np.take_along_axis(log_probabilities, targets[:, :, None], axis=2)[:, :, 0]
        hits = log_probabilities.argmax(axis=2) == targets
        return cls(-chosen.mean(axis=1), hits.mean(axis=1), is_complex)

    def summary(self) -> dict[str, dict[Group, Estimate]]:
        """Return the loss and the accuracy of every group."""
        values = {"loss": self.loss, "accuracy": self.accuracy}
        return {
            name: {group: estimate(value, self.is_complex, group) for group in GROUPS} for name, value in values.items()
        }


def estimate(values: NDArray[np.float64], is_complex: NDArray[np.bool_], group: Group) -> Estimate:
    """Return the mean over a group of sequences and its standard error.

    The numbers of simple and complex sequences are fixed by the language, not drawn, so the overall figure is that of a
    stratified sample: the share-weighted mean of the two types, its variance the sum of the weighted variances.

    Args:
        values: One value for each sequence, shape (n,).
        is_complex: Type of each sequence, shape (n,).
        group: Which sequences.

    Raises:
        InputError: If a type in the group has fewer than two sequences.
    """
    if group == "overall":
        share = float(is_complex.mean())
        simple, complex_ = (estimate(values, is_complex, part) for part in ("simple", "complex"))
        return Estimate(
            (1 - share) * simple.mean + share * complex_.mean,
            float(np.hypot((1 - share) * simple.standard_error, share * complex_.standard_error)),
        )
    chosen = values[is_complex == (group == "complex")]
    if len(chosen) < 2:
        raise InputError(f"{len(chosen)} {group} sequences give no standard error; evaluate at least 4 sequences")
    return Estimate(float(chosen.mean()), float(chosen.std(ddof=1) / np.sqrt(len(chosen))))
