"""Problem factories: what a checkpoint of these models was trained on, for ``[tool.landscape.problems]``."""

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
    """Pose next-token prediction on a fixed sample of the in-context Markov language, half simple and half complex.

    Args:
        checkpoint: The checkpoint asked about; what it holds of its model arrives in the other arguments.
        model: Name of the model.
        samples: Number of sequences, each of them 32 predicted tokens.
        seed: Seed of the sequences.
        **sizes: The model's sizes where they differ from its defaults.

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
    """Pose next-token prediction on a fixed sample of the language of second order; arguments as in `markov`."""
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
    """Pose the answers of a fixed sample of what training may ask; arguments as in `markov`, and the task.

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
