"""``landscape-probe``: from checkpoints to a record and a table."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter, Token
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
  landscape-probe data/looped.pt                          # what is cheap
  landscape-probe data/looped.pt --hessian -k 5 -o 5.h5   # top 5 eigenvalues
  landscape-probe data/single.pt --hessian --which BE     # both ends

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


def _whole(_: type, tokens: Sequence[Token]) -> int:
    """An integer and nothing else: 2.5 eigenpairs are not 2."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a whole number") from error


Whole = Annotated[int, Parameter(converter=_whole)]


@app.default
def probe(
    *checkpoints: Annotated[Path, Parameter(help="Checkpoints of one run, in any order with the options.")],
    hessian: Annotated[bool, _flag(measurements_group, "Top Hessian eigenpairs by Lanczos.")] = False,
    k: Annotated[Whole, Parameter(name=["-k"], group=measurements_group, help="How many eigenpairs.")] = 10,
    which: Annotated[
        Literal["LM", "LA", "SA", "BE"],
        Parameter(group=measurements_group, help="Largest magnitude, largest, smallest, or both ends."),
    ] = "LM",
    tol: Annotated[float, Parameter(group=measurements_group, help="Relative residual to reach.")] = 1e-3,
    max_products: Annotated[
        Whole | None, Parameter(group=measurements_group, help="Stop after so many products.  [default: 500 + 50 k]")
    ] = None,
    eigenvectors: Annotated[
        bool | None, Parameter(group=measurements_group, help="Store them.  [default: if below 1 GB]")
    ] = None,
    seed: Annotated[Whole, Parameter(group=measurements_group, help="Of the random start vectors.")] = 0,
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
        Whole | None, Parameter(group=problem_group, help="Evaluate at most so many samples at a time.")
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
    command: Annotated[str, Parameter(parse=False)],
) -> int:
    """Measure, store and show; see HELP. ``command`` goes into the record."""
    from landscape.crosscheck import check_arguments
    from landscape.measure import Source
    from landscape.measure import probe as run
    from landscape.measurements import HessianEigenpairs, Loss

    source = Source(problem, project, device, dtype, batch_size, allow_code_execution)
    measurements: list[Measurement] = [Loss()]
    if hessian or crosscheck:
        measurements.append(HessianEigenpairs(k, which, tol, seed, max_products, eigenvectors))
    if crosscheck:
        check_arguments(which, device)
    result = run(checkpoints, measurements, out, source=source, overwrite=overwrite, append=append, command=command)
    peers: list[CrossCheck] = []
    try:
        for row in result.rows if crosscheck else ():
            peers.append(_crosscheck(row, source, k, seed))
    finally:  # what was measured is shown, whatever becomes of the peer
        (_print_json if as_json else _print_tables)(result, measurements, peers)
    return EXIT_NOT_CONVERGED if any(row.shortfalls for row in result.rows) else EXIT_DONE


class _Screen(Console):
    """Standard output: what is printed is text, not markup; a line is never wrapped, so that it can be copied."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    def line_of(self, text: str, style: str | None = None) -> None:
        self.print(text, style=style, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Whoever read the output has seen enough; all is stored, and the exit status is as it would be."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_tables(result: Result, measurements: Sequence[Measurement], peers: Sequence[CrossCheck]) -> None:
    screen = _Screen()
    for row, peer in zip_longest(result.rows, peers):
        step = "" if row.step is None else f", step {row.step}"
        screen.line_of(f"\n{row.path}{step}", "bold")
        for note in row.notes:
            screen.line_of(f"note: {note}", "dim")
        for measurement in measurements:
            for item in measurement.show(row.data[measurement.name]):
                screen.print(item, soft_wrap=isinstance(item, str))
        if peer is not None:
            screen.print(_crosscheck_table(row.data["hessian"], peer))
        for line in row.shortfalls:
            screen.line_of(f"NOT CONVERGED: {line}", "bold red")
    stored = "measured" if result.measured else "was there already, nothing measured"
    screen.line_of(f"\nRecord: {result.path} ({stored})")
    if len(measurements) == 1:
        screen.line_of("Also to be had: --hessian (top eigenvalues); see landscape-probe --help")


def _print_json(result: Result, measurements: Sequence[Measurement], peers: Sequence[CrossCheck]) -> None:
    rows = [
        {
            "checkpoint": {"path": row.path, "step": row.step, "sha256": row.sha256},
            "notes": row.notes,
            "shortfalls": row.shortfalls,
        }
        | {m.name: _numbers(row.data[m.name]) for m in measurements}
        | ({} if peer is None else {"pyhessian": peer.plain()})
        for row, peer in zip_longest(result.rows, peers)
    ]
    content = _without_nan({"record": str(result.path), "rows": rows})
    _Screen().line_of(json.dumps(content, indent=1, allow_nan=False))


def _numbers(row: xr.Dataset) -> dict[str, Any]:
    """The variables of a row that were measured."""
    left_out = {"step", "path", "sha256", "provenance", "checkpoint"}
    return {str(name): row[name].values.tolist() for name in row.variables if name not in left_out}


def _without_nan(value: Any) -> Any:
    """NaN and infinity as null, for JSON has neither."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name can hold what the terminal has no letter for
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(arguments)
    except (InputError, CycloptsError) as error:
        if "--debug" in arguments:
            Console(stderr=True).print_exception()
        return _say(" ".join(str(error).split()), EXIT_INPUT)
    except KeyboardInterrupt:
        return _say("interrupted; what was finished is kept, the same command goes on from there", EXIT_INTERRUPTED)
    except _Terminated:
        return _say("terminated; what was finished is kept, the same command goes on from there", EXIT_TERMINATED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: Sequence[str]) -> int:
    function, bound, unparsed = app.parse_args(arguments, exit_on_error=False, print_error=False)
    _refuse_idle(bound.arguments)
    more = {"command": shlex.join(["landscape-probe", *arguments])} if "command" in unparsed else {}
    return int(function(*bound.args, **bound.kwargs, **more) or EXIT_DONE)  # --help and --version return nothing


def _refuse_idle(given: Mapping[str, Any]) -> None:
    """A setting of a measurement that isn't asked for is a measurement forgotten."""
    options = {
        "k": "-k",
        "which": "--which",
        "tol": "--tol",
        "max_products": "--max-products",
        "seed": "--seed",
        "eigenvectors": "--eigenvectors",
    }
    idle = [option for name, option in options.items() if name in given]
    if idle and not given.get("hessian") and not given.get("crosscheck"):
        raise InputError(f"nothing is asked for that has {' and '.join(idle)}: add --hessian")


class _Terminated(BaseException):
    """SIGTERM, as an exception that no handler of ordinary errors catches."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _say(line: str, status: int) -> int:
    print(f"landscape-probe: {line}", file=sys.stderr)
    return status
