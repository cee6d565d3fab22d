"""Write figures to files: atomically, with equal bytes for equal figures, and with the records' identity inside."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from matplotlib.figure import Figure

from landscape.errors import InputError

Format = Literal["pdf", "svg", "png"]


class Identified(Protocol):
    """A record, or a group of records, that a figure shows; such as a `RecordView`."""

    @property
    def label(self) -> str:
        """Name in the figure's title."""

    @property
    def identity(self) -> dict[str, Any]:
        """Metadata of a figure's file about the record that the figure shows."""


def save(figure: Figure, path: Path, shown: Sequence[Identified]) -> None:
    """Write a figure, with the identity of its records as JSON in the file's metadata.

    Args:
        figure: a figure drawn within `landscape.figures.style.styled`; call this function within that block too.
        path: path of the file, whose ending is the format: pdf, svg or png.
        shown: the records in the figure.

    Raises:
        InputError: the file can't be written; an earlier file of that name is unchanged.
    """
    write(rendered(figure, path.suffix.removeprefix("."), shown), path)


def rendered(figure: Figure, form: str, shown: Sequence[Identified]) -> bytes:
    """Bytes of a figure's file in the format `form`; see `save`."""
    content = io.BytesIO()
    figure.savefig(content, format=form, metadata=metadata(form, shown))
    return content.getvalue()


def write(content: bytes, path: Path) -> None:
    """Write a file atomically: whole or not at all.

    Raises:
        InputError: the file can't be written; an earlier file of that name is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); name another folder with -o") from error
    finally:
        with suppress(OSError):  # the file was renamed, or never created
            temporary.unlink()


def metadata(form: str, shown: Sequence[Identified]) -> dict[str, str | None]:
    """Metadata of a figure's file, by the format's own keys. Without a date, equal figures have equal bytes."""
    identity = json.dumps([each.identity for each in shown], sort_keys=True)
    title = " and ".join(each.label for each in shown)
    match form:
        case "pdf":
            return {"Title": title, "Subject": identity, "Creator": "landscape-plot", "CreationDate": None}
        case "svg":
            return {"Title": title, "Description": identity, "Creator": "landscape-plot", "Date": None}
        case _:
            return {"Title": title, "Description": identity, "Software": "landscape-plot"}
