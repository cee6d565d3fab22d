"""Options from a TOML file (``--config run.toml``): each key is an option's name without the dashes in front.

    checkpoints = ["step-100.pt", "step-200.pt"]
    hessian = true
    k = 20
    direction = ["top", "filter"]

The file's options become arguments of the command line, so that both are read by one parser. An option that the command
line has too is taken from there. The record's command has the options of the file, and not the file's name.
"""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landscape.cli import options
from landscape.errors import InputError

OPTION = "--config"


def with_config(arguments: Sequence[str]) -> list[str]:
    """Put the options of the file that ``--config`` names in the place of ``--config``.

    Args:
        arguments: the arguments of the command line.

    Raises:
        InputError: no file is named, the file can't be read as TOML, or a key is no option.
    """
    path, others = _config_in(arguments)
    if path is None:
        return list(arguments)
    given = {argument.partition("=")[0] for argument in others}
    added: list[str] = []
    for key, value in _table(path).items():
        if key == "checkpoints":
            added += [str(each) for each in (value if isinstance(value, list) else [value])]
            continue
        names = _names(key, path)
        if not given.intersection(names):
            added += _arguments(names, value, f"{path}: {key}")
    return [*others, *added]


def _config_in(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that ``--config`` names, and the other arguments."""
    path, others = None, list[str]()
    rest = iter(arguments)
    for argument in rest:
        option, sign, value = argument.partition("=")
        if option != OPTION:
            others.append(argument)
            continue
        name = value if sign else next(rest, "")
        if not name or path is not None:
            raise InputError(f"{OPTION} takes one file of options, such as {OPTION} run.toml")
        path = Path(name)
    return path, others


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a TOML file of options") from error
    except ValueError as error:  # no TOML, or no text
        raise InputError(f"{path}: is not a TOML file of options ({error}); correct the file") from error


def _names(key: str, path: Path) -> list[str]:
    """The names of the option that a key stands for."""
    known = {name.lstrip("-"): names for names in map(_option_names, options.parameters()) for name in names}
    known.pop(OPTION.lstrip("-"))
    name = key.replace("_", "-")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "landscape-probe --help lists the options"
        raise InputError(f"{path}: {key!r} is not an option; {hint}")
    return known[name]


def _option_names(parameter: inspect.Parameter) -> list[str]:
    declared = parameter.annotation.__metadata__[-1].name
    names = list(declared or [options.option_name(parameter.name)])
    if parameter.name == "eigenvectors":
        names.append("--no-eigenvectors")
    return names


def _arguments(names: list[str], value: Any, where: str) -> list[str]:
    """An option as the command line has it."""
    option = names[0]
    if isinstance(value, bool):
        off = [name for name in names if name.startswith("--no-")]
        return [option] if value else off
    if isinstance(value, list):
        return [argument for each in value for argument in _arguments(names, each, where)]
    if not isinstance(value, str | int | float):
        raise InputError(f"{where} is a {type(value).__name__}; an option takes text, a number, true, false or a list")
    return [option, str(value)]
