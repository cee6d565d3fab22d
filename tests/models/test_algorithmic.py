"""The algorithmic tasks: answers against plain Python, and the part of each sequence that is the answer."""

from collections import Counter

import numpy as np
import pytest

import data.algorithmic
from data.algorithmic import ALGORITHMS, Algorithm, _is_held_out
from landscape.errors import InputError


def number(bits: str) -> int:
    """The number whose bits are given, the lowest bit first."""
    return int(bits[::-1], 2)


def written(value: int, bits: int) -> str:
    """The ``bits`` bits of a number, the lowest first."""
    return f"{value:0{bits}b}"[::-1]


def added(question: str) -> str:
    first, second = question.split("+")
    return written(number(first) + number(second), len(first) + 1)


def multiplied(question: str) -> str:
    first, second = question.split("*")
    return written(number(first) * number(second), 2 * len(first))


PLAIN = {
    "parity": lambda question: str(question.count("1") % 2),
    "copy": lambda question: question,
    "addition": added,
    "binary-sum": lambda question: written(question.count("1"), len(bin(len(question))) - 2),
    "multiplication": multiplied,
    "unique-set": lambda question: "".join(dict.fromkeys(question)),
}

ANSWERS = {
    "parity": "0110>0.",
    "copy": "31415>31415.",
    "addition": "011+110>1001.",
    "binary-sum": "01101>110.",
    "multiplication": "011*110>010010.",
    "unique-set": "313114>314.",
}


@pytest.fixture(params=ALGORITHMS.values(), ids=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return request.param


def test_all_have_a_plain_answer() -> None:
    assert PLAIN.keys() == ALGORITHMS.keys() == ANSWERS.keys()


def test_answers_are_those_of_plain_python(algorithm: Algorithm) -> None:
    """Answers of trained and longer lengths, and the marks of the symbols that belong to the answer, are right."""
    lengths = [*algorithm.trained, *algorithm.longer]
    found = algorithm.examples(2000, lengths, 3)
    assert set(found.lengths) == set(lengths)
    for tokens, answered, length in zip(found.tokens, found.answered, found.lengths, strict=True):
        text = algorithm.text(tokens)
        question, rest = text.split(">")
        answer = rest[: rest.index(".")]
        assert len(question) == (2 * length + 1 if algorithm.symbols[2:] in ("+", "*") else length)
        assert answer == PLAIN[algorithm.name](question)
        assert set(rest[len(answer) :]) == {"."}
        # The symbols after ">" up to the first "." are the answer.
        begun = len(question)
        expected = [begun <= t <= begun + len(answer) for t in range(len(tokens) - 1)]
        assert answered.tolist() == expected


def test_the_head_of_the_module_is_true() -> None:
    for name, text in ANSWERS.items():
        assert any(line.split()[:2] == [name, text] for line in (data.algorithmic.__doc__ or "").splitlines())
        question, answer = text.rstrip(".").split(">")
        assert PLAIN[name](question) == answer


def test_training_never_asks_what_is_held_out(algorithm: Algorithm) -> None:
    """About one in eight questions of every length with 64 or more is held out, up to five standard errors."""
    lengths = algorithm.held_out_lengths
    asked = {
        algorithm.text(each).split(">")[0] for each in algorithm.examples(20_000, lengths, 0, held_out=False).tokens
    }
    held = {algorithm.text(each).split(">")[0] for each in algorithm.examples(5000, lengths, 1, held_out=True).tokens}
    assert asked
    assert held
    assert not asked & held
    for length in lengths:
        drawn = algorithm.draw(np.random.default_rng(2), 20_000, length)[0]
        different = np.unique(drawn, axis=0)
        share = _is_held_out(different).mean()
        assert abs(share - 1 / 8) < 5 * np.sqrt(1 / 8 * 7 / 8 / len(different))


def test_of_few_questions_all_are_asked_in_training() -> None:
    parity = ALGORITHMS["parity"]
    assert parity.held_out_lengths == list(range(6, 13))
    assert ALGORITHMS["addition"].held_out_lengths == list(range(3, 9))
    found = parity.examples(2000, [5], 0, held_out=False)
    assert len(np.unique(found.tokens, axis=0)) == 32
    with pytest.raises(InputError, match="no question of parity of length 5 is held out"):
        parity.examples(10, [5], 0, held_out=True)


def test_lengths_and_symbols_are_equally_likely() -> None:
    """Each frequency is within five standard errors of its probability."""
    found = ALGORITHMS["copy"].examples(12_000, range(1, 13), 0)
    for counted, kinds in ((Counter(found.lengths.tolist()), 12), (Counter(found.tokens[:, 0].tolist()), 10)):
        shares = np.array(list(counted.values())) / 12_000
        assert len(shares) == kinds
        assert np.abs(shares - 1 / kinds).max() < 5 * np.sqrt(1 / kinds / 12_000)


def test_equal_seeds_draw_equal_examples(algorithm: Algorithm) -> None:
    first, second, third = (algorithm.examples(50, algorithm.trained, seed).tokens for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert first.shape != third.shape or not np.array_equal(first, third)


@pytest.mark.parametrize(("count", "lengths"), [(0, [3]), (5, []), (5, [0, 2])])
def test_impossible_examples_are_refused(count: int, lengths: list[int]) -> None:
    with pytest.raises(InputError):
        ALGORITHMS["parity"].examples(count, lengths, 0)
