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
MATRIX = Group("Matrix to measure", sort_key=2)
SETTINGS = Group("Settings of measurements", sort_key=3)
PROBLEM = Group("Problem", sort_key=4)
OUTPUT = Group("Output", sort_key=5)


Checkpoints = Annotated[Path, Parameter(help="Checkpoints of one run, before or after the options.")]


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
        _option(MEASUREMENTS, "crosscheck", Literal["pyhessian"] | None, None, "Compare with another tool."),
        _option(MATRIX, "kind", Literal[tuple(kinds())], "hessian", "", ["--matrix"]),
        _option(MATRIX, "fisher_unit", Literal["term", "sequence"], "term", "One Fisher score for each of these."),
        _option(MATRIX, "fisher_samples", Whole, 1, "Labels drawn for each term by fisher-mc."),
        _option(MATRIX, "precondition", text, None, "Preconditioner: adam, or a file with its diagonal."),
        _option(MATRIX, "params", list[str] | None, None, "Vary only parameters with these names (globs)."),
        _option(SETTINGS, "k", Whole, 10, "Number of eigenpairs, or of outliers.", ["-k"]),
        _option(SETTINGS, "which", Literal["LM", "LA", "SA", "BE"], "LM",
                "Largest |l|, largest (sharpness), smallest, both ends."),
        _option(SETTINGS, "tol", float, 1e-3, "Goal for relative residuals."),
        _option(SETTINGS, "tol_value", number, None, "Goal for certified relative errors of eigenvalues."),
        _option(SETTINGS, "tol_estimate", number, None, "Goal for relative errors of random probes (95 %)."),
        _option(SETTINGS, "probes", whole, None, "Number of probes.  [default: by the measurement]"),
        _option(SETTINGS, "update", text, None, "Critical step: optimizer, next, gradient, a file."),
        _option(SETTINGS, "other_data", text, None, "Critical sharpness on the data of this factory too."),
        _option(SETTINGS, "steps", Whole, 100, "Steps of Lanczos, or of an ascent."),
        _option(SETTINGS, "max_products", whole, None, "Stop after about this many products."),
        _option(SETTINGS, "eigenvectors", bool | None, None, "Store eigenvectors.  [default: if below 1 GB]"),
        _option(SETTINGS, "loop_module", text, None, "Name of the looped module.  [default: detected]"),
        _option(SETTINGS, "directions", list[str] | None, None,
                "filter layer gaussian top bottom gradient pca, a file", ["--direction"]),
        _option(SETTINGS, "points", whole, None, "Points per axis.  [default: 51, plane 25, valley 41]"),
        _option(SETTINGS, "reach", number, None, "Half the length of an axis.  [default: from the loss]"),
        _option(SETTINGS, "radii", list[float] | None, None, "Radii of a neighbourhood.  [default: 0.001 to 0.1]"),
        _option(SETTINGS, "group_by", text, None, "Annotation that groups samples.  [default: the first]"),
        _option(SETTINGS, "subset", whole, None, "Number of samples for slices.  [default: all]"),
        _option(SETTINGS, "buffers", Literal["interpolate", "keep", "re-estimate"], "interpolate",
                "Buffers of slices: interpolate, keep, re-estimate.", show_choices=False, show_default=False),
        _option(SETTINGS, "adaptive", number, None, "Interpolate a plane to this error (share of range)."),
        _option(SETTINGS, "at", list[Whole] | None, None, "Steps that get slices, valleys and rises (-1: last)."),
        _option(SETTINGS, "seed", Whole, 0, "Seed of all random numbers."),
        _option(PROBLEM, "problem", text, None, "Factory: file.py:name, package.module:name or name."),
        _option(PROBLEM, "project", path, None, "Folder of the pyproject.toml that names problems."),
        _option(PROBLEM, "data", path, None, "Data for a checkpoint that brings its model."),
        _option(PROBLEM, "loss", Literal["cross-entropy", "mse", "bce"] | None, None, "Loss for --data."),
        _option(PROBLEM, "length", whole, None, "Number of tokens in a sequence.  [default: 128]"),
        _option(PROBLEM, "weight_decay", number, None, "Add W/2 |theta|^2 to the loss, with this W."),
        _option(PROBLEM, "weights", text, None, "Key of the weights in the file, such as ema or a.b."),
        _option(PROBLEM, "strip_prefix", text, None, "Keep weights with this prefix, and cut the prefix."),
        _option(PROBLEM, "step_from", text, None, "Take the step from: name, epoch or other keys."),
        _option(PROBLEM, "device", str, "auto", "Device: auto, cpu, cuda or cuda:N."),
        _option(PROBLEM, "dtype", Literal["float32", "float64"] | None, None, "Precision."),
        _option(PROBLEM, "batch_size", whole, None, "Largest number of samples to evaluate at a time."),
        _option(PROBLEM, "compile_products", Literal["auto", "on", "off"], "auto",
                "Compile products: auto, on or off.  [default: auto]", ["--compile"], show_choices=False,
                show_default=False),
        _option(PROBLEM, "memory", text, None, "Memory allowed beyond model and data, such as 8GB."),
        _option(PROBLEM, "allow_code_execution", bool, False, "Unpickle files that can run code, if you trust them."),
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
