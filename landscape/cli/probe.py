"""``landscape-probe``: from checkpoints to a record and a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.cli import options
from landscape.cli.config import with_config
from landscape.cli.running import (
    EXIT_DONE,
    EXIT_NOT_CONVERGED,
    command_app,
    let_threads_sleep,
    printing,
    rank_of_process,
    run_command,
)
from landscape.cli.screen import print_compared, print_json, print_plan, print_plan_json, print_record, print_row
from landscape.curvature.kinds import BUILT_IN as KINDS
from landscape.errors import InputError
from landscape.measurements import registered
from landscape.measurements.matrix import Matrix
from landscape.reporting.messages import counted

if TYPE_CHECKING:
    from landscape.checks.pyhessian import CrossCheck
    from landscape.loading.source import Source
    from landscape.measurements import Measurement
    from landscape.measurements.runner import Row

HELP = "Measure the loss landscape around checkpoints, into one HDF5 record."

EPILOGUE = """Examples, from the project's folder:
  landscape-probe data/looped.pt                          # what is cheap
  landscape-probe data/looped.pt --hessian -k 5 -o 5.h5   # top 5 eigenvalues
  landscape-probe data/looped.pt --loops -o loops.h5      # tied or untied loop

Exit status: 0 done, 1 internal error, 2 bad input, 3 not all converged,
129, 130, 143 hung up, interrupted, terminated.
"""

app = command_app("landscape-probe", "CHECKPOINT... [--hessian] [OPTIONS]", HELP, EPILOGUE)


def probe(*checkpoints: options.Checkpoints, **given: Any) -> int:
    """Measure, store and show; see HELP, and `landscape.cli.options` for the parameters."""
    given = options.defaults() | given
    if given["merge"]:
        return _merge(checkpoints, given["out"], given["overwrite"])
    if given["self_check"] and not checkpoints:
        return _closed_forms(given["device"])
    from landscape.checks.pyhessian import check_arguments

    if given["group_by"] is not None and len(checkpoints) == 1:
        raise InputError("--group-by groups the samples of a run: name at least 2 checkpoints of the run")
    matrix = Matrix(given["kind"], given["fisher_unit"], given["fisher_samples"], given["seed"], given["precondition"])
    chosen = given | {
        "checkpoints": checkpoints, "matrix": matrix, "directions": tuple(given["directions"] or ())
    }  # fmt: skip
    measurements = [made for kind in registered(_asked(given)) for made in kind.asked(chosen)]
    source = _source(given)
    if given["crosscheck"]:
        check_arguments(given["which"], given["device"], matrix.group("") or "hessian")
    if given["plan"]:
        return _plan(checkpoints, measurements, source, given)
    return _measure(checkpoints, measurements, source, given)


probe.__signature__ = options.signature()  # type: ignore[attr-defined]
app.default(probe)


def _source(given: Mapping[str, Any]) -> Source:
    """How checkpoints become problems, by the options of the group Problem."""
    from landscape.loading.source import Source
    from landscape.machine.memory import bytes_of

    named = {each.name for each in fields(Source)} & given.keys()
    return replace(
        Source(**{name: given[name] for name in named - {"params", "memory"}}),
        params=tuple(given["params"] or ()),
        memory=None if given["memory"] is None else bytes_of(given["memory"]),
    )


def _plan(
    checkpoints: Sequence[Path], measurements: Sequence[Measurement], source: Source, given: Mapping[str, Any]
) -> int:
    from landscape.measurements.plan import plan

    if rank_of_process() is not None:
        raise InputError("--plan runs in one process: start it without torchrun")
    planned = plan(checkpoints, measurements, source=source, at=tuple(given["at"] or ()))
    with printing():
        (print_plan_json if given["as_json"] else print_plan)(planned)
    return EXIT_DONE


def _measure(
    checkpoints: Sequence[Path], measurements: Sequence[Measurement], source: Source, given: Mapping[str, Any]
) -> int:
    """Measure into the record. Each checkpoint's block is printed when it is finished, unless something follows it."""
    from landscape.machine.processes import process_group
    from landscape.measurements.runner import probe as run
    from landscape.reporting.progress_bar import ProgressBar

    crosscheck = given["crosscheck"]

    def show(row: Row) -> None:
        with printing():
            print_row(row, measurements)

    with process_group() as processes:
        result = run(
            checkpoints,
            measurements,
            given["out"],
            source=replace(source, processes=processes),
            overwrite=given["overwrite"],
            at=tuple(given["at"] or ()),
            command=given["command"],
            bar=ProgressBar(shown=processes.first, lines="landscape-probe"),
            on_row=None if given["as_json"] or crosscheck else show,
            adapt_threads=True,
        )
    if not processes.first:
        return EXIT_DONE  # any other status would have torchrun end the first, which is about to tell it
    peers: list[CrossCheck] = []
    try:
        for row in (row for row in result.rows if crosscheck and "eigenpairs" in row.data):
            peers.append(_crosscheck(row, source, given["k"], given["seed"]))
    finally:  # what was measured is shown, whatever becomes of the peer
        with printing():
            if given["as_json"]:
                print_json(result, peers)
            else:
                for row, peer in zip_longest(result.rows if crosscheck else (), peers):
                    print_row(row, measurements, peer)
                print_record(result, measurements)
    return EXIT_NOT_CONVERGED if any(row.unmet_goals for row in result.rows) else EXIT_DONE


def _merge(records: Sequence[Path], out: Path | None, overwrite: bool) -> int:
    from landscape.record import join_records

    if rank_of_process() is not None:
        raise InputError("--merge runs in one process: start it without torchrun")
    if out is None:
        raise InputError("--merge makes one record of several: name the new record with -o")
    lost: list[str] = []
    path = join_records(records, out, overwrite=overwrite, on_loss=lost.append)
    with printing():
        for line in lost:
            print(f"LOST: {line}")
        print(f"Record: {path} ({'unfinished, ' if lost else ''}of {counted(len(records), 'record')})")
        if lost:
            print(f"To measure the lost rows again, run the command that measured them, with -o {out}")
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
    return run_command(app, "landscape-probe", arguments, _prepare, options.RENAMED, options.SUPERFLUOUS, with_config)


def _prepare(given: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The command line, for the record, once nothing in it is idle; ``-k`` alone asks for eigenpairs."""
    if "--hessian" in arguments and given.get("kind", "hessian") != "hessian":
        raise InputError(f"--hessian means the Hessian: with --matrix {given['kind']} use --eigenpairs")
    if "k" in given and not _asked(given).intersection(options.measurements()):
        given["eigenpairs"] = True
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
_OF_A_MACHINE = {"self_check", "checkpoints", "device", "debug"}
_OF_OTHERS = ("crosscheck",)  # what asks for eigenpairs too


def _asked(given: Mapping[str, Any]) -> set[str]:
    """The parameters that have a value."""
    return {name for name, value in given.items() if value is not None and value is not False}


def _refuse_idle(given: Mapping[str, Any]) -> None:
    """A setting of a measurement that isn't asked for is a measurement forgotten."""
    name = options.option_name
    if given.get("merge") and (more := sorted(given.keys() - {"merge", "checkpoints", "out", "overwrite", "debug"})):
        raise InputError(f"--merge joins records and measures nothing: leave out {name(more[0])}")
    if given.get("self_check") and not given.get("checkpoints") and (more := sorted(given.keys() - _OF_A_MACHINE)):
        raise InputError(
            f"--self-check without a checkpoint checks this machine: name a checkpoint, or leave out {name(more[0])}"
        )
    asked, measurements = _asked(given), registered(_asked(given))
    idle: dict[str, list[str]] = {}
    for setting in given:
        users = options.users(setting, measurements)
        if users and not asked.intersection([*users, *(_OF_OTHERS if "eigenpairs" in users else ())]):
            idle[setting] = users
    if idle:
        ordered = [setting for setting in (each.name for each in options.parameters()) if setting in idle]
        wanted = " or ".join(map(name, idle[ordered[0]]))
        raise InputError(f"no requested measurement uses {' or '.join(map(name, ordered))}: add {wanted}")
    if "tol" in given and "tol_value" in given:
        raise InputError("--tol and --tol-value are two goals; give one of them")
    if "tol_estimate" in given and "probes" in given:
        raise InputError("--tol-estimate and --probes are two goals; give one of them")
    if "adaptive" in given and "2d" not in given["slices"]:
        raise InputError("--adaptive is for planes: add --slice 2d")
    for setting, parameter in (("unit", "fisher_unit"), ("samples", "fisher_samples")):
        having = [kind for kind, each in KINDS.items() if setting in each.settings]
        if parameter in given and given.get("kind") not in having:
            raise InputError(f"{name(parameter)} applies only to some matrices: add --matrix {' or '.join(having)}")
