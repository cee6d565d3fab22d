"""``python -m benchmarks.live.peers``: a watched training beside one with Cockpit and one with a loop around PyHessian.

All measure loss, gradient norm and largest Hessian eigenvalue at every 20th step: `landscape.watch` on 64 fixed
samples, Cockpit and PyHessian on the step's own batch of 64. The reference is scipy's ``eigsh`` in float64, with
products by two backward passes, for the samples that each of them measures on.

Cockpit is left out where it can't be imported. It isn't installed with the project: ``pip install --no-deps
cockpit-for-pytorch backpack-for-pytorch einops unfoldNd json-tricks seaborn "setuptools<81"`` in an environment that is
thrown away.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from cyclopts import App
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

import landscape
from benchmarks.live.trainings import Batch, Loop, convolutional, dense
from benchmarks.support.tables import Table
from landscape.live import TrackedEigenvalues, every

app = App(name="python -m benchmarks.live.peers", version_flags=[])
EVERY, SAMPLES = 20, 64
Make = Callable[[], Loop]
TRAININGS: dict[str, tuple[Make, int]] = {
    "dense network on digits": (dense, 1000),
    "CNN on digits": (convolutional, 300),
}
Found = tuple[nn.Module, Batch, float]
"""The model and the samples of a measurement, and the largest eigenvalue that was found."""


@app.default
def main() -> None:
    """Print, as Markdown, time, error and bits of each: some five minutes on one thread."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of Cockpit's hooks and of backward with create_graph
    ways = {"landscape.watch": watched, "PyHessian in the loop": pyhessian}
    if find_spec("cockpit"):
        ways["Cockpit"] = cockpit
    rows = []
    for title, (make, steps) in TRAININGS.items():
        alone = make()
        seconds = _seconds(alone, steps)
        for name, way in ways.items():
            loop, found = make(), list[Found]()
            more = way(loop, make, steps, found) - seconds
            errors = [abs(value / largest(model, batch) - 1) for model, batch, value in found]
            same = all(map(torch.equal, loop.model.state_dict().values(), alone.model.state_dict().values()))
            rows.append(
                (
                    f"{title}, {name}",
                    f"{more / len(found) * 1e3:.0f} ms",
                    f"{more / seconds:.0%}",
                    f"{np.median(errors):.1e}",
                    f"{np.max(errors):.1e}",
                    "yes" if same else "no",
                )
            )
    header = ("training", "a measurement", "of the training's time", "relative error: median", "largest",
              "weights of the training alone")  # fmt: skip
    print(Table(f"Loss, gradient norm and largest eigenvalue at every {EVERY}th step", header, rows).markdown())


def _seconds(loop: Loop, steps: int) -> float:
    """Processor seconds of a training alone."""
    started = time.process_time()
    for _ in loop.steps(steps):
        pass
    return time.process_time() - started


def watched(loop: Loop, make: Make, steps: int, found: list[Found]) -> float:
    """Train with a watch; the evaluation set is that of another training with equal data."""
    fixed, before = dense(seed=1).draw(SAMPLES), nn.Module()

    def keep(numbers: Mapping[str, float], step: int) -> None:
        if "top_eigenvalues/largest" in numbers:
            found.append((before, fixed, numbers["top_eigenvalues/largest"]))

    started = time.process_time()
    watch = landscape.watch(
        loop.model, loop.loss, [fixed], optimizer=loop.optimizer, log_to=keep,
        instruments=[every(EVERY, "loss"), every(EVERY, TrackedEigenvalues(k=1))],
    )  # fmt: skip
    spent = 0.0
    for step in range(steps):
        if step % EVERY == 0:
            paused = time.process_time()
            before = _copied(loop, make)
            spent += time.process_time() - paused
        for _, loss, inputs in loop.steps(1):
            watch.step(step, loss=loss, batch=inputs)
    return time.process_time() - started - spent


def pyhessian(loop: Loop, make: Make, steps: int, found: list[Found]) -> float:
    """Train, and call PyHessian before a measured step, as its documentation does, with its default tolerance."""
    from pyhessian import hessian

    spent = 0.0
    started = time.process_time()
    for step in range(steps):
        inputs, targets = loop.draw(0)
        if step % EVERY == 0:
            paused = time.process_time()
            before = _copied(loop, make)
            spent += time.process_time() - paused
            values, _ = hessian(loop.model, loop.loss, data=(inputs, targets), cuda=False).eigenvalues(top_n=1)
            loop.model.train()
            found.append((before, (inputs, targets), float(values[0])))
        loop.optimizer.zero_grad()
        loss = loop.loss(loop.model(inputs), targets)
        loss.backward()
        if step % EVERY == 0:
            float(loss.detach())
            float(torch.cat([each.grad.flatten() for each in loop.model.parameters()]).norm())  # type: ignore[union-attr]
        loop.optimizer.step()
    return time.process_time() - started - spent


def cockpit(loop: Loop, make: Make, steps: int, found: list[Found]) -> float:
    """Train in Cockpit's context, with its three quantities."""
    from backpack import extend
    from cockpit import Cockpit, quantities

    def due(step: int) -> bool:
        return step % EVERY == 0

    model, spent = extend(loop.model), 0.0
    together, apart = extend(nn.CrossEntropyLoss()), nn.CrossEntropyLoss(reduction="none")
    largest_value = quantities.HessMaxEV(due)
    started = time.process_time()
    pit = Cockpit(model.parameters(), quantities=[quantities.Loss(due), quantities.GradNorm(due), largest_value])
    for step in range(steps):
        inputs, targets = loop.draw(0)
        if due(step):
            paused = time.process_time()
            before = _copied(loop, make)
            spent += time.process_time() - paused
        loop.optimizer.zero_grad()
        output = model(inputs)
        loss = together(output, targets)
        info = {
            "batch_size": len(inputs), "individual_losses": apart(output, targets) if due(step) else None,
            "loss": loss, "optimizer": loop.optimizer,
        }  # fmt: skip
        with pit(step, info=info) if due(step) else nullcontext():
            loss.backward(create_graph=pit.create_graph(step))
        loop.optimizer.step()
        if due(step):
            found.append((before, (inputs, targets), float(pit.get_output()[step]["HessMaxEV"])))
    return time.process_time() - started - spent


def _copied(loop: Loop, make: Make) -> nn.Module:
    """A copy of the model as it is now, without hooks and graphs."""
    model = make().model
    model.load_state_dict(loop.model.state_dict())
    return model


def largest(model: nn.Module, batch: Batch) -> float:
    """The largest eigenvalue in float64, by ``eigsh`` with products by two backward passes."""
    model = copy.deepcopy(model).double()
    weights = list(model.parameters())
    loss = nn.functional.cross_entropy(model(batch[0].double()), batch[1])
    gradient = _flat(torch.autograd.grad(loss, weights, create_graph=True))

    def product(vector: np.ndarray) -> np.ndarray:
        inner = gradient @ torch.from_numpy(vector.reshape(-1)).to(gradient)
        return _flat(torch.autograd.grad(inner, weights, retain_graph=True)).numpy()

    operator: Any = LinearOperator((len(gradient),) * 2, matvec=product, dtype=np.float64)
    return float(eigsh(operator, 1, which="LA", tol=1e-8, return_eigenvectors=False)[0])


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([each.reshape(-1) for each in tensors])


if __name__ == "__main__":
    app()
