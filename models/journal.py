"""What a run says of each of its epochs: one line of JSON an epoch, from which staged training continues."""

import json
from pathlib import Path
from typing import Any

from landscape.errors import InputError
from models.settings import replace_text

JOURNAL = "journal.jsonl"


def read_journal(folder: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """The entries of a run's first epochs, or of all.

    An entry has ``epoch`` (counted from 1), ``step``, ``loss`` (the mean over the epoch's steps, in nats; null where
    only a part of them was made here), ``loops``, ``gain``, ``learning_rate``, ``flops`` (of the epoch, what the
    criterion measured included), ``seconds`` (of processor time, of all threads together), what was measured for the
    criterion and its evidence, and ``switched``: the number of epochs before the switch, or null.

    Raises:
        InputError: If the file is damaged.
    """
    file = folder / JOURNAL
    try:
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines[:epochs]]
    except (OSError, ValueError) as error:
        raise InputError(f"{file} can't be read as a run's journal; choose another --out") from error


def write_journal(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Replace the journal as a whole, so that an interrupt leaves the old one or the new one."""
    replace_text(folder / JOURNAL, "".join(json.dumps(entry) + "\n" for entry in entries))
