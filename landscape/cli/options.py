"""The options of ``landscape-probe``: how each is called, and what ``--help`` says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from landscape.cli.running import Whole

MEASUREMENTS = Group("Measurements", sort_key=1)
MATRIX = Group("Which matrix they are of", sort_key=2)
SETTINGS = Group("Settings of measurements", sort_key=3)
PROBLEM = Group("Problem", sort_key=4)
OUTPUT = Group("Output", sort_key=5)


def _flag(group: Group, text: str, *names: str) -> Parameter:
    """An option that is there or not."""
    return Parameter(name=names or None, group=group, help=text, negative="", show_default=False)


def _of(group: Group, text: str, *names: str) -> Parameter:
    """An option with a value."""
    return Parameter(name=names or None, group=group, help=text)


Checkpoints = Annotated[Path, Parameter(help="Checkpoints of one run, in any order with the options.")]

TopEigenpairs = Annotated[bool, _flag(MEASUREMENTS, "Top eigenpairs by Lanczos.", "--hessian", "--eigenpairs")]
Density = Annotated[bool, _flag(MEASUREMENTS, "Spectral density by Lanczos quadrature.")]
Trace = Annotated[bool, _flag(MEASUREMENTS, "Trace and Frobenius norm.")]
LogDet = Annotated[float | None, _of(MEASUREMENTS, "log det(A + ALPHA I).")]
EffectiveDimension = Annotated[float | None, _of(MEASUREMENTS, "Sum of l / (l + ALPHA) over eigenvalues l > 0.")]
Spectrum = Annotated[bool, _flag(MEASUREMENTS, "All eigenvalues, up to 10,000 parameters.")]
PerLayer = Annotated[bool, _flag(MEASUREMENTS, "Top eigenvalue and trace of every layer.")]
Loops = Annotated[bool, _flag(MEASUREMENTS, "A looped module: tied against untied weights.")]
Slice = Annotated[
    list[Literal["1d", "2d"]] | None,
    Parameter(name="--slice", group=MEASUREMENTS, help="The loss along lines, over a plane.", negative=""),
]
Valley = Annotated[bool, _flag(MEASUREMENTS, "The valley's shape, U or V, by three tests.")]
Samples = Annotated[bool, _flag(MEASUREMENTS, "Every sample's losses; when it is learnt.")]
Dynamics = Annotated[bool, _flag(MEASUREMENTS, "Of a run: entropy, stability, phases.")]
Hops = Annotated[bool, _flag(MEASUREMENTS, "Of a run with every step kept: valley hopping.")]
SelfCheck = Annotated[bool, _flag(MEASUREMENTS, "Products held to each other and to differences.")]
CrossCheck = Annotated[Literal["pyhessian"] | None, _of(MEASUREMENTS, "Run a peer too.")]

Kind = Annotated[
    Literal["hessian", "bfloat16", "differences", "ggn", "fisher", "fisher-mc", "fisher-empirical"],
    _of(MATRIX, "", "--matrix"),
]
FisherUnit = Annotated[Literal["term", "sequence"], _of(MATRIX, "What a score is of.")]
FisherSamples = Annotated[Whole, _of(MATRIX, "Labels sampled a term, for fisher-mc.")]
Precondition = Annotated[str | None, _of(MATRIX, "By adam (the checkpoint's), or a file of a diagonal.")]
Params = Annotated[
    list[str] | None, Parameter(group=MATRIX, help="Only these: a glob or module; repeat for more.", negative="")
]

K = Annotated[Whole, _of(SETTINGS, "How many eigenpairs.", "-k")]
Which = Annotated[Literal["LM", "LA", "SA", "BE"], _of(SETTINGS, "Largest magnitude, largest, smallest, both ends.")]
Tol = Annotated[float, _of(SETTINGS, "Relative residual to reach.")]
TolValue = Annotated[float | None, _of(SETTINGS, "Certify eigenvalues to this accuracy instead.")]
TolTrace = Annotated[float | None, _of(SETTINGS, "Error to reach with probes (95 %, relative).")]
Probes = Annotated[Whole | None, _of(SETTINGS, "So many random probes.  [default: by the error]")]
Steps = Annotated[Whole, _of(SETTINGS, "Lanczos steps a probe.")]
MaxProducts = Annotated[Whole | None, _of(SETTINGS, "Stop after about so many products.")]
Eigenvectors = Annotated[bool | None, _of(SETTINGS, "Store them.  [default: if below 1 GB]")]
Direction = Annotated[
    list[str] | None,
    Parameter(
        name="--direction",
        group=SETTINGS,
        help="filter layer gaussian top bottom gradient pca or a file",
        negative="",
    ),
]
Points = Annotated[Whole | None, _of(SETTINGS, "Of an axis.  [default: 51, 25 x 25, 41]")]
Reach = Annotated[float | None, _of(SETTINGS, "Half of an axis.  [default: as the loss rises]")]
GroupBy = Annotated[str | None, _of(SETTINGS, "Groups of samples.  [default: by itself]")]
Subset = Annotated[Whole | None, _of(SETTINGS, "Slices on so many samples.  [default: all]")]
Buffers = Annotated[
    Literal["interpolate", "keep", "re-estimate"],
    Parameter(
        group=SETTINGS,
        help="Interpolate, keep or re-estimate them along slices.",
        show_choices=False,
        show_default=False,
    ),
]
Adaptive = Annotated[float | None, _of(SETTINGS, "A plane's error by its range.  [default: no error]")]
At = Annotated[
    list[Whole] | None,
    Parameter(name="--at", group=SETTINGS, help="Slices, valleys at this step alone (-1: last).", negative=""),
]
LoopModule = Annotated[str | None, _of(SETTINGS, "The looped module.  [default: found by itself]")]
Seed = Annotated[Whole, _of(SETTINGS, "Of all random vectors.")]

ProblemName = Annotated[str | None, _of(PROBLEM, "file.py:name, package.module:name, or a project's.")]
Project = Annotated[Path | None, _of(PROBLEM, "Folder of the pyproject.toml that names problems.")]
Data = Annotated[Path | None, _of(PROBLEM, "Of a checkpoint that brings its model.")]
LossName = Annotated[Literal["cross-entropy", "mse", "bce"] | None, _of(PROBLEM, "Its loss.", "--loss")]
Length = Annotated[Whole | None, _of(PROBLEM, "Tokens of a sequence.  [default: 128]")]
WeightDecay = Annotated[float | None, _of(PROBLEM, "W of W/2 |theta|^2, added to the loss.")]
Weights = Annotated[str | None, _of(PROBLEM, "Where in a file weights lie: ema, a.b.")]
StripPrefix = Annotated[str | None, _of(PROBLEM, "Keep the names with this prefix, and cut it.")]
StepFrom = Annotated[str | None, _of(PROBLEM, "The step: name, epoch, or keys in the file.")]
Device = Annotated[str, _of(PROBLEM, "auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[Literal["float32", "float64"] | None, _of(PROBLEM, "Precision.")]
BatchSize = Annotated[Whole | None, _of(PROBLEM, "Evaluate at most so many samples at a time.")]
Compiling = Annotated[Literal["auto", "on", "off"], _of(PROBLEM, "Products.", "--compile")]
Memory = Annotated[str | None, _of(PROBLEM, "Beyond model and data, such as 8GB.")]
AllowCode = Annotated[bool, _flag(PROBLEM, "Unpickle files you trust that run code.")]

Out = Annotated[Path | None, _of(OUTPUT, "The record.  [default: CHECKPOINT.landscape.h5]", "-o", "--out")]
Overwrite = Annotated[bool, _flag(OUTPUT, "Measure anew and replace the record.")]
Append = Annotated[bool, _flag(OUTPUT, "Add to a record.")]
Merge = Annotated[bool, _flag(OUTPUT, "Join records into one, and measure nothing.")]
AsJson = Annotated[bool, _flag(OUTPUT, "Print JSON, not tables.", "--json")]
Debug = Annotated[bool, _flag(OUTPUT, "Show the traceback of an error.")]
