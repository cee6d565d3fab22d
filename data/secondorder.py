"""A fixed language of second order, for which one attention layer is enough: the task where looping isn't needed.

The next symbol v after i, with j before it, has the probability softmax_v(A_iv + B_jv) with two tables that are the
same for all sequences. The logits are a sum over the last two symbols, so that a single layer with one attention head
that looks one position back, and a linear head, can have them exactly.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from landscape.errors import InputError

Seed = int | np.random.SeedSequence | np.random.Generator
TABLES_SEED = 20_251_009


@dataclass(frozen=True)
class SecondOrderLanguage:
    """The language.

    Attributes:
        symbols: Size V of the vocabulary.
        length: Number L of predicted tokens; a sequence has L + 1 symbols, the first of them uniform, the second after
            a first symbol alone.
        spread: Standard deviation of the entries of both tables: 0 is noise, and the larger it is, the more certain is
            the next symbol.

    Raises:
        InputError: If a size is out of range.
    """

    symbols: int = 6
    length: int = 32
    spread: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what defines no language."""
        if self.symbols < 2 or self.length < 1 or not self.spread >= 0:
            raise InputError(
                f"SecondOrderLanguage has {self.symbols=}, {self.length=} and {self.spread=}; give at least 2, 1 and 0"
            )

    @cached_property
    def tables(self) -> NDArray[np.float64]:
        """A and B, (2, V, V): the logits of the next symbol (columns) by the last one and by the one before."""
        return np.random.default_rng(TABLES_SEED).normal(0, self.spread, size=(2, self.symbols, self.symbols))

    def log_probabilities(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Ln p(x_{t+1} = v | x_t, x_{t-1}): (n, L + 1) tokens -> (n, L, V), the best there are."""
        last, before = self.tables
        logits = last[tokens[:, :-1]]
        logits[:, 1:] += before[tokens[:, :-2]]
        return logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)  # SciPy would take longer to import

    def _next(self, context: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 1 or 2) last symbols -> (n, V) logarithms of the next one's probabilities."""
        placeholder = np.zeros((len(context), 1), dtype=np.int64)
        return self.log_probabilities(np.concatenate([context, placeholder], axis=1))[:, -1]

    def sample(self, count: int, seed: Seed) -> NDArray[np.int64]:
        """Draw (count, L + 1) tokens.

        Raises:
            InputError: If ``count`` is not positive.
        """
        if count < 1:
            raise InputError(f"cannot draw {count} sequences; give a count of at least 1")
        generator = np.random.default_rng(seed)
        tokens = np.empty((count, self.length + 1), dtype=np.int64)
        tokens[:, 0] = generator.integers(self.symbols, size=count)
        for t in range(self.length):
            # Two symbols and a place for the next one, or at the start one and that place.
            probabilities = np.exp(self._next(tokens[:, max(t - 1, 0) : t + 1])).cumsum(axis=1)
            # The last column is left out: rounding may leave it below 1, and no draw may fall past it.
            tokens[:, t + 1] = (probabilities[:, :-1] <= generator.random((count, 1))).sum(axis=1)
        return tokens
