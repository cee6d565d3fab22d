"""Figures as files: whole or not at all, the same bytes each time, and with what they were drawn from inside."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from landscape.errors import InputError
from landscape.figures.record_view import RecordView

Format = Literal["pdf", "svg", "png"]


def save(figure: Figure, path: Path, shown: Sequence[RecordView]) -> None:
    """Write a figure, with the identity of its records as JSON in the file's metadata.

    Args:
        figure: drawn within `landscape.figures.style.styled`, which this call belongs into too.
        path: its ending says the format: pdf, svg or png.
        shown: the records.

    Raises:
        InputError: the file can't be written; whatever was there before is there still.
    """
    write(rendered(figure, path.suffix.removeprefix("."), shown), path)


def rendered(figure: Figure, form: str, shown: Sequence[RecordView]) -> bytes:
    """The content of a figure's file; see `save`."""
    content = io.BytesIO()
    figure.savefig(content, format=form, metadata=metadata(form, shown))
    return content.getvalue()


def write(content: bytes, path: Path) -> None:
    """Make a file whole or not at all.

    Raises:
        InputError: it can't be written; whatever was there before is there still.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); name another folder with -o") from error
    finally:
        with suppress(OSError):  # it was renamed, or never made
            temporary.unlink()


def metadata(form: str, shown: Sequence[RecordView]) -> dict[str, str | None]:
    """What goes into the file, under the names that its format has; no date, so that equal figures are equal files."""
    told = json.dumps([each.identity for each in shown], sort_keys=True)
    title = " and ".join(each.label for each in shown)
    match form:
        case "pdf":
            return {"Title": title, "Subject": told, "Creator": "landscape-plot", "CreationDate": None}
        case "svg":
            return {"Title": title, "Description": told, "Creator": "landscape-plot", "Date": None}
        case _:
            return {"Title": title, "Description": told, "Software": "landscape-plot"}
