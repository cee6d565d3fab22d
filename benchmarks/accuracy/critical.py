"""``python -m benchmarks.accuracy.critical``: critical sharpness beside the largest eigenvalue, over a training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cyclopts import App

from benchmarks.support.tables import Table
from landscape.checkpoint import read_checkpoint
from landscape.curvature.preconditioned import Preconditioned, adam_diagonal_of
from landscape.loading.source import at_checkpoint
from landscape.problem import Problem
from landscape.sharpness.critical import CriticalLearningRate, critical_learning_rate
from landscape.sharpness.update import optimizer_update
from landscape.spectrum.eigenpairs import top_eigenpairs
from models.problems import markov
from models.settings import TrainingSettings, checkpoint_path
from models.training import TrainingRun

STEPS = (1, 3, 10, 30, 60, 100, 200, 300, 500, 700, 1000, 1500, 2000, 2500, 3000, 3500, 4000)
SAMPLES = 1024


@dataclass(frozen=True)
class Compared:
    """Critical sharpness along an update at one checkpoint, and the largest eigenvalue that bounds it on a quadratic.

    Attributes:
        step: training step.
        found: the critical learning rate.
        eigenvalue: largest eigenvalue of the Hessian, preconditioned for Adam's update.
        error: its error.
    """

    step: int
    found: CriticalLearningRate
    eigenvalue: float
    error: float

    @property
    def ratio(self) -> float:
        """Critical sharpness by the eigenvalue; NaN without a crossing."""
        return self.found.sharpness / self.eigenvalue

    @property
    def ratio_error(self) -> float:
        """Its error: of the critical sharpness, over samples and by the bracket, and of the eigenvalue."""
        return self.found.sharpness_error / self.eigenvalue + self.ratio * self.error / self.eigenvalue

    @property
    def row(self) -> tuple[str, ...]:
        """A row of the table."""
        found = self.found
        if found.reason:
            values = ("none", found.reason)
        else:
            values = (
                f"{found.sharpness:.4g} ± {found.sharpness_error:.2g}",
                f"{self.ratio:.3g} ± {self.ratio_error:.1g}",
            )
        quadratic = f"{found.quadratic.sharpness:.4g}"
        return str(self.step), *values, quadratic, f"{self.eigenvalue:.4g}", str(found.forward_passes)


def problems(folder: Path) -> Iterator[tuple[int, Problem]]:
    """Train the looped toy model, and give the problem at each of `STEPS`, on held-out sequences."""
    run = TrainingRun.begin(TrainingSettings("looped"))
    folder.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        path = checkpoint_path(folder, step)
        if not path.exists():
            while run.step < step:
                run.advance()
            run.save(folder)
        read = read_checkpoint(path)
        yield step, at_checkpoint(markov(read, **{**read.arguments, "samples": SAMPLES}), read)


def compared(step: int, problem: Problem, optimizer: bool) -> Compared:
    """The comparison at one checkpoint, along the step of its optimiser or along the gradient."""
    update = optimizer_update(problem).vector if optimizer else problem.gradient()
    hessian = problem.hessian()
    operator = Preconditioned(hessian, adam_diagonal_of(problem)) if optimizer else hessian
    pairs = top_eigenpairs(operator, 1, "LA")
    error = float(pairs.residuals[0]) + pairs.rounding
    return Compared(step, critical_learning_rate(problem, update), float(pairs.eigenvalues[0]), error)


def table(found: list[Compared], title: str) -> Table:
    """The table of a run."""
    head = ("step", "2/eta_c", "by the eigenvalue", "u^T H u / g^T u", "eigenvalue", "losses")
    return Table(title, head, [each.row for each in found])


def summary(found: list[Compared]) -> str:
    """The median number of losses, and how far the quadratic model is from the losses."""
    known = [each for each in found if not each.found.reason]
    losses = np.array([each.found.forward_passes for each in found])
    off = np.array([abs(each.found.quadratic.sharpness / each.found.sharpness - 1) for each in known])
    return (
        f"{len(known)} of {len(found)} checkpoints have a crossing; losses: median {np.median(losses):g}, most "
        f"{losses.max()}; the quadratic model is off by {np.median(off):.1%} (median), {off.max():.0%} at most; "
        f"ratio to the eigenvalue {np.median([each.ratio for each in known]):.2f} (median)\n"
    )


app = App(name="python -m benchmarks.accuracy.critical", version_flags=[])


@app.default
def main(*, folder: Path = Path("runs/critical")) -> int:
    """Print, as Markdown, critical sharpness and largest eigenvalue over the training of the looped toy model.

    Args:
        folder: Folder of the checkpoints, which are trained unless they exist.
    """
    posed = list(problems(folder))
    for title, optimizer in (("along Adam's next step, D^-1 H", True), ("along the gradient, H", False)):
        found = [compared(step, problem, optimizer) for step, problem in posed]
        print(table(found, f"Critical sharpness {title}").markdown())
        print(summary(found))
    return 0


if __name__ == "__main__":
    app()
