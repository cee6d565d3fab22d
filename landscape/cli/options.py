"""The options of ``landscape-probe``: the value that each takes, its default, and what ``--help`` says of it.

The options that ask for measurements are those that the measurements declare; see `landscape.measurements.Flag`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from landscape.cli.running import Whole
from landscape.curvature.kinds import names as kinds
from landscape.measurements import BUILT_IN, Flag, Measurement, of_other_packages
from landscape.reporting.deprecation import APPENDED

RENAMED = {"--tol-trace": "--tol-estimate"}
SUPERFLUOUS = {"--append": APPENDED}
MEASUREMENTS = Group("Measurements", sort_key=1)
MATRIX = Group("Which matrix they are of", sort_key=2)
SETTINGS = Group("Settings of measurements", sort_key=3)
PROBLEM = Group("Problem", sort_key=4)
OUTPUT = Group("Output", sort_key=5)


Checkpoints = Annotated[Path, Parameter(help="Checkpoints of one run, in any order with the options.")]


def _option(
    group: Group, name: str, kind: Any, default: Any, text: str, names: Iterable[str] = (), **how: Any
) -> inspect.Parameter:
    """A parameter of the command; of a list or a switch, without the option that empties it or switches it off."""
    if kind is bool:
        how |= {"negative": "", "show_default": False}
    elif default is None and "list" in str(kind):
        how |= {"negative": ""}
    annotation = Annotated[kind, Parameter(name=tuple(names) or None, group=group, help=text, **how)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def flags() -> dict[str, list[Flag]]:
    """The flags that the measurements of this package declare, by parameter."""
    found: dict[str, list[Flag]] = {}
    for measurement in BUILT_IN:
        if measurement.flag is not None:
            found.setdefault(measurement.flag.parameter, []).append(measurement.flag)
    return found


def _kind(declared: list[Flag]) -> Any:
    """The type of the value of an option that these flags share."""
    words = tuple(each.choice for each in declared if each.choice is not None)
    if words:
        return list[Literal[words]] | None  # type: ignore[valid-type]
    if declared[0].sets is None:
        return bool
    return Whole | None if declared[0].whole else float | None


def _measurements() -> list[inspect.Parameter]:
    made = []
    for parameter, declared in flags().items():
        first, kind = declared[0], _kind(declared)
        default = False if kind is bool else None
        made.append(_option(MEASUREMENTS, parameter, kind, default, first.help, first.names))
    for parameter, entry in of_other_packages().items():
        package = entry.dist.name if entry.dist else entry.value
        made.append(_option(MEASUREMENTS, parameter, bool, False, f"See {package}."))
    return made


def parameters() -> list[inspect.Parameter]:
    """Every option, in the order in which ``--help`` shows them."""
    text, whole, number, path = str | None, Whole | None, float | None, Path | None
    return [
        *_measurements(),
        _option(MEASUREMENTS, "crosscheck", Literal["pyhessian"] | None, None, "Compare with a peer."),
        _option(MATRIX, "kind", Literal[tuple(kinds())], "hessian", "", ["--matrix"]),
        _option(MATRIX, "fisher_unit", Literal["term", "sequence"], "term", "Unit of a score."),
        _option(MATRIX, "fisher_samples", Whole, 1, "Labels that fisher-mc draws for a term."),
        _option(MATRIX, "precondition", text, None, "adam (the checkpoint's), or a file with a diagonal."),
        _option(MATRIX, "params", list[str] | None, None, "Vary only parameters of these names (globs)."),
        _option(SETTINGS, "k", Whole, 10, "Number of eigenpairs, or of outliers.", ["-k"]),
        _option(SETTINGS, "which", Literal["LM", "LA", "SA", "BE"], "LM",
                "Largest |l|, largest (sharpness), smallest, both ends."),
        _option(SETTINGS, "tol", float, 1e-3, "Relative residual to reach."),
        _option(SETTINGS, "tol_value", number, None, "Relative accuracy to certify eigenvalues to, instead."),
        _option(SETTINGS, "tol_estimate", number, None, "Relative error to reach by probes (95 %)."),
        _option(SETTINGS, "probes", whole, None, "Number of random probes.  [default: by the error]"),
        _option(SETTINGS, "steps", Whole, 100, "Lanczos steps for each probe."),
        _option(SETTINGS, "max_products", whole, None, "Stop after about this many products."),
        _option(SETTINGS, "eigenvectors", bool | None, None, "Store eigenvectors.  [default: if below 1 GB]"),
        _option(SETTINGS, "loop_module", text, None, "Name of the looped module.  [default: found]"),
        _option(SETTINGS, "directions", list[str] | None, None,
                "filter layer gaussian top bottom gradient pca, a file", ["--direction"]),
        _option(SETTINGS, "points", whole, None, "Points on an axis.  [default: 51, 25 x 25, 41]"),
        _option(SETTINGS, "reach", number, None, "Length of half an axis.  [default: by the loss]"),
        _option(SETTINGS, "group_by", text, None, "Group samples by this.  [default: by the data]"),
        _option(SETTINGS, "subset", whole, None, "Number of samples for slices.  [default: all]"),
        _option(SETTINGS, "buffers", Literal["interpolate", "keep", "re-estimate"], "interpolate",
                "Buffers of slices: interpolate, keep, re-estimate.", show_choices=False,
                show_default=False),
        _option(SETTINGS, "adaptive", number, None, "Error of a plane by its range, for fewer points."),
        _option(SETTINGS, "at", list[Whole] | None, None, "Slices and valleys only at this step (-1: last)."),
        _option(SETTINGS, "seed", Whole, 0, "Seed of all random numbers."),
        _option(PROBLEM, "problem", text, None, "file.py:name, package.module:name, or a project's."),
        _option(PROBLEM, "project", path, None, "Folder of the pyproject.toml that names problems."),
        _option(PROBLEM, "data", path, None, "Data for a checkpoint that brings its model."),
        _option(PROBLEM, "loss", Literal["cross-entropy", "mse", "bce"] | None, None, "Its loss."),
        _option(PROBLEM, "length", whole, None, "Tokens of a sequence.  [default: 128]"),
        _option(PROBLEM, "weight_decay", number, None, "Add W/2 |theta|^2 to the loss, with this W."),
        _option(PROBLEM, "weights", text, None, "Key of the weights in the file: ema, a.b."),
        _option(PROBLEM, "strip_prefix", text, None, "Keep the names with this prefix, and cut it."),
        _option(PROBLEM, "step_from", text, None, "Source of the step: name, epoch, keys."),
        _option(PROBLEM, "device", str, "auto", "Device: auto, cpu, cuda or cuda:N."),
        _option(PROBLEM, "dtype", Literal["float32", "float64"] | None, None, "Precision."),
        _option(PROBLEM, "batch_size", whole, None, "Most samples to evaluate at a time."),
        _option(PROBLEM, "compile_products", Literal["auto", "on", "off"], "auto",
                "Compile products: auto, on or off.  [default: auto]", ["--compile"], show_choices=False,
                show_default=False),
        _option(PROBLEM, "memory", text, None, "Memory beyond model and data, such as 8GB."),
        _option(PROBLEM, "allow_code_execution", bool, False, "Unpickle files you trust that run code."),
        _option(OUTPUT, "out", path, None, "The record.  [default: CHECKPOINT.landscape.h5]", ["-o", "--out"]),
        _option(OUTPUT, "overwrite", bool, False, "Measure anew, and replace the record."),
        _option(OUTPUT, "plan", bool, False, "Print products, memory and time, and measure nothing."),
        _option(OUTPUT, "merge", bool, False, "Join records into one, and measure nothing."),
        _option(OUTPUT, "as_json", bool, False, "Print JSON instead of tables.", ["--json"]),
        _option(OUTPUT, "config", path, None, "Take options from a TOML file, such as k = 5."),
        _option(OUTPUT, "debug", bool, False, "Show the traceback of an error."),
    ]  # fmt: skip


def signature() -> inspect.Signature:
    """The command's parameters: the checkpoints, the options, and the command line as it goes into the record."""
    line = Annotated[str, Parameter(parse=False)]
    return inspect.Signature(
        [
            inspect.Parameter("checkpoints", inspect.Parameter.VAR_POSITIONAL, annotation=Checkpoints),
            *parameters(),
            inspect.Parameter("command", inspect.Parameter.KEYWORD_ONLY, annotation=line),
        ]
    )


def defaults() -> dict[str, Any]:
    """The value of every option that isn't given."""
    return {each.name: each.default for each in parameters()}


def measurements() -> list[str]:
    """The parameters that ask for a measurement."""
    return [*flags(), *of_other_packages(), "crosscheck"]


def option_name(parameter: str) -> str:
    """How a parameter is given on the command line."""
    names = {each.name: each.annotation.__metadata__[-1].name for each in parameters()}[parameter]
    return str(names[0]) if names else "--" + parameter.replace("_", "-")


def users(parameter: str, measurements: Iterable[type[Measurement]]) -> list[str]:
    """The parameters of the measurements that a setting is of."""
    found = []
    for each in measurements:
        if each.flag is not None and (
            parameter in each.setting_names()
            or (parameter in _OF_MATRICES and "matrix" in each.setting_names())
            or (parameter in ("compile_products", "memory") and each.makes_products)
            or (parameter == "at" and each.selective)
        ):
            found.append(each.flag.parameter)
    return sorted(dict.fromkeys(found), key=lambda user: user != "eigenpairs")  # what most people mean comes first


_OF_MATRICES = ("kind", "fisher_unit", "fisher_samples", "precondition")
