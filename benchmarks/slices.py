"""The command ``python -m benchmarks.slices``: what a plane of the loss costs beside as many bare forward passes."""

from __future__ import annotations

import torch
from cyclopts import App

from benchmarks.machine import this_machine
from benchmarks.tables import Table
from benchmarks.timing import alternate
from landscape import Problem, load_problem
from landscape.slices import gaussian, plane
from landscape.slices.grid import positions

CHECKPOINTS = ("data/single.pt", "data/looped.pt")


def cost(problem: Problem, points: int, rounds: int) -> tuple[float, float]:
    """The least seconds of some rounds: of a plane of points x points, and of as many evaluations of the losses."""
    first, second = (gaussian(problem, 0, index) for index in range(2))
    grid = positions(-0.5, 0.5, points)

    def bare() -> None:
        with torch.no_grad(), problem.evaluating():
            for _ in range(len(grid) ** 2):
                for batch in problem.batches:
                    problem.terms(problem.vector, batch)

    actions = {"plane": lambda: plane(problem, first, second, grid, grid), "bare": bare}
    seconds = alternate(actions, rounds, problem.device)
    return min(each["plane"] for each in seconds), min(each["bare"] for each in seconds)


app = App(name="python -m benchmarks.slices", version_flags=[])


@app.default
def main(*, points: int = 51, rounds: int = 3) -> int:
    """Print, as Markdown, what a plane costs: about eight minutes of processor time.

    Args:
        points: On each axis.
        rounds: The least of so many counts.
    """
    torch.set_num_threads(1)
    rows = []
    for path in CHECKPOINTS:
        made, bare = cost(load_problem(path), points, rounds)
        rows.append((path, f"{made:.2f}", f"{bare:.2f}", f"{made / bare:.3f}"))
    print(this_machine(torch.device("cpu")))
    title = f"A plane of {points} x {points} points, least of {rounds} alternating runs, seconds of processor time"
    print(Table(title, ("checkpoint", "plane", "bare forward passes", "ratio"), rows).markdown())
    return 0


if __name__ == "__main__":
    app()
