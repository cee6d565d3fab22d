"""The training tasks by name: their data, their evaluation, and the problem factory that their checkpoints name."""

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.algorithmic import ALGORITHMS, Algorithm, Examples
from data.markov import BayesPredictor, MarkovLanguage, Seed, Sequences
from data.scores import GROUPS, Scores
from data.secondorder import SecondOrderLanguage

HELD_OUT_SEED = 0
HELD_OUT_SEQUENCES = 1024
IGNORED = -100
"""The target that torch's cross-entropy ignores by default."""


class Task(Protocol):
    """A task, as training uses it."""

    problem: str
    """Name of the problem factory that is stored in checkpoints."""

    @property
    def vocabulary(self) -> int:
        """Number of symbols."""

    @property
    def longest(self) -> int:
        """Number of positions of the longest input, in training or evaluation."""

    def problem_arguments(self) -> dict[str, Any]:
        """Return the arguments of the problem factory, without the model and its sizes."""

    def batch(self, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
        """Draw training data: (batch, position) inputs and targets."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure a model on the fixed held-out data."""


class _LanguageTask:
    """Next-token prediction on a language."""

    language: MarkovLanguage | SecondOrderLanguage

    @property
    def vocabulary(self) -> int:
        """Number of symbols."""
        return self.language.symbols

    @property
    def longest(self) -> int:
        """Number of input positions, equal for all sequences."""
        return self.language.length

    def problem_arguments(self) -> dict[str, Any]:
        """Return the size and the seed of the data set on which the landscape is measured."""
        return {"samples": 256, "seed": HELD_OUT_SEED}


class MarkovTask(_LanguageTask):
    """Next-token prediction on the in-context Markov language."""

    problem = "markov"
    language = MarkovLanguage()

    def batch(self, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
        """Draw (batch, position) inputs and the symbols that follow them."""
        return inputs_and_targets(self.language.sample(count, seed))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return loss (in nats) and accuracy of the model and of the Bayes predictor on 1,024 held-out sequences."""
        own = _flatten("evaluation", score_model(model, self._held_out))
        return {**own, **self._ceiling}

    @cached_property
    def _held_out(self) -> Sequences:
        return self.language.sample(HELD_OUT_SEQUENCES, HELD_OUT_SEED)

    @cached_property
    def _ceiling(self) -> dict[str, float]:
        return _flatten("bayes", score_bayes(self._held_out))


class SecondOrderTask(_LanguageTask):
    """Next-token prediction on a fixed language of second order."""

    problem = "second-order"
    language = SecondOrderLanguage()

    def batch(self, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
        """Draw (batch, position) inputs and the symbols that follow them."""
        return shifted(self.language.sample(count, seed))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return loss (in nats) and accuracy of the model and of the language itself on 1,024 held-out sequences."""
        inputs, targets = shifted(self._held_out)
        with torch.no_grad():
            found = model(inputs).double().log_softmax(dim=1).transpose(1, 2)
        own, best = (_of_tokens(each, targets) for each in (found, self._best))
        names = ("evaluation_loss", "evaluation_accuracy", "source_loss", "source_accuracy")
        return dict(zip(names, own + best, strict=True))

    @cached_property
    def _held_out(self) -> NDArray[np.int64]:
        return self.language.sample(HELD_OUT_SEQUENCES, HELD_OUT_SEED)

    @cached_property
    def _best(self) -> Tensor:
        return torch.from_numpy(self.language.log_probabilities(self._held_out))


class AlgorithmicTask:
    """Prediction of the answers to an algorithm's questions, symbol by symbol."""

    problem = "algorithmic"

    def __init__(self, algorithm: Algorithm) -> None:
        """Take the algorithm."""
        self.algorithm = algorithm

    @property
    def vocabulary(self) -> int:
        """Number of symbols."""
        return self.algorithm.vocabulary

    @property
    def longest(self) -> int:
        """Number of input positions of the longest question with its answer."""
        longest = max(*self.algorithm.trained, *self.algorithm.longer)
        return self.algorithm.examples(1, [longest], HELD_OUT_SEED).tokens.shape[1] - 1

    def problem_arguments(self) -> dict[str, Any]:
        """Return the task, and the size and the seed of the data set on which the landscape is measured."""
        return {"task": self.algorithm.name, "samples": 256, "seed": HELD_OUT_SEED}

    def batch(self, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
        """Draw (batch, position) inputs of the trained lengths, and targets, which are `IGNORED` outside the answer."""
        return questions_and_answers(self.algorithm.examples(count, self.algorithm.trained, seed, held_out=False))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the loss (in nats) on trained lengths, and the share of right answers for trained and longer lengths.

        The questions of trained lengths are questions that training never asks; see `Algorithm.held_out_lengths`.

        An answer is right if each of its symbols is the most probable one after the right symbols before it. A model
        that writes its answer by itself is right in exactly these cases.
        """
        (inputs, targets), *longer = self._held_out
        with torch.no_grad():
            logits = model(inputs)
        loss = nn.functional.cross_entropy(logits.double(), targets).item()
        found = {"evaluation_loss": loss, "evaluation_accuracy": _share_right(logits, targets)}
        for length, (asked, answers) in zip(self.algorithm.longer, longer, strict=True):
            with torch.no_grad():
                found[f"evaluation_accuracy_{length}"] = _share_right(model(asked), answers)
        return found

    @cached_property
    def _held_out(self) -> list[tuple[Tensor, Tensor]]:
        count, seed, algorithm = HELD_OUT_SEQUENCES, HELD_OUT_SEED, self.algorithm
        trained = algorithm.examples(count, algorithm.held_out_lengths, seed, held_out=True)
        longer = [algorithm.examples(count, [length], seed) for length in algorithm.longer]
        return [questions_and_answers(each) for each in (trained, *longer)]


def shifted(tokens: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Split (n, L + 1) tokens into (n, L) inputs and (n, L) targets."""
    whole = torch.from_numpy(tokens)
    return whole[:, :-1], whole[:, 1:]


def inputs_and_targets(sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Split the tokens of sequences as `shifted` does."""
    return shifted(sequences.tokens)


def questions_and_answers(examples: Examples) -> tuple[Tensor, Tensor]:
    """Split (n, L + 1) tokens into (n, L) inputs and targets, which are `IGNORED` where they belong to no answer."""
    inputs, targets = shifted(examples.tokens)
    return inputs, torch.where(torch.from_numpy(examples.answered), targets, IGNORED)


def _share_right(logits: Tensor, targets: Tensor) -> float:
    """The share of sequences in which every symbol of the answer is the most probable one."""
    right = (logits.argmax(dim=1) == targets) | (targets == IGNORED)
    return right.all(dim=1).double().mean().item()


def _of_tokens(log_probabilities: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy over all tokens, from log-probabilities (n, L, V) and targets (n, L)."""
    chosen = log_probabilities.gather(2, targets[:, :, None])
    return -chosen.mean().item(), (log_probabilities.argmax(dim=2) == targets).double().mean().item()


def score_model(model: nn.Module, sequences: Sequences) -> Scores:
    """Score a model that maps (n, L) tokens to (n, V, L) logits."""
    with torch.no_grad():
        logits = model(inputs_and_targets(sequences)[0])
        log_probabilities = logits.double().log_softmax(dim=1).transpose(1, 2)  # (n, L, V)
    return Scores.of(log_probabilities.numpy(), sequences.tokens, sequences.is_complex)


def score_bayes(sequences: Sequences) -> Scores:
    """Score the Bayes predictor, which no model can exceed in expectation."""
    probabilities = BayesPredictor(sequences.language).predict(sequences.tokens)
    return Scores.of(np.log(probabilities), sequences.tokens, sequences.is_complex)


def _flatten(prefix: str, scores: Scores) -> dict[str, float]:
    """The means of all scores and groups, by names such as ``evaluation_loss_complex``."""
    summary = scores.summary()
    return {f"{prefix}_{name}_{group}": summary[name][group].mean for name in summary for group in GROUPS}


TASKS: dict[str, Task] = {
    "markov": MarkovTask(),
    "second-order": SecondOrderTask(),
    **{name: AlgorithmicTask(algorithm) for name, algorithm in ALGORITHMS.items()},
}
