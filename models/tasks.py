"""The tasks that models are trained on, by name: their data, their evaluation and the problem they pose afterwards."""

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from data.markov import BayesPredictor, MarkovLanguage, Seed, Sequences
from data.scores import GROUPS, Scores

HELD_OUT_SEED = 0
HELD_OUT_SEQUENCES = 1024


class Task(Protocol):
    """What training needs of a task."""

    problem: str
    """Name of the problem factory that a checkpoint names."""

    @property
    def vocabulary(self) -> int:
        """Number of symbols."""

    def problem_arguments(self) -> dict[str, Any]:
        """Return the plain arguments of the problem factory beside the model and its sizes."""

    def batch(self, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
        """Draw training data: (batch, position) inputs and targets."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure a model on the fixed held-out data."""


class MarkovTask:
    """Next-token prediction on the in-context Markov language."""

    problem = "markov"
    language = MarkovLanguage()

    @property
    def vocabulary(self) -> int:
        """Number of symbols."""
        return self.language.symbols

    def problem_arguments(self) -> dict[str, Any]:
        """Return the size and the seed of the data set on which the landscape is measured."""
        return {"samples": 256, "seed": HELD_OUT_SEED}

    def batch(self, count: int, seed: Seed) -> tuple[Tensor, Tensor]:
        """Draw (batch, position) inputs and the symbols that follow them."""
        return inputs_and_targets(self.language.sample(count, seed))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return loss (nats) and accuracy of the model and of the Bayes predictor on 1,024 held-out sequences."""
        own = _flatten("evaluation", score_model(model, self._held_out))
        return {**own, **self._ceiling}

    @cached_property
    def _held_out(self) -> Sequences:
        return self.language.sample(HELD_OUT_SEQUENCES, HELD_OUT_SEED)

    @cached_property
    def _ceiling(self) -> dict[str, float]:
        return _flatten("bayes", score_bayes(self._held_out))


def inputs_and_targets(sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Split (n, L + 1) tokens into (n, L) inputs and (n, L) targets."""
    tokens = torch.from_numpy(sequences.tokens)
    return tokens[:, :-1], tokens[:, 1:]


def score_model(model: nn.Module, sequences: Sequences) -> Scores:
    """Score a model that maps (n, L) tokens to (n, V, L) logits."""
    with torch.no_grad():
        logits = model(inputs_and_targets(sequences)[0])
        log_probabilities = logits.double().log_softmax(dim=1).transpose(1, 2)  # (n, L, V)
    return Scores.of(log_probabilities.numpy(), sequences.tokens, sequences.is_complex)


def score_bayes(sequences: Sequences) -> Scores:
    """Score the Bayes predictor: the ceiling of every model."""
    probabilities = BayesPredictor(sequences.language).predict(sequences.tokens)
    return Scores.of(np.log(probabilities), sequences.tokens, sequences.is_complex)


def _flatten(prefix: str, scores: Scores) -> dict[str, float]:
    """Name the means of all groups: ``evaluation_loss_complex`` and so on."""
    summary = scores.summary()
    return {f"{prefix}_{name}_{group}": summary[name][group].mean for name in summary for group in GROUPS}


TASKS: dict[str, Task] = {"markov": MarkovTask()}
