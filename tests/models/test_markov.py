"""The Markov language, its Bayes predictor and the scores, each against an independent calculation."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, logsumexp

from data.markov import BayesPredictor, MarkovLanguage, Sequences
from data.scores import GROUPS, Scores, estimate
from landscape.errors import InputError

LANGUAGE = MarkovLanguage()
# Statements about random samples allow five standard errors, which one comparison exceeds for one seed in 1.7 million.
ALLOWED = 5


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return LANGUAGE.sample(20_000, 7)


def log_marginal_likelihoods(language: MarkovLanguage, tokens: list[int]) -> tuple[float, float]:
    """The logarithms of p(x_2 ... x_{L+1} | x_1) if a sequence is simple, and if it is complex.

    The latter is the Dirichlet-multinomial distribution of every row's counts, by gamma functions without chain rule.
    """
    a, V = language.concentration, language.symbols
    counts = np.zeros((V, V))
    simple = 0.0
    for here, there in pairwise(tokens):
        counts[here, there] += 1
        on_cycle = there == (here + 1) % V
        simple += math.log(
            language.successor_probability if on_cycle else (1 - language.successor_probability) / (V - 1)
        )
    rows = gammaln(V * a) - gammaln(V * a + counts.sum(axis=1)) + (gammaln(a + counts) - gammaln(a)).sum(axis=1)
    return simple, float(rows.sum())


def log_mixture(language: MarkovLanguage, tokens: list[int]) -> float:
    return float(logsumexp(log_marginal_likelihoods(language, tokens)) - math.log(2))


def log_chain_rule(probabilities: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sum over t of ln p(x_{t+1} | x_1 ... x_t), (n,)."""
    n, L = tokens[:, 1:].shape
    return np.log(probabilities[np.arange(n)[:, None], np.arange(L), tokens[:, 1:]]).sum(axis=1)


class TestSampling:
    def test_shapes_and_types(self) -> None:
        drawn = LANGUAGE.sample(10, 0)
        assert drawn.tokens.shape == (10, 33)
        assert drawn.tokens.dtype == np.int64
        assert set(np.unique(drawn.tokens)) <= set(range(6))
        assert drawn.is_complex.tolist() == [False, True] * 5

    def test_equal_seeds_give_equal_sequences_and_others_do_not(self) -> None:
        first, again, other = (LANGUAGE.sample(8, seed).tokens for seed in (3, np.random.default_rng(3), 4))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_first_symbol_is_uniform(self, sequences: Sequences) -> None:
        counts = np.bincount(sequences.tokens[:, 0], minlength=6)
        n = counts.sum()
        assert np.abs(counts - n / 6).max() < ALLOWED * math.sqrt(n * (1 / 6) * (5 / 6))

    def test_simple_sequences_follow_the_cycle_as_often_as_told(self, sequences: Sequences) -> None:
        simple = sequences.tokens[~sequences.is_complex]
        here, there = simple[:, :-1].ravel(), simple[:, 1:].ravel()
        # Steps along a known chain are independent of each other, so the count of each entry is binomial.
        for i, j in product(range(6), range(6)):
            visits, p = (here == i).sum(), 0.95 if j == (i + 1) % 6 else 0.01
            assert abs((there[here == i] == j).sum() - visits * p) < ALLOWED * math.sqrt(visits * p * (1 - p))

    def test_complex_rows_have_the_dirichlet_second_moment(self, sequences: Sequences) -> None:
        """Two departures from one symbol agree with probability (1 + a) / (1 + V a), Polya's urn."""
        agreements = []
        for row in sequences.tokens[sequences.is_complex]:
            departures = np.flatnonzero(row[:-1] == row[0])
            if len(departures) > 1:
                agreements.append(row[1] == row[departures[1] + 1])
        p = 1.2 / 2.2
        assert abs(np.mean(agreements) - p) < ALLOWED * math.sqrt(p * (1 - p) / len(agreements))

    def test_one_long_complex_sequence_visits_symbols_as_its_chain_tells(self) -> None:
        """The bigrams of one sequence come from one fixed matrix, so its two halves give equal estimates."""
        drawn = MarkovLanguage(symbols=3, length=20_000, concentration=2.0).sample(2, 5).tokens[1]
        halves = []
        for part in (drawn[:10_001], drawn[10_000:]):
            counts = np.zeros((3, 3))
            np.add.at(counts, (part[:-1], part[1:]), 1)
            halves.append((counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=1, keepdims=True)))
        (first, n), (second, m) = halves
        p = (first + second) / 2
        assert (np.abs(first - second) < ALLOWED * np.sqrt(p * (1 - p) * (1 / n + 1 / m))).all()

    @pytest.mark.parametrize(
        "wrong",
        [{"symbols": 1}, {"length": 0}, {"successor_probability": 1.0}, {"concentration": 0.0}],
    )
    def test_a_language_that_is_none_is_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(InputError, match=next(iter(wrong))):
            MarkovLanguage(**wrong)

    def test_no_sequences_are_refused(self) -> None:
        with pytest.raises(InputError, match="at least 1"):
            LANGUAGE.sample(0, 0)


class TestInformationContent:
    def test_of_simple_sequences_by_a_plain_loop(self) -> None:
        drawn = LANGUAGE.sample(20, 1)
        for row, is_complex, bits in zip(drawn.tokens, drawn.is_complex, drawn.information_content, strict=True):
            if not is_complex:
                loop = -sum(math.log2(0.95 if j == (i + 1) % 6 else 0.01) for i, j in pairwise(row.tolist()))
                assert bits == pytest.approx(loop, rel=1e-12)

    def test_of_complex_sequences_by_the_frequencies_of_a_long_one(self) -> None:
        """A code from the frequencies of N transitions is shorter than the chain's by chi^2 / (2 ln 2) bits (Wilks)."""
        drawn = MarkovLanguage(symbols=3, length=20_000, concentration=2.0).sample(2, 5)
        counts = np.zeros((3, 3))
        np.add.at(counts, (drawn.tokens[1, :-1], drawn.tokens[1, 1:]), 1)
        fitted = -(counts * np.log2(counts / counts.sum(axis=1, keepdims=True))).sum()
        excess = drawn.information_content[1] - fitted
        # Six free parameters: chi^2 lies below 39.5 with the same odds as five standard errors.
        assert 0 < excess < 39.5 / (2 * math.log(2))

    def test_of_the_first_step_is_the_expected_entropy_of_a_dirichlet_row(self) -> None:
        """For one-step sequences, whose rows are all fresh, E H = psi(V a + 1) - psi(a + 1) nats."""
        drawn = MarkovLanguage(length=1).sample(40_000, 2)
        bits = drawn.information_content[drawn.is_complex]
        expected = (digamma(2.2) - digamma(1.2)) / math.log(2)
        assert abs(bits.mean() - expected) < ALLOWED * bits.std() / math.sqrt(len(bits))

    def test_under_bayes_is_the_mixture_s_code_length(self) -> None:
        drawn = LANGUAGE.sample(12, 3)
        expected = [-log_mixture(LANGUAGE, row) / math.log(2) for row in drawn.tokens.tolist()]
        assert drawn.information_content_bayes == pytest.approx(expected, rel=1e-12)


class TestBayesPredictor:
    @pytest.mark.parametrize("language", [LANGUAGE, MarkovLanguage(symbols=3, length=9, concentration=1.5)])
    def test_chain_rule_gives_the_closed_marginal_likelihood(self, language: MarkovLanguage) -> None:
        tokens = language.sample(40, 4).tokens
        expected = [log_mixture(language, row) for row in tokens.tolist()]
        assert log_chain_rule(BayesPredictor(language).predict(tokens), tokens) == pytest.approx(expected, rel=1e-12)

    def test_chain_rule_knowing_the_type(self) -> None:
        drawn = LANGUAGE.sample(40, 4)
        expected = [
            log_marginal_likelihoods(LANGUAGE, row)[int(is_complex)]
            for row, is_complex in zip(drawn.tokens.tolist(), drawn.is_complex, strict=True)
        ]
        probabilities = BayesPredictor(LANGUAGE).predict_knowing_type(drawn.tokens, drawn.is_complex)
        assert log_chain_rule(probabilities, drawn.tokens) == pytest.approx(expected, rel=1e-12)

    def test_probabilities_are_ratios_of_marginal_likelihoods(self) -> None:
        """The probabilities are p(v | x) = p(x v) / p(x) for every symbol v, even if v did not follow."""
        language = MarkovLanguage(symbols=3, length=5)
        tokens = language.sample(6, 8).tokens
        probabilities = BayesPredictor(language).predict(tokens)
        for row, predicted in zip(tokens.tolist(), probabilities, strict=True):
            for t, v in product(range(5), range(3)):
                past = row[: t + 1]
                ratio = log_mixture(language, [*past, v]) - log_mixture(language, past)
                assert math.log(predicted[t, v]) == pytest.approx(ratio, abs=1e-12)

    def test_marginal_likelihood_sums_to_one_over_all_sequences(self) -> None:
        language = MarkovLanguage(symbols=3, length=4)
        tokens = np.array([(0, *rest) for rest in product(range(3), repeat=4)])
        total = np.exp(log_chain_rule(BayesPredictor(language).predict(tokens), tokens)).sum()
        assert total == pytest.approx(1, abs=1e-13)

    def test_does_not_look_ahead(self) -> None:
        tokens = LANGUAGE.sample(4, 9).tokens
        changed = tokens.copy()
        changed[:, 20] = (changed[:, 20] + 1) % 6
        first, second = (BayesPredictor(LANGUAGE).predict(each) for each in (tokens, changed))
        assert np.array_equal(first[:, :20], second[:, :20])
        assert not np.array_equal(first[:, 20:], second[:, 20:])

    def test_is_calibrated(self, sequences: Sequences) -> None:
        """Hits agree with expected hits: the sum of (hit - top probability) is a martingale of known variance."""
        probabilities = BayesPredictor(LANGUAGE).predict(sequences.tokens)
        top = probabilities.max(axis=2)
        hits = probabilities.argmax(axis=2) == sequences.tokens[:, 1:]
        assert abs((hits - top).sum()) < ALLOWED * math.sqrt((top * (1 - top)).sum())

    def test_ceilings(self, sequences: Sequences) -> None:
        """The known ceilings of this language are 0.77 nats and, with known type, accuracies of 0.95 and 0.54."""
        predictor, is_complex = BayesPredictor(LANGUAGE), sequences.is_complex
        mixed = Scores.of(np.log(predictor.predict(sequences.tokens)), sequences.tokens, is_complex)
        told = predictor.predict_knowing_type(sequences.tokens, is_complex)
        aware = Scores.of(np.log(told), sequences.tokens, is_complex).summary()["accuracy"]
        loss = mixed.summary()["loss"]["overall"]
        # The figures are rounded to two digits: half a unit of the last one beside the standard errors.
        for found, figure in ((loss, 0.77), (aware["simple"], 0.95), (aware["complex"], 0.54)):
            assert abs(found.mean - figure) < 0.005 + ALLOWED * found.standard_error

    def test_beats_any_other_predictor_on_average(self, sequences: Sequences) -> None:
        """Another concentration predicts worse by more than chance."""
        own, other = (
            -log_chain_rule(BayesPredictor(MarkovLanguage(concentration=a)).predict(sequences.tokens), sequences.tokens)
            for a in (0.2, 0.4)
        )
        gain = estimate(other - own, sequences.is_complex, "overall")
        assert gain.mean > ALLOWED * gain.standard_error


class TestScores:
    def test_by_hand(self) -> None:
        probabilities = np.array([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]] * 4)
        tokens = np.array([[0, 0, 2], [0, 0, 0], [0, 1, 2], [0, 2, 1]])
        is_complex = np.array([False, False, True, True])
        scores = Scores.of(np.log(probabilities), tokens, is_complex)
        chosen = np.array([[0.5, 0.8], [0.5, 0.1], [0.3, 0.8], [0.2, 0.1]])
        assert scores.loss == pytest.approx(-np.log(chosen).mean(axis=1), rel=1e-14)
        assert scores.accuracy.tolist() == [1.0, 0.5, 0.5, 0.0]
        summary = scores.summary()["accuracy"]
        assert [summary[group].mean for group in GROUPS] == [0.5, 0.75, 0.25]
        # Deviation of {1, 0.5} with one degree of freedom lost: 0.25 * sqrt(2); over sqrt(2) that is 0.25.
        assert summary["simple"].standard_error == pytest.approx(0.25)
        assert summary["overall"].standard_error == pytest.approx(math.hypot(0.125, 0.125))

    def test_standard_error_is_the_spread_over_repeated_samples(self) -> None:
        """The overall error is that of a stratified sample: here the types differ far more than sequences do."""
        generator = np.random.default_rng(0)
        is_complex = np.arange(40) % 4 == 0
        samples = [np.where(is_complex, 10.0, 0.0) + generator.normal(size=40) for _ in range(2000)]
        estimates = [estimate(sample, is_complex, "overall") for sample in samples]
        spread = np.std([each.mean for each in estimates], ddof=1)
        claimed = math.sqrt(np.mean([each.standard_error**2 for each in estimates]))
        # A deviation from 2000 samples has a relative standard error of 1 / sqrt(4000); five of them are 8 %.
        assert claimed == pytest.approx(spread, rel=ALLOWED / math.sqrt(4000))

    def test_one_sequence_of_a_type_gives_no_standard_error(self) -> None:
        with pytest.raises(InputError, match="at least 4"):
            estimate(np.zeros(3), np.array([False, True, False]), "overall")
