"""Conversion of foreign text (keys of a file, messages of other libraries) for a message of one line."""

import re
from collections.abc import Iterable

from landscape.errors import in_one_line


def printable(text: str) -> str:
    """``text`` with every character spelt out that a terminal would obey, not print; ends of lines stay."""
    return "\n".join(map(in_one_line, text.split("\n")))


def one_line(text: object, limit: int = 300) -> str:
    """`printable` text in one line: each run of white space is one blank, and the middle is cut to ``limit``."""
    return _cut(printable(_cut(" ".join(str(text).split()), limit)), limit)


def _cut(line: str, limit: int) -> str:
    end = limit // 3
    return line if len(line) <= limit else f"{line[: limit - 3 - end]}...{line[-end:]}"


def without_addresses(text: str) -> str:
    """``text`` without the memory addresses of objects, which differ in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 eigenvalue``, ``1,224 eigenvalues``, ``2 batches``."""
    ending = "es" if noun.endswith(("ch", "s", "x")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def amount(size: float) -> str:
    """Bytes as a person reads them: ``32 kB``, ``36 MB``, ``1.2 GB``."""
    unit, digits, name = (1e9, 1, "GB") if size >= 1e9 else (1e6, 0, "MB") if size >= 1e6 else (1e3, 0, "kB")
    return f"{size / unit:.{digits}f} {name}"


def duration(seconds: float) -> str:
    """A time as a person reads it: ``0.4 s``, ``53 s``, ``12 min``, ``2.5 h``."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def listed(names: Iterable[object], limit: int = 4) -> str:
    """The first ``limit`` names, and the number of further names: ``a, b and 7 more``."""
    texts = [one_line(name, 120) for name in names]
    more = len(texts) - limit
    return ", ".join(texts) if more <= 0 else f"{', '.join(texts[:limit])} and {more} more"


def cause(error: BaseException) -> str:
    """The type and message of ``error`` in one line."""
    message = one_line(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
