"""Algorithmic tasks: a question of a given length, and its one right answer.

Parity, copy, addition, binary sum, multiplication and unique set are the tasks of arXiv:2510.10089. Its exact formats
aren't public here; those below are ours: numbers are binary with the lowest bit first, so that a sum can be written
in the order in which it is computed. A sequence is the question, ``>``, the answer and ``.``:

    parity           0110>0.          whether the ones are odd
    copy             31415>31415.
    addition         011+110>1001.    110 is 3 here: 6 + 3 = 9
    binary-sum       01101>110.       three ones, in as many bits as the length needs
    multiplication   011*110>010010.  6 * 3 = 18
    unique-set       313114>314.      each symbol once, in the order of its first place

What is shorter than the longest sequence of a batch is filled with ``.``; no loss is taken there or on the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landscape.errors import InputError

Tokens = NDArray[np.int64]
Seed = int | np.random.SeedSequence | np.random.Generator

NOTHING = -1
"""A place of an answer that ends before it."""

HELD_OUT = 8
"""Of so many questions one is held out, by a hash of its symbols: training never asks it."""

FEWEST_QUESTIONS = 64
"""Of a length with fewer questions none is held out: training needs them, and they would tell little."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Questions with their answers.

    Attributes:
        tokens: (n, L + 1) symbols.
        answered: (n, L) whether the symbol after position t is part of the answer, the final ``.`` included.
        lengths: (n,) of the questions: bits, symbols, or bits of one number.
    """

    tokens: Tokens
    answered: NDArray[np.bool_]
    lengths: Tokens


@dataclass(frozen=True)
class Algorithm:
    """A task.

    Attributes:
        name: of the task.
        symbols: of questions and answers, a letter each.
        draw: ``draw(generator, count, length)`` gives ``count`` questions (count, q) and answers (count, a) of one
            length as indices of symbols; `NOTHING` after the end of a shorter answer.
        trained: the lengths that are trained on, each as often as any other.
        longer: lengths of tests beyond them.
    """

    name: str
    symbols: str
    draw: Callable[[np.random.Generator, int, int], tuple[Tokens, Tokens]]
    trained: range
    longer: tuple[int, ...]

    @property
    def vocabulary(self) -> int:
        """Number of symbols, ``>`` and ``.`` included."""
        return len(self.symbols) + 2

    def examples(self, count: int, lengths: Sequence[int], seed: Seed, held_out: bool | None = None) -> Examples:
        """Draw examples whose lengths are equally likely.

        Args:
            count: how many.
            lengths: of the questions.
            seed: anything that ``numpy.random.default_rng`` takes.
            held_out: draw of the questions that are held out, or of the others; None for all. There are so few short
                questions that in training nearly all of them would be seen.

        Raises:
            InputError: a length or the count is below 1, or no question of a length is held out.
        """
        if count < 1 or not lengths or min(lengths) < 1:
            raise InputError(f"cannot draw {count} examples of {self.name} of the lengths {list(lengths)}; give 1 up")
        generator = np.random.default_rng(seed)
        chosen = generator.choice(np.asarray(lengths, dtype=np.int64), count)
        drawn = {}
        for length in np.unique(chosen).tolist():  # all of one length together
            drawn[length] = self._written(*self._drawn(generator, int((chosen == length).sum()), length, held_out))
        width = max(tokens.shape[1] for tokens, _ in drawn.values())
        tokens = np.full((count, width), self.vocabulary - 1)
        answered = np.zeros((count, width - 1), dtype=bool)
        for length, (written, told) in drawn.items():
            tokens[chosen == length, : written.shape[1]] = written
            answered[chosen == length, : told.shape[1]] = told
        return Examples(tokens, answered, chosen)

    def text(self, tokens: Sequence[int] | Tokens) -> str:
        """The symbols of one sequence, as in the head of this module."""
        return "".join((self.symbols + ">.")[token] for token in tokens)

    @property
    def held_out_lengths(self) -> list[int]:
        """The trained lengths of which questions are held out."""
        return [length for length in self.trained if self._questions(length) >= FEWEST_QUESTIONS]

    def _questions(self, length: int) -> int:
        """How many there are: a question has digits, and at most an operator between them."""
        width = self.draw(np.random.default_rng(0), 1, length)[0].shape[1]
        digits = sum(symbol.isdigit() for symbol in self.symbols)
        return digits ** (width - (digits < len(self.symbols)))

    def _drawn(
        self, generator: np.random.Generator, count: int, length: int, held_out: bool | None
    ) -> tuple[Tokens, Tokens]:
        """Questions and answers of one length, of those that are held out or of the others."""
        few = self._questions(length) < FEWEST_QUESTIONS
        if held_out and few:
            raise InputError(f"no question of {self.name} of length {length} is held out; give other lengths")
        if held_out is None or few:
            return self.draw(generator, count, length)
        questions, answers = self.draw(generator, 0, length)
        while len(questions) < count:
            more, told = self.draw(generator, HELD_OUT * count, length)
            fits = _is_held_out(more) == held_out
            questions, answers = np.concatenate([questions, more[fits]]), np.concatenate([answers, told[fits]])
        return questions[:count], answers[:count]

    def _written(self, questions: Tokens, answers: Tokens) -> tuple[Tokens, NDArray[np.bool_]]:
        """Sequences of one length, and where in them the next symbol belongs to the answer."""
        count, begun = questions.shape
        ask, end = np.full((count, 1), self.vocabulary - 2), np.full((count, 1), self.vocabulary - 1)
        ended = np.concatenate([answers == NOTHING, np.ones((count, 1), dtype=bool)], axis=1)
        closed = np.where(ended, end, np.concatenate([answers, end], axis=1))
        answered = np.zeros((count, begun + closed.shape[1]), dtype=bool)
        # Up to the first end and with it: nothing has ended before.
        answered[:, begun:] = np.cumsum(ended, axis=1) - ended == 0
        return np.concatenate([questions, ask, closed], axis=1), answered


def _is_held_out(questions: Tokens) -> NDArray[np.bool_]:
    """Of (count, q) questions, whether each is held out: by the top bits of a multiplicative hash of its symbols."""
    hashed = np.full(len(questions), questions.shape[1], dtype=np.uint64)
    for symbols in questions.T.astype(np.uint64):
        hashed = (hashed ^ symbols) * np.uint64(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio
        hashed ^= hashed >> np.uint64(29)
    return np.asarray(hashed >> np.uint64(61) == 0)


def _parity(generator: np.random.Generator, count: int, length: int) -> tuple[Tokens, Tokens]:
    bits = generator.integers(2, size=(count, length))
    return bits, bits.sum(axis=1, keepdims=True) % 2


def _copy(generator: np.random.Generator, count: int, length: int) -> tuple[Tokens, Tokens]:
    symbols = generator.integers(10, size=(count, length))
    return symbols, symbols


def _addition(generator: np.random.Generator, count: int, length: int) -> tuple[Tokens, Tokens]:
    first, second = generator.integers(2, size=(2, count, length))
    answers = np.zeros((count, length + 1), dtype=np.int64)
    carry = np.zeros(count, dtype=np.int64)
    for place in range(length):
        total = first[:, place] + second[:, place] + carry
        answers[:, place], carry = total % 2, total // 2
    answers[:, length] = carry
    return _joined(first, second), answers


def _binary_sum(generator: np.random.Generator, count: int, length: int) -> tuple[Tokens, Tokens]:
    bits = generator.integers(2, size=(count, length))
    return bits, bits.sum(axis=1)[:, None] >> np.arange(length.bit_length()) & 1


def _multiplication(generator: np.random.Generator, count: int, length: int) -> tuple[Tokens, Tokens]:
    first, second = generator.integers(2, size=(2, count, length))
    answers = np.zeros((count, 2 * length), dtype=np.int64)
    for place in range(length):  # as at school, the carries of all places together at the end
        answers[:, place : place + length] += first * second[:, place, None]
    for place in range(2 * length - 1):
        answers[:, place + 1] += answers[:, place] // 2
        answers[:, place] %= 2
    return _joined(first, second), answers


def _unique_set(generator: np.random.Generator, count: int, length: int) -> tuple[Tokens, Tokens]:
    symbols = generator.integers(10, size=(count, length))
    repeated = np.tril(symbols[:, :, None] == symbols[:, None, :], k=-1).any(axis=2)
    # A stable sort brings first occurrences to the front and keeps their order.
    order = np.argsort(repeated, axis=1, kind="stable")
    sorted_ = np.take_along_axis(np.where(repeated, NOTHING, symbols), order, axis=1)
    return symbols, sorted_[:, : min(length, 10)]


def _joined(first: Tokens, second: Tokens) -> Tokens:
    """Two numbers with the third symbol, the operator, between them."""
    return np.concatenate([first, np.full((len(first), 1), 2), second], axis=1)


ALGORITHMS = {
    each.name: each
    for each in (
        Algorithm("parity", "01", _parity, range(1, 13), (14, 16, 20)),
        Algorithm("copy", "0123456789", _copy, range(1, 13), (14, 16, 20)),
        Algorithm("addition", "01+", _addition, range(1, 9), (9, 10, 12)),
        Algorithm("binary-sum", "01", _binary_sum, range(1, 13), (14, 16, 20)),
        Algorithm("multiplication", "01*", _multiplication, range(1, 5), (5, 6)),
        Algorithm("unique-set", "0123456789", _unique_set, range(1, 13), (14, 16, 20)),
    )
}
