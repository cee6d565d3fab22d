"""Problem factories for checkpoints of these models, as named in ``[tool.landscape.problems]``."""

from typing import Any

import numpy as np
from torch import nn

from data.algorithmic import ALGORITHMS
from data.markov import MarkovLanguage
from data.secondorder import SecondOrderLanguage
from landscape.checkpoint import Checkpoint
from landscape.errors import InputError
from landscape.problem import Problem
from models.registry import build_model
from models.tasks import HELD_OUT_SEED, inputs_and_targets, questions_and_answers, shifted


def markov(
    checkpoint: Checkpoint, *, model: str = "looped", samples: int = 256, seed: int = HELD_OUT_SEED, **sizes: Any
) -> Problem:
    """Make the problem of next-token prediction on a fixed sample of the in-context Markov language.

    Half of the sequences are simple and half are complex.

    Args:
        checkpoint: The checkpoint; the arguments that it holds are passed as the other arguments.
        model: Name of the model.
        samples: Number of sequences, each of them 32 predicted tokens.
        seed: Seed of the sequences.
        **sizes: Sizes of the model that differ from its defaults.

    Raises:
        InputError: If there is no such model or size, or ``samples`` is not positive.
    """
    language = MarkovLanguage()
    sequences = language.sample(samples, seed)
    return Problem(
        build_model(model, language.symbols, **sizes),
        nn.CrossEntropyLoss(),
        [inputs_and_targets(sequences)],
        about={
            "type": np.where(sequences.is_complex, "complex", "simple"),
            "information_content": sequences.information_content,
            "information_content_bayes": sequences.information_content_bayes,
        },
    )


def second_order(
    checkpoint: Checkpoint, *, model: str = "looped", samples: int = 256, seed: int = HELD_OUT_SEED, **sizes: Any
) -> Problem:
    """Make the problem of next-token prediction on a fixed sample of the second-order language.

    The arguments are those of `markov`.
    """
    language = SecondOrderLanguage()
    tokens = language.sample(samples, seed)
    return Problem(build_model(model, language.symbols, **sizes), nn.CrossEntropyLoss(), [shifted(tokens)])


def algorithmic(
    checkpoint: Checkpoint,
    *,
    task: str,
    model: str = "gpt",
    samples: int = 256,
    seed: int = HELD_OUT_SEED,
    **sizes: Any,
) -> Problem:
    """Make the problem of answering a fixed sample of an algorithm's training questions.

    The arguments are those of `markov`, and ``task``, the name of the algorithm.

    Raises:
        InputError: If there is no such task, model or size, or ``samples`` is not positive.
    """
    if task not in ALGORITHMS:
        raise InputError(f"there is no task {task!r}; choose one of {', '.join(ALGORITHMS)}")
    algorithm = ALGORITHMS[task]
    examples = algorithm.examples(samples, algorithm.trained, seed, held_out=False)
    return Problem(
        build_model(model, algorithm.vocabulary, **sizes),
        nn.CrossEntropyLoss(),
        [questions_and_answers(examples)],
        about={"length": examples.lengths},
    )
