"""Which matrix a measurement is of: the Hessian, or another kind of curvature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.batched import BatchedOperator
from landscape.curvature.fisher import EmpiricalFisher, ExactFisher, MonteCarloFisher
from landscape.curvature.gauss_newton import GaussNewton
from landscape.curvature.hessian import Hessian
from landscape.curvature.preconditioned import Preconditioned, adam_diagonal
from landscape.errors import InputError
from landscape.measurements.base import Measurement
from landscape.operator import SymmetricOperator
from landscape.problem import Problem
from landscape.wording import cause

Kind = Literal["hessian", "ggn", "fisher", "fisher-mc", "fisher-empirical"]
Unit = Literal["term", "sequence"]

_TITLES = {
    "hessian": "Hessian",
    "ggn": "generalised Gauss-Newton matrix",
    "fisher": "Fisher matrix (exact)",
    "fisher-mc": "Fisher matrix (Monte Carlo)",
    "fisher-empirical": "empirical Fisher (gradients' second moment)",
}


@dataclass(frozen=True)
class Matrix:
    """A kind of curvature, and how it is made.

    Attributes:
        kind: ``hessian``; ``ggn``, the generalised Gauss-Newton matrix; ``fisher``, exact under the model's own
            distribution; ``fisher-mc``, the same from sampled labels; ``fisher-empirical``, from the data's labels,
            which is not the Fisher (Kunstner, Hennig and Balles 2019).
        unit: what a score of the Fisher kinds is of: each loss ``term`` (token), or each sample's (``sequence``) sum.
        samples: labels sampled for each term of ``fisher-mc``.
        seed: of these labels.
        precondition: D^(-1/2) A D^(-1/2) with D from Adam's second moments in the checkpoint (``adam``), or from a file
            of a flat vector (.npy, or .pt with one tensor).
    """

    kind: Kind = "hessian"
    unit: Unit = "term"
    samples: int = 1
    seed: int = 0
    precondition: str | None = None

    @property
    def title(self) -> str:
        """What the screen calls it."""
        title = _TITLES[self.kind]
        if self.kind == "fisher-mc":
            title += f", {self.samples} label{'s' * (self.samples > 1)} a term"
        if self.unit == "sequence":
            title += ", scores by sequence"
        if self.precondition:
            by = "Adam's second moments" if self.precondition == "adam" else self.precondition
            title += f", preconditioned by {by}"
        return title

    @property
    def units(self) -> str:
        """Of its entries and eigenvalues."""
        return "1 (preconditioned)" if self.precondition else "loss / parameter^2"

    def group(self, measurement: str) -> str:
        """The record's group for a measurement: its own name for the Hessian, with the matrix's for any other."""
        label = "" if self.kind == "hessian" else "_" + self.kind.replace("-", "_")
        return f"{measurement}{label}{'_preconditioned' if self.precondition else ''}"

    def operator(self, problem: Problem, route: str | None = None) -> tuple[SymmetricOperator, BatchedOperator]:
        """The operator at a problem's point, and what makes its products (itself, unless it is preconditioned).

        Args:
            problem: where.
            route: the way to make products, where it was decided before.

        Raises:
            InputError: the problem has no such matrix, or there is nothing to precondition with.
        """
        made = self._plain(problem, route)
        return (Preconditioned(made, self._diagonal(problem)), made) if self.precondition else (made, made)

    def check(self, problem: Problem) -> None:
        """Refuse, before anything is measured, what `operator` would.

        Raises:
            InputError: see `operator`.
        """
        if self.kind == "fisher":
            ExactFisher.check(problem)
        elif self.kind == "fisher-mc":
            MonteCarloFisher.check(problem)
        elif self.kind == "ggn":
            GaussNewton.check(problem)
        if self.samples < 1:
            raise InputError(f"the Monte-Carlo Fisher needs at least 1 sampled label a term, not {self.samples}")
        if self.precondition:
            self._diagonal(problem)

    def _plain(self, problem: Problem, route: str | None) -> BatchedOperator:
        match self.kind:
            case "hessian":
                return Hessian(problem, route=route)
            case "ggn":
                return GaussNewton(problem, route=route)
            case "fisher":
                return ExactFisher(problem, unit=self.unit, route=route)
            case "fisher-mc":
                return MonteCarloFisher(problem, unit=self.unit, samples=self.samples, seed=self.seed, route=route)
            case "fisher-empirical":
                return EmpiricalFisher(problem, unit=self.unit, route=route)

    def _diagonal(self, problem: Problem) -> Tensor:
        assert self.precondition is not None, "asked for only where there is one"
        if self.precondition != "adam":
            return _read_diagonal(self.precondition, problem)
        if problem.optimizer is None:
            raise InputError("the checkpoint has no optimiser state to precondition with; give a file of a diagonal")
        return adam_diagonal(problem.optimizer, problem.model, problem.layout).to(problem.device, problem.dtype)


class OfMatrix(Measurement):
    """A measurement of a matrix.

    Attributes:
        group: the record's group if the matrix is the Hessian.
        matrix: which one it is.
    """

    group: ClassVar[str]
    matrix: Matrix

    @property
    def name(self) -> str:
        """The group, with the matrix's name if it isn't the Hessian."""
        return self.matrix.group(self.group)


def kept_route(choices: Mapping[str, Any] | None) -> str | None:
    """The way an earlier row's products were made."""
    return None if choices is None else choices["route"]["name"]


def _read_diagonal(path: str, problem: Problem) -> Tensor:
    try:
        values = np.load(path) if path.endswith(".npy") else torch.load(path, map_location="cpu", weights_only=True)
        vector = torch.as_tensor(values)
    except Exception as error:  # NumPy and torch raise all kinds for a file that isn't theirs
        raise InputError(f"--precondition: {path} can't be read as a vector ({cause(error)})") from error
    if vector.shape != (problem.layout.dim,) or not vector.isreal().all():
        raise InputError(
            f"--precondition: {path} has shape {tuple(vector.shape)}, the parameters' vector ({problem.layout.dim},)"
        )
    return vector.to(problem.device, problem.dtype)
