"""Bounds that keep short settings from taking unbounded memory or time: numbers of layers, regular expressions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from landscape.errors import InputError
from landscape.reporting.messages import one_line

_MOST_BESIDE, _MOST_TIMES = 10_000, 8  # a model may have 10,000 + 8 times its files' parameter tensors
_SECONDS = 5.0  # to try regular expressions
_SEARCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    print(json.dumps(pattern), flush=True)
    for name in names:
        re.fullmatch(pattern, name), re.match(rf"(.*\\.)?({pattern})$", name)
"""


@contextmanager
def built_within(config: Mapping[str, Any], tensors: int) -> Iterator[None]:
    """Stop building a model that has far more parameter tensors than its files hold.

    Args:
        config: settings of the model.
        tensors: number of tensors in the model's files.

    Raises:
        InputError: the model is too large. The message leaves out the name of the settings file.
    """
    limit, made = _MOST_BESIDE + _MOST_TIMES * tensors, 0
    for name, number in _numbers(config):
        if "layer" in name and number > limit:
            raise InputError(f"has {name} {number:,}, and its files hold {tensors:,} tensors; save the model again")

    def count(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal made
        made += 1
        if made > limit:
            raise InputError(
                f"describes a model of more than {limit:,} parameter tensors, and its files hold {tensors:,}; save the "
                "model again"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _numbers(settings: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in settings, with the key of each."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _numbers(value, str(key))
    elif isinstance(settings, int):
        yield name, settings


def refuse_endless(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse regular expressions that take longer than ``_SECONDS`` on the names of modules.

    Python's ``re`` cannot be given a time limit. Another process therefore tries the expressions.

    Raises:
        InputError: an expression takes too long or is invalid. The message leaves out the name of the settings file.
    """
    if all(re.fullmatch(r"[\w.-]*", pattern) for pattern in patterns):  # plain names, which need no trial
        return
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _SEARCH],
            input=json.dumps([patterns, names]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        pattern = one_line(output.splitlines()[-1] if output else json.dumps(list(patterns)), 80)
        why = f"takes more than {_SECONDS:g} s" if isinstance(error, subprocess.TimeoutExpired) else "can't be used"
        raise InputError(f"the regular expression {pattern} {why} on the names of modules; write the names") from error
