"""``python -m benchmarks.live.budget``: which share of the time a watch takes, and how often instruments have turns.

The share that was taken is the time of `landscape.Watch.step` by the rest of the loop's time, in processor seconds of
one run.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping

import torch
from cyclopts import App

import landscape
from benchmarks.live.trainings import Loop, convolutional, dense, language_model
from benchmarks.support.tables import Table
from landscape.live.budget import EVERY

SAMPLES = 64
"""Samples of the evaluation set."""

TRAININGS: dict[str, tuple[Callable[[], Loop], int]] = {
    "dense network on digits": (dense, 6000),
    "CNN on digits": (convolutional, 1500),
    "Looped-Attn on the Markov language": (lambda: language_model("looped"), 2000),
    "looped GPT of 53 thousand": (lambda: language_model("gpt", width=64), 600),
}

app = App(name="python -m benchmarks.live.budget", version_flags=[])


@app.default
def main(*, budget: float = 0.05) -> None:
    """Print, as Markdown, the share of the time and the turns of each training: some five minutes on one thread.

    Args:
        budget: Share of the work that is asked for.
    """
    torch.set_num_threads(1)
    logging.getLogger("landscape").setLevel(logging.ERROR)
    rows = []
    for name, (make, steps) in TRAININGS.items():
        taken, turns, rare = run(make(), steps, budget)
        gaps = {each: _longest(steps_of, steps) for each, steps_of in turns.items()}
        rows.append(
            (
                name,
                str(steps),
                f"{taken:.1%}",
                "; ".join(f"{each} {len(turns[each])} ({gap})" for each, gap in gaps.items()),
                ", ".join(rare) or "none",
            )
        )
    header = ("training", "steps", "taken", "turns (longest gap in steps)", "said to be rarer")
    print(Table(f"A budget of {budget:.0%}, {SAMPLES} samples", header, rows).markdown())


def run(loop: Loop, steps: int, budget: float) -> tuple[float, dict[str, list[int]], list[str]]:
    """Train with a watch.

    Returns:
        The share of the time that the watch took, the steps of every instrument's turns, and the instruments of which
        the first step says that they are rarer.
    """
    turns: dict[str, list[int]] = {}

    def seen(numbers: Mapping[str, float], step: int) -> None:
        for name in {key.partition("/")[0] for key in numbers}:
            turns[name].append(step)

    watch = landscape.watch(
        loop.model, loop.loss, [loop.draw(SAMPLES)], optimizer=loop.optimizer, budget=budget, log_to=seen
    )
    turns |= {name: [] for name in (*watch.instruments, "stability")}  # a row that the eigenvalues give with SGD
    rare = [name for name, interval in watch.intervals.items() if interval > EVERY]
    own, started = 0.0, time.process_time()
    for step, loss, inputs in loop.steps(steps):
        before = time.process_time()
        watch.step(step, loss=loss, batch=inputs)
        own += time.process_time() - before
    return own / (time.process_time() - started - own), turns, rare


def _longest(turns: list[int], steps: int) -> str:
    """The longest stretch of steps without a turn."""
    ends = [0, *turns, steps]
    return str(max((b - a for a, b in itertools.pairwise(ends)), default=math.inf))


if __name__ == "__main__":
    app()
