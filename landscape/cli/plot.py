"""``landscape-plot``: from records to figures."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from landscape.cli.running import EXIT_DONE, Whole, command_app, printing, run_command
from landscape.errors import InputError
from landscape.measurements import BUILT_IN
from landscape.reporting.messages import cause, one_line, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from landscape.figures import FigureStyle, RecordView
    from landscape.figures.groups import GroupIdentity
    from landscape.figures.style import StyleName

FIGURES = (*(figure for measurement in BUILT_IN for figure in measurement.figures), "summary", "groups")
FORMS = ("pdf", "svg", "png")
HELP = "Draw figures from the records of landscape-probe. Nothing is measured."

EPILOGUE = """Examples:
  landscape-plot looped.landscape.h5                       # all its figures
  landscape-plot looped.landscape.h5 --figure summary      # one page
  landscape-plot single.h5 looped.h5 --figure slices-2d -o figures --format png
  landscape-plot --group single='single-*.h5' --group looped='looped-*.h5'
"""

Records = Annotated[Path, Parameter(help="Records, finished or not; several are overlaid or side by side.")]
Figures = Annotated[
    list[str] | None,
    Parameter(
        name="--figure",
        help=f"{', '.join(FIGURES)}; repeat for more.  [default: all that the records have]",
        negative="",
    ),
]
Groups = Annotated[
    list[str] | None,
    Parameter(
        name="--group",
        help="NAME=PATTERN, the records of a group of runs; repeat for more. Draws the figure groups.",
        negative="",
    ),
]
Scalars = Annotated[
    list[str] | None,
    Parameter(
        name="--scalar",
        help="Scalar of the figure groups, such as loss/loss or 'trace/*'; repeat for more.  [default: the main ones]",
        negative="",
    ),
]
Out = Annotated[Path, Parameter(name=["-o", "--out"], help="Folder of the files, or the file of a single figure.")]
Form = Annotated[
    Literal["pdf", "svg", "png"] | None,
    Parameter(name="--format", help="Kind of file.  [default: by the name of the file, else pdf]"),
]
Style = Annotated[Literal["paper", "talk", "notebook"], Parameter(help="Size of the letters.")]
Width = Annotated[str | None, Parameter(help="Width: column, text or inches.  [default: by the figure]")]
Kind = Annotated[Literal["contour", "filled", "surface"], Parameter(help="How a plane is drawn.")]
Scale = Annotated[Literal["linear", "log"], Parameter(help="Scale of a plane's loss.")]
Step = Annotated[Whole | None, Parameter(help="Training step of the checkpoint.  [default: the last]")]
Matrices = Annotated[
    list[str] | None,
    Parameter(
        name="--matrix",
        help="Matrix, such as ggn; repeat to compare.  [default: hessian]",
        negative="",
    ),
]
Labels = Annotated[
    list[str] | None, Parameter(name="--label", help="A record's name in legends; one for each record.", negative="")
]
Debug = Annotated[bool, Parameter(help="Show the traceback of an error.", negative="", show_default=False)]

app = command_app("landscape-plot", "RECORD... [OPTIONS]", HELP, EPILOGUE)


@app.default
def plot(
    *records: Records,
    figures: Figures = None,
    group: Groups = None,
    scalar: Scalars = None,
    out: Out = Path(),
    form: Form = None,
    style: Style = "paper",
    width: Width = None,
    kind: Kind = "filled",
    scale: Scale = "log",
    step: Step = None,
    matrix: Matrices = None,
    label: Labels = None,
    debug: Debug = False,
) -> int:
    """Draw; see HELP."""
    from landscape.figures import HESSIAN, FigureStyle, RecordView, distinguished, rendered

    alone, ending = _form(out, form)
    look = FigureStyle(style, _inches(width), kind, scale, step)
    if group:
        alien = {"records": records, "--label": label, "--matrix": matrix, "--step": step}
        if given := [name for name, value in alien.items() if value not in (None, ())]:
            raise InputError(f"--group is not combined with {', '.join(given)}: give records in groups alone")
        if figures not in (None, ["groups"]):
            raise InputError(f"--group draws the figure groups alone, not {', '.join(figures or ())}")
        return _plot_groups(group, scalar, look, out, alone, ending)
    if scalar or "groups" in (figures or ()):
        raise InputError(
            "the figure groups needs groups of runs: give --group NAME=PATTERN, such as looped='looped-*.h5'"
        )
    if not records:
        raise InputError("no record given; name at least one file (see --help)")
    if label and len(label) != len(records):
        raise InputError(f"--label: {len(records)} records need {len(records)} labels, and {len(label)} are given")
    names: Sequence[str | None] = label or [None] * len(records)
    shown = distinguished(
        [
            RecordView.read(path, name, each)
            for path, name in zip(records, names, strict=True)
            for each in matrix or [HESSIAN]
        ]
    )
    with _noted(style):
        drawn = _drawn(figures, shown, look)
        if alone and len(drawn) > 1:
            raise InputError(
                f"{out} is one file, and there are {len(drawn)} figures: name one figure (--figure), or a folder (-o)"
            )
        contents = {
            out if alone else out / f"{_stem(shown)}-{name}.{ending}": rendered(figure, ending, shown)
            for name, figure in drawn.items()
        }
    return _write(contents)


@contextmanager
def _noted(style: StyleName) -> Iterator[None]:
    """Set a style within the block, and print what matplotlib warns of in lines of their own."""
    from landscape.figures import styled

    with styled(style), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)  # of one library to another, and nothing to the reader
        yield
    for line in dict.fromkeys(str(each.message) for each in told):
        print(f"landscape-plot: note: {one_line(line)}", file=sys.stderr)


def _write(contents: Mapping[Path, bytes]) -> int:
    """Write the files of figures, all of which are drawn, and print their paths."""
    from landscape.figures import write

    for path, content in contents.items():
        write(content, path)
        with printing():
            print(path)
    return EXIT_DONE


def _plot_groups(
    groups: Sequence[str], scalars: Sequence[str] | None, look: FigureStyle, out: Path, alone: bool, ending: str
) -> int:
    """Compare groups of runs, draw the figure groups, and print the summary of the comparison."""
    from landscape.figures import draw_groups, identities_of, rendered
    from landscape.groups import compare_groups

    comparison = compare_groups(_named(groups), scalars or "main")
    shown = identities_of(comparison)
    with _noted(look.style):
        content = rendered(draw_groups(comparison, look), ending, shown)
    status = _write({out if alone else out / f"{_stem(shown)}-groups.{ending}": content})
    with printing():
        for line in comparison.summary:
            print(printable(line))
    return status


def _named(groups: Sequence[str]) -> dict[str, str]:
    """The pattern of each group by its name."""
    named: dict[str, str] = {}
    for each in groups:
        name, sign, pattern = each.partition("=")
        if not (sign and name and pattern):
            raise InputError(f"--group {each}: give a name and a pattern, such as --group looped='runs/looped-*.h5'")
        if name in named:
            raise InputError(f"--group {name} is given twice: give each group once, with a pattern for all its records")
        named[name] = pattern
    return named


def _stem(shown: Sequence[RecordView] | Sequence[GroupIdentity]) -> str:
    """The beginning of a file's name, of the names of the records or groups."""
    return "-vs-".join(re.sub(r"[^\w.-]+", "-", each.label).strip("-") for each in shown)


def _form(out: Path, form: str | None) -> tuple[bool, str]:
    """Whether the output is one file rather than a folder, and the kind of file."""
    ending = out.suffix.removeprefix(".").lower()
    if ending not in FORMS or out.is_dir():
        return False, form or "pdf"
    if form not in (None, ending):
        raise InputError(f"{out} ends in .{ending}, and --format is {form}: leave out --format, or change the ending")
    return True, ending


def _drawn(asked: Sequence[str] | None, shown: Sequence[RecordView], look: FigureStyle) -> dict[str, Figure]:
    """The figures asked for; else all that can be drawn, with a line for one that the numbers don't allow."""
    from landscape.figures import available

    if asked:
        return {name: _draw(name, shown, look) for name in dict.fromkeys(asked)}
    found, reasons = {}, {}
    for name in available(shown):
        try:
            found[name] = _draw(name, shown, look)
        except InputError as error:
            reasons[name] = error
    if not found:
        raise next(iter(reasons.values()))
    for name, reason in reasons.items():
        print(f"landscape-plot: left out {name}: {one_line(reason)}", file=sys.stderr)
    return found


def _draw(name: str, shown: Sequence[RecordView], look: FigureStyle) -> Figure:
    from landscape.figures import draw

    try:
        return draw(name, shown, look)
    except InputError:
        raise
    except Exception as error:  # a record can have anything where numbers belong
        records = ", ".join(record.label for record in shown)
        raise InputError(
            f"{name} can't be drawn from {records} ({cause(error)}): the record isn't as landscape-probe wrote it, or "
            "landscape-plot has an error (--debug shows where)"
        ) from error


def _inches(width: str | None) -> float | None:
    """A width in inches, by its name or as a number."""
    from landscape.figures import WIDTHS

    if width is None or width in WIDTHS:
        return None if width is None else WIDTHS[width]
    try:
        inches = float(width)
    except ValueError:
        inches = 0.0
    if not 1 <= inches <= 40:
        raise InputError(f"--width must be {', '.join(WIDTHS)} or 1 to 40 inches, not {width}")
    return inches


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(app, "landscape-plot", arguments)


if __name__ == "__main__":
    sys.exit(main())
