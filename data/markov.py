"""An in-context Markov language: half of its sequences follow one known chain, the others a chain of their own.

A *simple* sequence is drawn from one global chain that walks round a cycle of the symbols and seldom leaves it. A
*complex* sequence is drawn from a transition matrix made for it alone, which can only be inferred in context.
Difficulty is measured by the Information Content of arXiv:2510.10089, ``IC(x) = -sum_t log2 p(x_{t+1} | x_t)``. The
best possible predictor has a closed form, so the ceiling of every model is known.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from landscape.errors import InputError

Seed = int | np.random.SeedSequence | np.random.Generator


@dataclass(frozen=True)
class MarkovLanguage:
    """The language and the sizes that define it.

    Attributes:
        symbols: Size V of the vocabulary.
        length: Number L of predicted tokens; a sequence has L + 1 symbols, the first of them uniform.
        successor_probability: Probability, in the simple chain, of the next symbol of the cycle.
        concentration: Parameter a of the symmetric Dirichlet distribution of each row of a complex chain.

    Raises:
        InputError: If a size or a probability is out of range.
    """

    symbols: int = 6
    length: int = 32
    successor_probability: float = 0.95
    concentration: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what defines no language."""
        if self.symbols < 2 or self.length < 1:
            raise InputError(f"MarkovLanguage has {self.symbols=} and {self.length=}; give at least 2 and 1")
        if not 0 < self.successor_probability < 1:
            raise InputError(
                f"MarkovLanguage has {self.successor_probability=}; give a number strictly between 0 and 1"
            )
        if self.concentration <= 0:
            raise InputError(f"MarkovLanguage has {self.concentration=}; give a number above 0")

    @cached_property
    def simple_chain(self) -> NDArray[np.float64]:
        """The (V, V) transition matrix of the simple sequences; row i holds p(. | i)."""
        others = (1 - self.successor_probability) / (self.symbols - 1)
        chain = np.full((self.symbols, self.symbols), others)
        here = np.arange(self.symbols)
        chain[here, (here + 1) % self.symbols] = self.successor_probability
        return chain

    def sample(self, count: int, seed: Seed) -> "Sequences":
        """Draw sequences, simple and complex in turn, so that every even slice holds half of each.

        Args:
            count: Number n of sequences.
            seed: Anything that ``numpy.random.default_rng`` takes; a generator is advanced.

        Raises:
            InputError: If ``count`` is not positive.
        """
        if count < 1:
            raise InputError(f"cannot draw {count} sequences; give a count of at least 1")
        generator = np.random.default_rng(seed)
        is_complex = np.arange(count) % 2 == 1
        own_chains = generator.dirichlet(np.full(self.symbols, self.concentration), size=(count, self.symbols))
        chains = np.where(is_complex[:, None, None], own_chains, self.simple_chain)
        tokens = self._walk(chains, generator)
        bits = -np.log2(chains[np.arange(count)[:, None], tokens[:, :-1], tokens[:, 1:]])
        return Sequences(self, tokens, is_complex, bits.sum(axis=1))

    def _walk(self, chains: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Follow one (V, V) chain for each sequence: (n, V, V) -> (n, L + 1)."""
        count = len(chains)
        cumulative = chains.cumsum(axis=2)
        tokens = np.empty((count, self.length + 1), dtype=np.int64)
        tokens[:, 0] = generator.integers(self.symbols, size=count)
        for t in range(self.length):
            row = cumulative[np.arange(count), tokens[:, t]]
            # The last column is left out: rounding may leave it below 1, and no draw may fall past it.
            tokens[:, t + 1] = (row[:, :-1] <= generator.random((count, 1))).sum(axis=1)
        return tokens


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of a language with what is known of how they came to be.

    Attributes:
        language: The language they were drawn from.
        tokens: Symbols, int64 of shape (n, L + 1).
        is_complex: Whether a sequence has a chain of its own, bool of shape (n,).
        information_content: -sum_t log2 p(x_{t+1} | x_t) in bits under the generating chain, shape (n,). The first
            symbol is left out, and so are the drawing of the type and of the chain.
    """

    language: MarkovLanguage
    tokens: NDArray[np.int64]
    is_complex: NDArray[np.bool_]
    information_content: NDArray[np.float64]

    @cached_property
    def information_content_bayes(self) -> NDArray[np.float64]:
        """-sum_t log2 p(x_{t+1} | x_1 ... x_t) in bits under the Bayes predictor, shape (n,)."""
        probabilities = BayesPredictor(self.language).predict(self.tokens)
        return -np.log2(_chosen(probabilities, self.tokens[:, 1:])).sum(axis=1)


@dataclass(frozen=True)
class BayesPredictor:
    """The exact posterior predictive distribution of a language: no predictor has a lower expected loss.

    Under the complex type the next symbol after symbol i has probability (n_iv + a) / (N_i + V a), where n_iv counts
    the transitions from i to v seen so far and N_i = sum_v n_iv (the Dirichlet-multinomial distribution). The predictor
    mixes this with row i of the simple chain by the posterior probability of the two types, 1/2 each beforehand.
    """

    language: MarkovLanguage

    def predict(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return p(x_{t+1} = v | x_1 ... x_t): (n, L + 1) tokens -> (n, L, V) probabilities."""
        simple, complex_ = self._predict_each_type(tokens)
        ratio = np.log(_chosen(complex_, tokens[:, 1:])) - np.log(_chosen(simple, tokens[:, 1:]))
        # The weight at step t rests on the transitions before t: a cumulative sum that leaves out the present one.
        odds = ratio.cumsum(axis=1) - ratio
        weight = np.exp(-np.logaddexp(0, -odds))[:, :, None]  # the logistic function; SciPy would take longer to import
        return weight * complex_ + (1 - weight) * simple

    def predict_knowing_type(self, tokens: NDArray[np.int64], is_complex: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the same for a predictor that is told each sequence's type: the ceiling of one type alone."""
        simple, complex_ = self._predict_each_type(tokens)
        return np.where(is_complex[:, None, None], complex_, simple)

    def _predict_each_type(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the (n, L, V) predictions of a simple and of a complex sequence."""
        a, V = self.language.concentration, self.language.symbols
        now, following = tokens[:, :-1], tokens[:, 1:]
        earlier = np.tri(now.shape[1], k=-1, dtype=bool)  # (t, s): s lies before t
        same_symbol = earlier & (now[:, :, None] == now[:, None, :])  # (n, t, s)
        counts = same_symbol.astype(np.float64) @ np.eye(V)[following]  # (n, t, v): transitions x_t -> v before t
        complex_ = (counts + a) / (counts.sum(axis=2, keepdims=True) + V * a)
        return self.language.simple_chain[now], complex_


def _chosen(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pick the targets' probabilities: (n, L, V) and (n, L) -> (n, L)."""
    return np.take_along_axis(probabilities, targets[:, :, None], axis=2)[:, :, 0]
