"""The problems that are measured, and the training of the model that is not shipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.plan import GPT
from data.markov import MarkovLanguage
from landscape.checkpoint import read_checkpoint
from landscape.errors import InputError
from landscape.measure import at_checkpoint
from landscape.problem import Problem
from models.problems import markov
from models.registry import build_model
from models.tasks import HELD_OUT_SEED, inputs_and_targets

ROOT = Path(__file__).parent.parent
TRAINING = ["-m", "models.train", "gpt", "--task", "markov", "--seed", "0", "--out", "runs/gpt-0"]


def pose(checkpoint: str, samples: int) -> Problem:
    """The checkpoint's problem on this many sequences of 32 predicted tokens."""
    read = read_checkpoint(ROOT / checkpoint)
    return at_checkpoint(markov(read, **{**read.arguments, "samples": samples}), read)


def train_if_missing(checkpoint: str) -> None:
    """Make the trained GPT, which takes minutes, unless it is there.

    Raises:
        InputError: the training failed.
    """
    if checkpoint != GPT or (ROOT / GPT).exists():
        return
    if subprocess.run([sys.executable, *TRAINING], cwd=ROOT, check=False).returncode:
        raise InputError(f"{GPT} could not be trained; run `python {' '.join(TRAINING)}` to see why")


def untrained_gpt(samples: int) -> Problem:
    """A looped GPT at GPT-2's initial weights on this many sequences."""
    language = MarkovLanguage()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("gpt", language.symbols)
    return Problem(model, nn.CrossEntropyLoss(), [inputs_and_targets(language.sample(samples, HELD_OUT_SEED))])
