"""Load problems from checkpoints: the factory, device, dtype, memory and other settings that `Source` holds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from landscape.checkpoint import Checkpoint, fit_state, read_checkpoint
from landscape.checkpoint.layout import AS_USUAL, Where
from landscape.checkpoint.optimizer import decayed, decays_apart
from landscape.errors import InputError
from landscape.loading.factories import TABLE, Factory, build, find_project, resolve
from landscape.loading.pretrained import PretrainedInputs, brings_model, read_with_model
from landscape.machine.memory import bytes_of, ran_out
from landscape.machine.processes import SINGLE_PROCESS, Processes, own_device
from landscape.problem.penalty import WeightDecay
from landscape.problem.problem import Compile, Problem
from landscape.reporting.deprecation import renamed_arguments, renamed_settings
from landscape.reporting.messages import cause


@renamed_settings(compiling="compile_products")
@dataclass(frozen=True)
class Source:
    """Settings by which checkpoints become problems.

    Attributes:
        problem: ``path/to/file.py:name``, ``package.module:name`` or a name in the project's pyproject.toml; None takes
            the name that the checkpoint gives.
        project: folder of that pyproject.toml; None searches from the working directory upwards.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for a CUDA device if there is one; None keeps the factory's
            choice.
        dtype: ``float32`` or ``float64``, or torch's dtype; None keeps the factory's choice.
        batch_size: most samples evaluated at a time; None keeps the factory's batches.
        compile_products: whether products are compiled, ``auto`` by default; see `Problem`.
        memory: bytes that a measurement may take; see `Problem`.
        processes: processes that share the work; see `Problem.distributed_over`.
        params: globs of the parameters that vary; the others are constants. By default all vary. See
            `Problem.restricted`.
        allow_code_execution: unpickle checkpoints that run code; False by default.
        weights, strip_prefix, step_from: places of the weights and the step in a checkpoint; see
            `landscape.checkpoint.layout.Where`.
        data, loss, length: inputs for a checkpoint that brings its model; see
            `landscape.loading.pretrained.PretrainedInputs`.
        weight_decay: weight W of a term W/2 |theta|^2 in the objective; None adds no term. The term is over the
            parameters that the first checkpoint's optimiser decays, or over all if it decays none.
    """

    problem: str | None = None
    project: str | Path | None = None
    device: str | None = None
    dtype: str | torch.dtype | None = None
    batch_size: int | None = None
    params: str | Sequence[str] = ()
    allow_code_execution: bool = False
    compile_products: Compile = "auto"
    memory: int | None = None
    processes: Processes = SINGLE_PROCESS
    data: str | Path | None = None
    loss: str | None = None
    length: int | None = None
    weight_decay: float | None = None
    weights: str | None = None
    strip_prefix: str | None = None
    step_from: str | None = None

    def __post_init__(self) -> None:
        """Store ``params`` as a tuple; a single glob becomes a tuple of one."""
        object.__setattr__(self, "params", (self.params,) if isinstance(self.params, str) else tuple(self.params))

    def read(self, path: str | Path) -> Checkpoint:
        """Read a checkpoint, with its model if the checkpoint brings one and no ``problem`` is named."""
        path = Path(path).expanduser()
        where = Where(self.weights, self.strip_prefix, self.step_from)
        if self.problem is None and brings_model(path):
            if where != AS_USUAL:
                raise InputError(
                    f"{path}: brings its model, whose weights and step have fixed places: leave out --weights, "
                    "--strip-prefix and --step-from"
                )
            return read_with_model(path)
        return read_checkpoint(path, allow_code_execution=self.allow_code_execution, where=where)

    def factory(self, checkpoint: Checkpoint) -> Factory:
        """The problem factory for a checkpoint.

        Raises:
            InputError: there is none, or ``data``, ``loss`` or ``length`` is given for a checkpoint that brings no
                model.
        """
        if checkpoint.model is not None:
            inputs = PretrainedInputs(self.data, self.loss, self.length, self.batch_size)
            return Factory(inputs.problem, "the checkpoint's own model")
        if any(each is not None for each in (self.data, self.loss, self.length)):
            raise InputError(
                f"{checkpoint.path}: brings no model for --data, --loss or --length: its problem factory has its own "
                "data and loss, so leave out these options"
            )
        project = find_project() if self.project is None else _project(Path(self.project))
        return resolve(self.problem, checkpoint, project)

    def pose(self, factory: Factory, checkpoint: Checkpoint) -> Problem:
        """Build the factory's problem on the chosen device in the chosen dtype; its weights are still the factory's."""
        problem, dtype = build(factory, checkpoint), _dtype(self.dtype)
        try:
            problem = problem.to(
                device_named(self.device, self.processes), dtype, self.batch_size, self.compile_products, self.memory
            )
        except (RuntimeError, TypeError) as error:
            if ran_out(error):
                raise InputError(
                    f"{factory.label}: memory ran out for losses without a graph ({cause(error)}): give smaller batches"
                ) from error
            where = f"in {dtype or problem.dtype} on {self.device or problem.device}"
            raise InputError(
                f"{factory.label}: the model can't be evaluated {where} ({cause(error)}); a tensor that is neither "
                "parameter nor buffer keeps its device and dtype"
            ) from error
        if self.weight_decay is not None:
            problem = with_weight_decay(problem, self.weight_decay, checkpoint)
        return (problem.restricted(self.params) if self.params else problem).distributed_over(self.processes)

    def load(self, path: str | Path) -> Problem:
        """The problem at a checkpoint's weights."""
        checkpoint = self.read(path)
        return at_checkpoint(self.pose(self.factory(checkpoint), checkpoint), checkpoint)


def in_runs(paths: Sequence[str | Path]) -> list[Path]:
    """Paths of checkpoints; a run folder of transformers' Trainer is replaced by its ``checkpoint-*`` folders."""
    checkpoints: list[Path] = []
    for path in (Path(each).expanduser() for each in paths):
        inside = sorted(path.glob("checkpoint-*")) if os.path.isdir(path) and not brings_model(path) else []
        checkpoints += [each for each in inside if brings_model(each)] or [path]
    return checkpoints


@renamed_arguments("load_problem", compiling="compile_products")
def load_problem(
    checkpoint: str | Path,
    problem: str | None = None,
    *,
    project: str | Path | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    batch_size: int | None = None,
    params: str | Sequence[str] = (),
    allow_code_execution: bool = False,
    compile_products: Compile = "auto",
    memory: str | int | None = None,
    data: str | Path | None = None,
    loss: str | None = None,
    length: int | None = None,
    weight_decay: float | None = None,
    weights: str | None = None,
    strip_prefix: str | None = None,
) -> Problem:
    """The problem at a checkpoint's weights; arguments as in `Source`.

    Raises:
        InputError: an argument or the checkpoint can't be used; the message says in one line what to do.
    """
    allowed = bytes_of(memory) if isinstance(memory, str) else memory
    return Source(
        problem,
        project,
        device,
        dtype,
        batch_size,
        params,
        allow_code_execution,
        compile_products,
        allowed,
        data=data,
        loss=loss,
        length=length,
        weight_decay=weight_decay,
        weights=weights,
        strip_prefix=strip_prefix,
    ).load(checkpoint)


def at_checkpoint(problem: Problem, checkpoint: Checkpoint) -> Problem:
    """The problem at a checkpoint's weights, with notes on how the weights were read and fitted.

    Raises:
        InputError: the weights don't fit the model, or aren't finite.
    """
    state, notes = fit_state(checkpoint.state, problem.model, str(checkpoint.path))
    try:
        loaded = problem.with_state(state)
    except InputError as error:
        raise InputError(f"{checkpoint.path}: {error}") from error
    return loaded.noted(*checkpoint.notes, *notes, *_casts(state, problem.dtype)).with_optimizer(checkpoint.optimizer)


def with_weight_decay(problem: Problem, weight: float, checkpoint: Checkpoint) -> Problem:
    """Add weight decay to the problem's objective, over the parameters that a checkpoint's optimiser decays.

    If the optimiser decays none of the parameters, or there is no optimiser, the weight decay is over all of them.

    Raises:
        InputError: the weight isn't positive, the optimiser's entries can't be matched to parameters, or the objective
            has a penalty already.
    """
    optimizer = checkpoint.optimizer or {"state": {}, "param_groups": []}
    try:
        names = set(decayed(optimizer, problem.model)).intersection(problem.layout.names)
        why = "the checkpoint's optimiser decays these" if names else "no optimiser of the checkpoint decays any"
        known = tuple(name for name in problem.layout.names if name in names) or problem.layout.names
        penalised = problem.with_penalty(WeightDecay(weight, known, len(problem.layout.names)))
        apart = decays_apart(optimizer)
    except InputError as error:
        raise InputError(f"--weight-decay {weight:g}: {error}") from error
    notes = [f"weight decay is over {len(known)} of {len(problem.layout.names)} parameter tensors: {why}"]
    if apart:
        notes.append("AdamW's own decay is no part of an objective: its gradient isn't that of W/2 |theta|^2")
    return penalised.noted(*notes)


def _casts(state: Mapping[str, Tensor], dtype: torch.dtype) -> list[str]:
    """A note on each stored floating-point dtype that is neither the computation's dtype nor float32."""
    types = sorted({str(each.dtype).removeprefix("torch.") for each in state.values() if each.is_floating_point()})
    computed = str(dtype).removeprefix("torch.")
    rounded = ", which rounds them (--dtype float64 keeps them)"
    return [
        f"weights stored in {each} are used in {computed}{rounded if each == 'float64' else ''}"
        for each in types
        if each not in (computed, "float32")
    ]


def _project(folder: Path) -> Path:
    """The folder of a project that the user named; its parents are not searched."""
    if not os.path.isfile(folder / "pyproject.toml"):  # false for a too long name, where Path.is_file raises
        raise InputError(f"--project: {folder} has no pyproject.toml; name the folder of the one that names problems")
    if find_project(folder) != folder.resolve():
        raise InputError(f"--project: {folder / 'pyproject.toml'} has no {TABLE}; add it, or name another folder")
    return folder.resolve()


def device_named(name: str | None, processes: Processes = SINGLE_PROCESS) -> str | None:
    """The device that a name stands for; None if the name is None, the factory's own choice.

    Raises:
        InputError: ``name`` is no device, or is one device for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if processes.size > 1 and name is not None and name.startswith("cuda"):
        if name != "cuda":
            raise InputError(f"--device {name} is one device for {processes.size} processes: give cuda or auto")
        return own_device()
    if name is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    return name


def _dtype(given: str | torch.dtype | None) -> torch.dtype | None:
    name = str(given).removeprefix("torch.")
    if given is not None and name not in ("float32", "float64"):
        raise InputError(f"dtype must be float32 or float64, not {given!r}")
    return None if given is None else torch.float64 if name == "float64" else torch.float32
