"""``landscape-probe``: from checkpoints to a record and a table."""

from __future__ import annotations

import json
import math
import shlex
import signal
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console
from rich.table import Table

from landscape.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from landscape.crosscheck import CrossCheck
    from landscape.measure import Result, Row, Source
    from landscape.measurements import Measurement

EXIT_DONE, EXIT_INTERNAL, EXIT_INPUT, EXIT_NOT_CONVERGED, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 3, 130, 143

HELP = "Measure the loss landscape around checkpoints: results on the screen and in one HDF5 record."

EPILOGUE = """Examples, from the project's folder:
  landscape-probe data/looped.pt                           what is cheap
  landscape-probe data/looped.pt --hessian -k 5 -o 5.h5    top 5 eigenvalues
  landscape-probe data/single.pt --hessian --which BE      both ends

Exit status: 0 done, 1 internal error, 2 bad input, 3 not all converged,
130 interrupted, 143 terminated.
"""

measurements_group = Group("Measurements", sort_key=1)
problem_group = Group("Problem", sort_key=2)
output_group = Group("Output", sort_key=3)

app = App(
    name="landscape-probe",
    help=HELP,
    usage="Usage: landscape-probe CHECKPOINT... [--hessian] [OPTIONS]",
    help_format="plaintext",
    help_epilogue=EPILOGUE,
    version_flags=["--version"],
    help_on_error=False,
)


def _flag(group: Group, text: str, name: str | None = None) -> Parameter:
    """An option that is there or not."""
    return Parameter(name=name, group=group, help=text, negative="", show_default=False)


def _version() -> str:
    from importlib.metadata import version

    return version("landscape-probe")


app.version = _version


@app.default
def probe(
    *checkpoints: Annotated[Path, Parameter(help="Checkpoints of one run, in any order with the options.")],
    hessian: Annotated[bool, _flag(measurements_group, "Top Hessian eigenpairs by Lanczos.")] = False,
    k: Annotated[int, Parameter(name=["-k"], group=measurements_group, help="How many eigenpairs.")] = 10,
    which: Annotated[
        Literal["LM", "LA", "SA", "BE"],
        Parameter(group=measurements_group, help="Largest magnitude, largest, smallest, or both ends."),
    ] = "LM",
    tol: Annotated[float, Parameter(group=measurements_group, help="Relative residual to reach.")] = 1e-3,
    max_products: Annotated[
        int | None, Parameter(group=measurements_group, help="Stop after so many products.  [default: 500 + 50 k]")
    ] = None,
    eigenvectors: Annotated[
        bool | None, Parameter(group=measurements_group, help="Store them.  [default: if below 1 GB]")
    ] = None,
    seed: Annotated[int, Parameter(group=measurements_group, help="Of the random start vectors.")] = 0,
    crosscheck: Annotated[
        Literal["pyhessian"] | None, Parameter(group=measurements_group, help="Run a peer on the same problem too.")
    ] = None,
    problem: Annotated[
        str | None,
        Parameter(group=problem_group, help="Problem factory: file.py:name, package.module:name, or a project's name."),
    ] = None,
    project: Annotated[
        Path | None, Parameter(group=problem_group, help="Folder of the pyproject.toml that names problems.")
    ] = None,
    device: Annotated[str, Parameter(group=problem_group, help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[
        Literal["float32", "float64"] | None, Parameter(group=problem_group, help="Precision.  [default: the model's]")
    ] = None,
    batch_size: Annotated[
        int | None, Parameter(group=problem_group, help="Evaluate at most so many samples at a time.")
    ] = None,
    allow_code_execution: Annotated[
        bool,
        _flag(problem_group, "Unpickle files that run code. Only for files you trust."),
    ] = False,
    out: Annotated[
        Path | None,
        Parameter(name=["-o", "--out"], group=output_group, help="The record.  [default: CHECKPOINT.landscape.h5]"),
    ] = None,
    overwrite: Annotated[bool, _flag(output_group, "Replace a record of another request.")] = False,
    append: Annotated[bool, _flag(output_group, "Add to a record.")] = False,
    as_json: Annotated[bool, _flag(output_group, "Print JSON, not tables.", name="--json")] = False,
    debug: Annotated[bool, _flag(output_group, "Show the traceback of an error.")] = False,
) -> int:
    """Measure, store and show; see HELP."""
    from landscape.measure import Source
    from landscape.measure import probe as run
    from landscape.measurements import HessianEigenpairs, Loss

    source = Source(problem, project, device, dtype, batch_size, allow_code_execution)
    measurements: list[Measurement] = [Loss()]
    if hessian or crosscheck:
        measurements.append(HessianEigenpairs(k, which, tol, seed, max_products, eigenvectors))
    if crosscheck and which != "LM":
        raise InputError(
            f"PyHessian finds eigenvalues of largest magnitude only: --crosscheck needs --which LM, not {which}"
        )
    command = shlex.join(["landscape-probe", *sys.argv[1:]])
    result = run(checkpoints, measurements, out, source=source, overwrite=overwrite, append=append, command=command)
    peers = [_crosscheck(row, source, k, seed) for row in result.rows] if crosscheck else []
    if as_json:
        _print_json(result, measurements, peers)
    else:
        _print_tables(result, measurements, peers)
    return EXIT_NOT_CONVERGED if any(row.shortfalls for row in result.rows) else EXIT_DONE


def _print_tables(result: Result, measurements: Sequence[Measurement], peers: Sequence[CrossCheck]) -> None:
    console = Console(highlight=False)
    for row, peer in zip_longest(result.rows, peers):
        step = "" if row.step is None else f", step {row.step}"
        console.print(f"\n[bold]{row.path}[/]{step}")
        for note in row.notes:
            console.print(f"  note: {note}", style="dim")
        for measurement in measurements:
            for item in measurement.show(row.data[measurement.name]):
                console.print(item)
        if peer is not None:
            console.print(_crosscheck_table(row.data["hessian"], peer))
        for line in row.shortfalls:
            console.print(f"NOT CONVERGED: {line}", style="bold red")
    stored = "measured" if result.measured else "was there already, nothing measured"
    console.print(f"\nRecord: {result.path} ({stored})", soft_wrap=True)
    if len(measurements) == 1:
        console.print("Also to be had: --hessian (top eigenvalues of the Hessian); see landscape-probe --help")


def _print_json(result: Result, measurements: Sequence[Measurement], peers: Sequence[CrossCheck]) -> None:
    rows = [
        {
            "checkpoint": {"path": row.path, "step": row.step, "sha256": row.sha256},
            "notes": row.notes,
            "shortfalls": row.shortfalls,
        }
        | {m.name: _plain(row.data[m.name]) for m in measurements}
        | ({} if peer is None else {"pyhessian": peer.plain()})
        for row, peer in zip_longest(result.rows, peers)
    ]
    print(json.dumps({"record": str(result.path), "rows": rows}, indent=1))


def _plain(row: Any) -> dict[str, Any]:
    """The variables of a row that are its numbers; NaN becomes null, which JSON has."""
    left_out = {"step", "path", "sha256", "provenance", "checkpoint"}
    values = {str(name): row[name].values.tolist() for name in row.variables if name not in left_out}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _crosscheck(row: Row, source: Source, k: int, seed: int) -> CrossCheck:
    from landscape.crosscheck import pyhessian_eigenvalues

    return pyhessian_eigenvalues(source.load(row.path), k, seed=seed)


def _crosscheck_table(row: xr.Dataset, peer: CrossCheck) -> Table:
    table = Table("#", "eigenvalue", "residual", "PyHessian", "residual", title="Against PyHessian at its defaults")
    for column in table.columns:
        column.justify = "right"
    ours = zip(row.eigenvalues.values, row.residuals.values, strict=True)
    theirs = zip(peer.eigenvalues, peer.residuals, strict=True)
    for i, ((value, residual), (their_value, their_residual)) in enumerate(zip(ours, theirs, strict=True), 1):
        table.add_row(str(i), f"{value:.6g}", f"{residual:.1e}", f"{their_value:.6g}", f"{their_residual:.1e}")
    seconds = json.loads(str(row.provenance.values))["seconds"]
    table.add_section()
    table.add_row(
        "", f"{int(row.products)} products", f"{seconds:.2f} s", f"{peer.products} products", f"{peer.seconds:.2f} s"
    )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; nothing but an internal error shows a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(app(arguments, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except (InputError, CycloptsError) as error:
        if "--debug" in arguments:
            errors.print_exception()
        errors.print(f"landscape-probe: {_first_line(error)}", markup=False)
        return EXIT_INPUT
    except KeyboardInterrupt:
        errors.print("landscape-probe: interrupted; what was finished is kept, the same command goes on from there")
        return EXIT_INTERRUPTED
    except _Terminated:
        errors.print("landscape-probe: terminated; what was finished is kept, the same command goes on from there")
        return EXIT_TERMINATED


class _Terminated(BaseException):
    """SIGTERM, as an exception that no handler of ordinary errors catches."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())
