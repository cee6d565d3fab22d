"""The models of the benchmarks, each with one batch of data, and the training of models that aren't shipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.support.plan import GPT, SMALL
from benchmarks.support.resnet import trained_resnet
from data.markov import MarkovLanguage
from landscape.checkpoint import read_checkpoint
from landscape.errors import InputError
from landscape.loading.source import at_checkpoint
from landscape.problem import Problem
from models.gpt import LoopedGPT
from models.problems import markov
from models.registry import build_model
from models.tasks import HELD_OUT_SEED, inputs_and_targets

ROOT = Path(__file__).parents[2]
TRAINING = ["-m", "models.train", "gpt", "--task", "markov", "--seed", "0", "--out", "runs/gpt-0"]
STEPS, BATCH = 300, 32
"""Steps and batch size of Adam for models that are trained here: enough steps for the spectrum to have outliers."""


def pose(checkpoint: str, samples: int) -> Problem:
    """The problem of a checkpoint on ``samples`` sequences of 32 predicted tokens."""
    read = read_checkpoint(ROOT / checkpoint)
    return at_checkpoint(markov(read, **{**read.arguments, "samples": samples}), read)


def train_if_missing(checkpoint: str) -> None:
    """Train the GPT, which takes minutes, unless its checkpoint exists; do nothing for other checkpoints.

    Raises:
        InputError: the training failed.
    """
    if checkpoint != GPT or (ROOT / GPT).exists():
        return
    if subprocess.run([sys.executable, *TRAINING], cwd=ROOT, check=False).returncode:
        raise InputError(f"{GPT} could not be trained; run `python {' '.join(TRAINING)}` to see why")


def untrained_gpt(samples: int, **sizes: Any) -> Problem:
    """A looped GPT at GPT-2's initial weights on ``samples`` sequences; ``sizes`` replace the default sizes."""
    language = MarkovLanguage()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("gpt", language.symbols, **sizes)
    return Problem(model, nn.CrossEntropyLoss(), [inputs_and_targets(language.sample(samples, HELD_OUT_SEED))])


def trained_gpt(samples: int, **sizes: Any) -> Problem:
    """A GPT of the given sizes after a short training on the Markov language, on ``samples`` held-out sequences."""
    language = MarkovLanguage()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LoopedGPT(language.symbols, **sizes)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(STEPS):
        inputs, targets = inputs_and_targets(language.sample(BATCH, 1 + step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return Problem(model, nn.CrossEntropyLoss(), [inputs_and_targets(language.sample(samples, HELD_OUT_SEED))])


def gpt2_small(samples: int = 1, tokens: int = 64) -> Problem:
    """A model with GPT-2 small's shapes, 124 million parameters, at initial weights, on a few random tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LoopedGPT(50257, width=768, heads=12, layers=12, loops=1, context=1024)
        sequences = torch.randint(50257, (samples, tokens + 1))
    return Problem(model, nn.CrossEntropyLoss(), [(sequences[:, :-1], sequences[:, 1:])])


def _trained(samples: int) -> Problem:
    train_if_missing(GPT)
    return pose(GPT, samples)


CASES: dict[str, tuple[str, Callable[[], Problem]]] = {
    "tiny": ("looped attention, 1.2 thousand parameters, 8 sequences", partial(pose, SMALL, 8)),
    "toy": ("looped attention, 1.2 thousand parameters", partial(pose, SMALL, 256)),
    "looped-66k": ("looped GPT, 66 thousand", partial(_trained, 64)),
    "looped-270k": ("looped GPT, 260 thousand", partial(trained_gpt, 64, width=144, heads=4)),
    "gpt-900k": ("GPT of four layers, 0.9 million", partial(trained_gpt, 64, width=136, heads=4, layers=4, loops=1)),
    "resnet-20": ("ResNet-20, 270 thousand", partial(trained_resnet, 64)),
    "gpt2-small": ("GPT-2 small at its initial weights, 124 million", gpt2_small),
}
"""By name: the model's description in tables, and a function that makes its problem."""
