"""What a slice goes along, by the name it is asked for with."""

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
    """A direction, and what is known of it.

    Attributes:
        direction: itself, of the same name at each checkpoint.
        detail: what is of this checkpoint alone: an eigenvector's eigenvalue; else empty.
        converged: false of an eigenvector whose solve did not reach its goal.
        share: of the variance of the run's checkpoints, along a principal component; else NaN.
        random_walk: that share for a random walk.
    """

    direction: Direction
    detail: str = ""
    converged: bool = True
    share: float = np.nan
    random_walk: float = np.nan

    @property
    def nowhere(self) -> bool:
        """Whether it is the line to the checkpoint itself."""
        return not self.direction.vector.any()


def is_file(name: str) -> bool:
    """Whether a direction is in a file, and not made here."""
    return name not in NAMES


def is_checkpoint(name: str) -> bool:
    """Whether a direction is the line to another checkpoint."""
    return is_file(name) and not name.endswith((".npy", ".h5"))


def refuse_unknown(problem: Problem, names: Sequence[str], left_out: bool) -> None:
    """Raise InputError where a direction can't be had.

    Args:
        problem: at the centre of the slice.
        names: as asked for.
        left_out: lines to the checkpoint itself are, and so aren't refused.
    """
    for name in dict.fromkeys(filter(is_file, names)):
        if _from_file(problem, name, None, History(), 0).nowhere and not left_out:
            raise InputError(
                f"{name} has the weights of a checkpoint that is measured, and no line leads to itself; name another "
                "direction or leave that checkpoint out"
            )


def find_directions(
    problem: Problem,
    names: Sequence[str],
    seed: int,
    digests: Mapping[str, str],
    history: History,
    progress: Callable[[Progress], None],
) -> list[Found]:
    """The directions in the order of their names; one that is named again is the next of its kind.

    Args:
        problem: at the centre of the slice.
        names: as asked for; the line to the checkpoint itself is a vector of zeros.
        seed: of random ones, and of the eigenvectors' solves.
        digests: the sha256 that each file among them must have.
        history: with the run, for its principal components.
        progress: of the eigenvectors' solves, one for each end of the spectrum.
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
    found = []
    for name in names:
        index = used[name]
        used[name] += 1
        if name in RANDOM:
            found.append(Found(gaussian(problem, seed, index, RANDOM[name])))
        elif name in solved:
            found.append(_eigenvector(solved[name], index, name))
        elif name == "gradient":
            found.append(Found(gradient_direction(problem)))
        elif principal is not None and name == PRINCIPAL:
            share, random_walk = float(principal.shares[index]), float(principal.random_walk[index])
            found.append(Found(principal.directions[index], share=share, random_walk=random_walk))
        else:
            found.append(_from_file(problem, name, digests.get(name), history, index))
    return found


def digests_of(names: Sequence[str]) -> dict[str, str]:
    """The sha256 of each file among directions."""
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
    """A vector of the user's, an eigenvector of a record, or the line to another checkpoint."""
    import torch

    from landscape.checkpoint import fit_state, read_checkpoint
    from landscape.slices.directions import Direction, toward

    name = Path(path).name
    if path.endswith(".npy"):
        return Found(_of_length(problem, read_vector(path, digest), path, name))
    if not Path(path).exists():
        raise InputError(
            f"there is no direction {path!r}: it is {', '.join(NAMES)}, or the path of a checkpoint, of a record (.h5) "
            "or of a vector (.npy)"
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
    """An eigenvector that a record has of this checkpoint, or else of its last one."""
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
    """A vector from a file, as a direction in the problem's parameters."""
    from landscape.slices.directions import Direction

    if vector.shape != (problem.layout.dim,) or vector.is_complex():
        raise InputError(f"{path} has shape {tuple(vector.shape)}, the parameters' vector ({problem.layout.dim},)")
    vector = vector.to(problem.device, problem.dtype)
    if not vector.isfinite().all() or not vector.any():
        raise InputError(f"{path} is no direction: it is zero, or has entries that are NaN or infinite")
    return Direction(vector, name)
