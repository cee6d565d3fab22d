"""The journal of a training run: one line of JSON for each epoch. Interrupted training continues from the journal."""

import json
from pathlib import Path
from typing import Any

from landscape.errors import InputError
from models.settings import replace_text

JOURNAL = "journal.jsonl"


def read_journal(folder: Path, epochs: int | None = None) -> list[dict[str, Any]]:
    """The entries of the first ``epochs`` epochs of a run, or of all epochs.

    An entry has these keys:

    - ``epoch``, counted from 1, and ``step``, the number of steps at its end;
    - ``loss``: mean loss over the epoch's steps, in nats; null if a restart left only a part of these steps;
    - ``loops``, ``gain`` and ``learning_rate`` of the epoch's last step;
    - ``flops``: floating-point operations of the epoch, including the criterion's measurement;
    - ``seconds``: processor time of the epoch, of all threads together;
    - the criterion's measurements and its evidence, as long as it watches;
    - ``switched``: number of epochs before the switch; null before it.

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
    """Replace the whole journal; an interrupt leaves either the old journal or the new one."""
    replace_text(folder / JOURNAL, "".join(json.dumps(entry) + "\n" for entry in entries))
