"""``landscape-probe``: from checkpoints to a record and a table."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from landscape.cli import options
from landscape.cli.running import (
    EXIT_DONE,
    EXIT_NOT_CONVERGED,
    command_app,
    let_threads_sleep,
    printing,
    rank_of_process,
    run_command,
)
from landscape.cli.screen import print_compared, print_json, print_tables
from landscape.errors import InputError
from landscape.reporting.messages import counted

if TYPE_CHECKING:
    from landscape.checks.pyhessian import CrossCheck
    from landscape.loading.source import Source
    from landscape.measurements import Measurement
    from landscape.measurements.runner import Row

HELP = "Measure the loss landscape around checkpoints: results on the screen and in one HDF5 record."

EPILOGUE = """Examples, from the project's folder:
  landscape-probe data/looped.pt                          # what is cheap
  landscape-probe data/looped.pt --hessian -k 5 -o 5.h5   # top 5 eigenvalues
  landscape-probe data/single.pt --hessian --which BE     # both ends
  landscape-probe data/looped.pt --loops -o loops.h5      # tied or untied loop

Exit status: 0 done, 1 internal error, 2 bad input, 3 not all converged,
129, 130, 143 hung up, interrupted, terminated.
"""

app = command_app("landscape-probe", "CHECKPOINT... [--hessian] [OPTIONS]", HELP, EPILOGUE)


@app.default
def probe(
    *checkpoints: options.Checkpoints,
    eigenpairs: options.TopEigenpairs = False,
    density: options.Density = False,
    trace: options.Trace = False,
    log_det: options.LogDet = None,
    effective_dimension: options.EffectiveDimension = None,
    spectrum: options.Spectrum = False,
    per_layer: options.PerLayer = False,
    loops: options.Loops = False,
    slices: options.Slice = None,
    valley: options.Valley = False,
    samples: options.Samples = False,
    dynamics: options.Dynamics = False,
    hops: options.Hops = False,
    self_check: options.SelfCheck = False,
    crosscheck: options.CrossCheck = None,
    kind: options.Kind = "hessian",
    fisher_unit: options.FisherUnit = "term",
    fisher_samples: options.FisherSamples = 1,
    precondition: options.Precondition = None,
    params: options.Params = None,
    k: options.K = 10,
    which: options.Which = "LM",
    tol: options.Tol = 1e-3,
    tol_value: options.TolValue = None,
    tol_trace: options.TolTrace = None,
    probes: options.Probes = None,
    steps: options.Steps = 100,
    max_products: options.MaxProducts = None,
    eigenvectors: options.Eigenvectors = None,
    loop_module: options.LoopModule = None,
    directions: options.Direction = None,
    points: options.Points = None,
    reach: options.Reach = None,
    group_by: options.GroupBy = None,
    subset: options.Subset = None,
    buffers: options.Buffers = "interpolate",
    adaptive: options.Adaptive = None,
    at: options.At = None,
    seed: options.Seed = 0,
    problem: options.ProblemName = None,
    project: options.Project = None,
    data: options.Data = None,
    loss: options.LossName = None,
    length: options.Length = None,
    weight_decay: options.WeightDecay = None,
    weights: options.Weights = None,
    strip_prefix: options.StripPrefix = None,
    step_from: options.StepFrom = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
    compiling: options.Compiling = "auto",
    memory: options.Memory = None,
    allow_code_execution: options.AllowCode = False,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    append: options.Append = False,
    merge: options.Merge = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
    command: Annotated[str, Parameter(parse=False)],
) -> int:
    """Measure, store and show; see HELP. ``command`` goes into the record."""
    if merge:
        return _merge(checkpoints, out, overwrite)
    if self_check and not checkpoints:
        return _closed_forms(device)
    from landscape import measurements as made
    from landscape.checks.pyhessian import check_arguments
    from landscape.loading.source import Source
    from landscape.machine.memory import bytes_of
    from landscape.machine.processes import joined
    from landscape.measurements.runner import probe as run
    from landscape.record import readable

    if group_by is not None and len(checkpoints) == 1:
        raise InputError("--group-by is of how a run learns: name at least 2 of its checkpoints")
    source = Source(
        problem,
        project,
        device,
        dtype,
        batch_size,
        tuple(params or ()),
        allow_code_execution,
        compiling,
        None if memory is None else bytes_of(memory),
        data=data,
        loss=loss,
        length=length,
        weight_decay=weight_decay,
        weights=weights,
        strip_prefix=strip_prefix,
        step_from=step_from,
    )
    matrix = made.Matrix(kind, fisher_unit, fisher_samples, seed, precondition)
    sums = tol_trace, probes, steps, k, seed, max_products, matrix
    slices_of = tuple(directions or ()), points, reach, seed, subset
    asked: list[tuple[Any, Callable[[], Measurement]]] = [
        (True, made.Loss),
        (self_check, lambda: made.SelfCheck(seed, matrix)),
        (samples, made.Samples),
        (
            eigenpairs or crosscheck,
            lambda: made.TopEigenpairs(k, which, tol, tol_value, seed, max_products, eigenvectors, matrix),
        ),
        (density, lambda: made.Density(k, probes, steps, seed, matrix)),
        (trace, lambda: made.Trace(tol_trace, probes, seed, max_products, matrix)),
        (log_det is not None, lambda: made.LogDet(log_det or 0.0, *sums)),
        (effective_dimension is not None, lambda: made.EffectiveDimension(effective_dimension or 0.0, *sums)),
        (dynamics, lambda: made.Spectrum(made.LEADING)),
        (spectrum and not (dynamics and matrix.group("") == ""), lambda: made.Spectrum(0, matrix)),
        (per_layer, lambda: made.Layers(tol, tol_trace, probes, seed, matrix)),
        (loops, lambda: made.Loops(loop_module, k, tol, tol_trace, probes, seed, matrix)),
        ("1d" in (slices or ()), lambda: made.Slices1D(*slices_of, buffers=buffers)),
        ("2d" in (slices or ()), lambda: made.Slices2D(*slices_of, buffers=buffers, adaptive=adaptive)),
        (valley, lambda: made.Valley(k, tol, made.Valley.points if points is None else points, seed)),
        (dynamics, lambda: made.Stability(tol, seed)),
        (samples and len(checkpoints) > 1, lambda: made.Learning(group_by, seed)),
        (dynamics, lambda: made.Dynamics(seed)),
        (hops, lambda: made.ValleyHops(k, tol, seed)),
    ]
    measurements = [make() for wanted, make in asked if wanted]
    if crosscheck:
        check_arguments(which, device, matrix.group("") or "hessian")
    with joined() as processes:
        result = run(
            checkpoints,
            measurements,
            out,
            source=replace(source, processes=processes),
            overwrite=overwrite,
            append=append,
            at=tuple(at or ()),
            command=command,
        )
    status = EXIT_NOT_CONVERGED if any(row.shortfalls for row in result.rows) else EXIT_DONE
    if not processes.first:
        return EXIT_DONE  # any other status would have torchrun end the first, which is about to tell it
    peers: list[CrossCheck] = []
    try:
        for row in (row for row in result.rows if crosscheck and "hessian" in row.data):
            peers.append(_crosscheck(row, source, k, seed))
    finally:  # what was measured is shown, whatever becomes of the peer
        # What was there before can be anything.
        with nullcontext() if result.measured else readable(result.path), printing():
            (print_json if as_json else print_tables)(result, measurements, peers)
    return status


def _merge(records: Sequence[Path], out: Path | None, overwrite: bool) -> int:
    from landscape.record import join_records

    if rank_of_process() is not None:
        raise InputError("--merge is the work of one process: start it without torchrun")
    if out is None:
        raise InputError("--merge makes a record of several: name it with -o")
    lost: list[str] = []
    path = join_records(records, out, overwrite=overwrite, on_loss=lost.append)
    with printing():
        for line in lost:
            print(f"LOST: {line}")
        print(f"Record: {path} ({'unfinished, ' if lost else ''}of {counted(len(records), 'record')})")
        if lost:
            print(f"What was lost is measured again by the command that measured it, with -o {out}")
    return EXIT_NOT_CONVERGED if lost else EXIT_DONE


def _closed_forms(device: str) -> int:
    """Without a checkpoint, the self-check is of this machine."""
    from landscape.checks.closed_forms import compare
    from landscape.loading.source import device_named

    compared = list(compare(device_named(device) or "cpu"))
    with printing():
        print_compared(compared)
    return EXIT_DONE if all(each.right for each in compared) else EXIT_NOT_CONVERGED


def _crosscheck(row: Row, source: Source, k: int, seed: int) -> CrossCheck:
    from landscape.checks.pyhessian import pyhessian_eigenvalues

    return pyhessian_eigenvalues(source.load(row.path), k, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if arguments is None:  # in a process of its own
        let_threads_sleep()
    return run_command(app, "landscape-probe", arguments, _prepare)


def _prepare(given: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The command line, for the record, once nothing in it is idle."""
    _refuse_idle(given)
    return {"command": shlex.join(["landscape-probe", *_shortened(arguments, given.get("checkpoints", ()))])}


def _shortened(arguments: Sequence[str], checkpoints: Sequence[Path]) -> list[str]:
    """The arguments with the first checkpoints alone: every row has the command, and a record a row of each."""
    named = set(checkpoints)
    places = [place for place, argument in enumerate(arguments) if Path(argument) in named]
    if len(places) <= _NAMED + 1:
        return list(arguments)
    left = set(places[_NAMED:])
    shortened = [argument for place, argument in enumerate(arguments) if place not in left]
    shortened.insert(places[_NAMED - 1] + 1, f"[{len(left):,} more checkpoints]")
    return shortened


_NAMED = 5  # checkpoints in a command that is stored
# Which measurements a setting is of, by their parameters above.
_WITH_PROBES = ("density", "trace", "log_det", "effective_dimension", "per_layer", "loops")
_OF_CURVATURE = ("eigenpairs", "spectrum", *_WITH_PROBES, "self_check", "crosscheck")
_SETTINGS = {
    "kind": _OF_CURVATURE,
    "fisher_unit": _OF_CURVATURE,
    "fisher_samples": _OF_CURVATURE,
    "precondition": _OF_CURVATURE,
    "k": ["eigenpairs", "density", "log_det", "effective_dimension", "loops", "valley", "hops", "crosscheck"],
    "which": ["eigenpairs", "crosscheck"],
    "tol": ["eigenpairs", "per_layer", "loops", "valley", "dynamics", "hops", "crosscheck"],
    "tol_value": ["eigenpairs"],
    "tol_trace": ["trace", "log_det", "effective_dimension", "per_layer", "loops"],
    "probes": _WITH_PROBES,
    "steps": ["density", "log_det", "effective_dimension"],
    "max_products": ["eigenpairs", "trace", "log_det", "effective_dimension", "crosscheck"],
    "eigenvectors": ["eigenpairs", "crosscheck"],
    "loop_module": ["loops"],
    "directions": ["slices"],
    "points": ["slices", "valley"],
    "reach": ["slices"],
    "group_by": ["samples"],
    "subset": ["slices"],
    "adaptive": ["slices"],
    "buffers": ["slices"],
    "at": ["slices", "valley"],
    "compiling": [*_OF_CURVATURE, "slices", "valley", "dynamics", "hops"],
    "memory": [*_OF_CURVATURE, "slices", "valley", "dynamics", "hops"],
    "seed": [
        "self_check",
        "eigenpairs",
        *_WITH_PROBES,
        "slices",
        "valley",
        "samples",
        "dynamics",
        "hops",
        "crosscheck",
    ],
}
_OF_A_MACHINE = {"self_check", "checkpoints", "device", "debug"}
_SPELT = {"eigenpairs": "--hessian", "kind": "--matrix", "k": "-k", "slices": "--slice", "directions": "--direction",
          "compiling": "--compile", "as_json": "--json"}  # fmt: skip


def _option(parameter: str) -> str:
    return _SPELT.get(parameter, "--" + parameter.replace("_", "-"))


def _refuse_idle(given: Mapping[str, Any]) -> None:
    """A setting of a measurement that isn't asked for is a measurement forgotten."""
    if given.get("merge") and (more := sorted(given.keys() - {"merge", "checkpoints", "out", "overwrite", "debug"})):
        raise InputError(f"--merge joins records and measures nothing: leave out {_option(more[0])}")
    if given.get("self_check") and not given.get("checkpoints") and (more := sorted(given.keys() - _OF_A_MACHINE)):
        raise InputError(
            f"--self-check without a checkpoint is of this machine: name one, or leave out {_option(more[0])}"
        )
    asked = {name for name, value in given.items() if value is not None and value is not False}
    idle = [name for name, users in _SETTINGS.items() if name in given and not asked.intersection(users)]
    if idle:
        wanted = " or ".join(_option(each) for each in _SETTINGS[idle[0]] if each != "crosscheck")
        raise InputError(f"nothing is asked for that has {' and '.join(map(_option, idle))}: add {wanted}")
    if "tol" in given and "tol_value" in given:
        raise InputError("--tol and --tol-value are two goals; give one of them")
    if "tol_trace" in given and "probes" in given:
        raise InputError("--tol-trace and --probes are two goals; give one of them")
    if "adaptive" in given and "2d" not in given["slices"]:
        raise InputError("--adaptive is of planes: add --slice 2d")
    if "fisher_unit" in given and not str(given.get("kind")).startswith("fisher"):
        raise InputError("--fisher-unit is of the Fisher matrices: add --matrix fisher, fisher-mc or fisher-empirical")
    if "fisher_samples" in given and given.get("kind") != "fisher-mc":
        raise InputError("--fisher-samples is of the Monte-Carlo Fisher: add --matrix fisher-mc")
