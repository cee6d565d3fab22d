"""Find the directions of a slice by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from landscape.errors import InputError
from landscape.measurements.files import digest_of, read_vector, refuse_changed
from landscape.measurements.run import History
from landscape.reporting.display import to_error
from landscape.reporting.progress import Progress

if TYPE_CHECKING:
    import torch

    from landscape.problem import Problem
    from landscape.slices.directions import Direction
    from landscape.slices.path import Principal
    from landscape.spectrum.eigenpairs import Eigenpairs

RANDOM: dict[str, Literal["filter", "layer", "none"]] = {"filter": "filter", "layer": "layer", "gaussian": "none"}
ENDS: dict[str, Literal["LA", "SA"]] = {"top": "LA", "bottom": "SA"}
PRINCIPAL = "pca"
NAMES = (*RANDOM, *ENDS, "gradient", PRINCIPAL)


@dataclass(frozen=True)
class Found:
    """A direction of a slice, with its details at one checkpoint.

    Attributes:
        direction: the direction; its name doesn't depend on the checkpoint.
        detail: text that depends on the checkpoint, such as an eigenvector's eigenvalue; empty without one.
        converged: whether an eigenvector's solve reached its goal; True for any other direction.
        share: share of the variance of the run's checkpoints along a principal component; NaN for any other direction.
        random_walk: the share that a principal component of a random walk has; NaN for any other direction.
    """

    direction: Direction
    detail: str = ""
    converged: bool = True
    share: float = np.nan
    random_walk: float = np.nan

    @property
    def nowhere(self) -> bool:
        """Whether the direction is zero, as on the line from a checkpoint to itself."""
        return not self.direction.vector.any()


def is_file(name: str) -> bool:
    """Whether a direction comes from a file."""
    return name not in NAMES


def is_checkpoint(name: str) -> bool:
    """Whether a direction is the line to a checkpoint in a file."""
    return is_file(name) and not name.endswith((".npy", ".h5"))


def refuse_unknown(problem: Problem, names: Sequence[str], left_out: bool) -> None:
    """Raise InputError where a direction from a file can't be used.

    Args:
        problem: the problem at the centre of the slice.
        names: names of the requested directions.
        left_out: whether the slice leaves out the line from a checkpoint to itself. Otherwise that line is refused.
    """
    for name in dict.fromkeys(filter(is_file, names)):
        if _from_file(problem, name, None, History(), 0).nowhere and not left_out:
            raise InputError(
                f"{name} has the weights of a measured checkpoint, and a line needs two different points; name "
                "another direction, or leave out that checkpoint"
            )


def find_directions(
    problem: Problem,
    names: Sequence[str],
    seed: int,
    digests: Mapping[str, str],
    history: History,
    progress: Callable[[Progress], None],
) -> list[Found]:
    """Find the directions of a slice, in the order of their names.

    A repeated name stands for the next direction of its kind: the second draw, the second eigenvector. The line from a
    checkpoint to itself is a vector of zeros.

    Args:
        problem: the problem at the centre of the slice.
        names: names of the requested directions.
        seed: seed of random directions and of the eigenvectors' solves.
        digests: expected sha256 of each file among the directions.
        history: history with the run, for principal components of the run's checkpoints.
        progress: called by the eigenvectors' solves, one for each end of the spectrum.
    """
    from landscape.slices.directions import gaussian, gradient_direction
    from landscape.spectrum.eigenpairs import top_eigenpairs

    asked, used = Counter(names), Counter[str]()
    solved = {
        name: top_eigenpairs(problem.hessian(), asked[name], which, seed=seed, progress=progress)
        for name, which in ENDS.items()
        if name in asked
    }
    principal = _principal(history, asked[PRINCIPAL]) if PRINCIPAL in asked else None
    directions = []
    for name in names:
        index = used[name]
        used[name] += 1
        if name in RANDOM:
            directions.append(Found(gaussian(problem, seed, index, RANDOM[name])))
        elif name in solved:
            directions.append(_eigenvector(solved[name], index, name))
        elif name == "gradient":
            directions.append(Found(gradient_direction(problem)))
        elif principal is not None and name == PRINCIPAL:
            share, random_walk = float(principal.shares[index]), float(principal.random_walk[index])
            directions.append(Found(principal.directions[index], share=share, random_walk=random_walk))
        else:
            directions.append(_from_file(problem, name, digests.get(name), history, index))
    return directions


def digests_of(names: Sequence[str]) -> dict[str, str]:
    """The sha256 of each file among the directions' names."""
    return {name: digest_of(name) for name in dict.fromkeys(filter(is_file, names))}


def _eigenvector(pairs: Eigenpairs, index: int, end: str) -> Found:
    from landscape.slices.directions import unit

    value = to_error(float(pairs.eigenvalues[index]), float(pairs.residuals[index]) + pairs.rounding)
    direction = unit(pairs.eigenvectors[:, index], f"{end} eigenvector {index + 1}")
    return Found(direction, f"eigenvalue {value}", bool(pairs.converged[index]) and pairs.complete)


def _principal(history: History, count: int) -> Principal:
    from landscape.slices.path import principal_components

    points = [each.vector for each in history.run.problems()]
    return principal_components(points, history.run.positions, count)


def _from_file(problem: Problem, path: str, digest: str | None, history: History, index: int) -> Found:
    """A direction from a file: a vector (.npy), an eigenvector in a record (.h5), or the line to a checkpoint."""
    import torch

    from landscape.checkpoint import fit_state, read_checkpoint
    from landscape.slices.directions import Direction, toward

    name = Path(path).name
    if path.endswith(".npy"):
        return Found(_of_length(problem, read_vector(path, digest), path, name))
    if not Path(path).exists():
        raise InputError(
            f"{path!r} is not a direction: give {', '.join(NAMES)}, or the path of a checkpoint, of a record (.h5) or "
            "of a vector (.npy)"
        )
    if path.endswith(".h5"):
        refuse_changed(path, digest, digest_of(path))
        return _from_record(problem, path, history, index)
    checkpoint = read_checkpoint(path)
    refuse_changed(path, digest, checkpoint.sha256)
    state, _ = fit_state(checkpoint.state, problem.model, path)
    end, title = problem.with_state(state), f"line to {name}"
    if torch.equal(end.vector, problem.vector):
        return Found(Direction(torch.zeros_like(problem.vector), title))
    return Found(toward(end, title)(problem))


def _from_record(problem: Problem, path: str, history: History, index: int) -> Found:
    """Eigenvector `index` of this checkpoint's row in a record, or of the record's last row if there is none."""
    import torch

    from landscape.record import open_record
    from landscape.slices.directions import unit

    with open_record(path) as record:
        if "eigenpairs" not in record or "eigenvectors" not in record["eigenpairs"].dataset:
            raise InputError(f"{path} has no eigenvectors of the Hessian: measure them with --hessian --eigenvectors")
        rows = record["eigenpairs"].dataset
        if index >= rows.sizes["index"]:
            raise InputError(f"{path} has {rows.sizes['index']} eigenvectors, and {index + 1} are asked for")
        own = np.flatnonzero(rows.sha256.values == history.digest)
        row = rows.isel(checkpoint=int(own[0]) if len(own) else -1, index=index).load()
    value = to_error(float(row.eigenvalues), float(row.residuals) + float(row.rounding))
    title = f"eigenvector {index + 1} of {Path(path).name}"
    direction = _of_length(problem, torch.as_tensor(row.eigenvectors.values), path, title)
    return Found(unit(direction.vector, title), f"at step {int(row.step)}, eigenvalue {value}", bool(row.converged))


def _of_length(problem: Problem, vector: torch.Tensor, path: str, name: str) -> Direction:
    """A vector (n,) from a file as a direction in the problem's parameters.

    Raises:
        InputError: the vector has another shape, is complex or zero, or has non-finite entries.
    """
    from landscape.slices.directions import Direction

    if vector.shape != (problem.layout.dim,) or vector.is_complex():
        raise InputError(
            f"{path} has shape {tuple(vector.shape)}, and the parameter vector has shape ({problem.layout.dim},)"
        )
    vector = vector.to(problem.device, problem.dtype)
    if not vector.isfinite().all() or not vector.any():
        raise InputError(f"{path} is not a direction: the vector is zero, or has entries that are NaN or infinite")
    return Direction(vector, name)
