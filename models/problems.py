"""Problem factories: what a checkpoint of these models was trained on, for ``[tool.landscape.problems]``."""

from typing import Any

import numpy as np
from torch import nn

from data.markov import MarkovLanguage
from landscape.checkpoint import Checkpoint
from landscape.problem import Problem
from models.registry import build_model
from models.tasks import HELD_OUT_SEED, inputs_and_targets


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
