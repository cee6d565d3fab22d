"""Loggers, CSV, Python's logging and the table get the numbers of the rows."""

from __future__ import annotations

import csv
import io
import logging

import pytest
from rich.console import Console

import landscape
from landscape.live.table import LiveTable
from tests.live.trainings import TRAININGS

TRAINING = TRAININGS["dropout"]


class _Log:
    def __init__(self):
        self.seen = []

    def log(self, numbers, step):
        self.seen.append((step, numbers))


class _Board:
    def __init__(self):
        self.seen = []

    def add_scalar(self, name, value, step):
        self.seen.append((step, name, value))


def test_every_kind_of_logger_gets_every_number(tmp_path, caplog):
    logs, board, called = _Log(), _Board(), []
    logger = logging.getLogger("of a test")
    path = tmp_path / "numbers.csv"
    with caplog.at_level(logging.INFO, logger="of a test"):
        TRAINING.run(
            4,
            instruments=[landscape.live.every(2, "loss")],
            log_to=[logs, board, logger, path, lambda *each: called.append(each)],
        )
    assert [step for step, _ in logs.seen] == [0, 2]
    first = logs.seen[0][1]
    assert {"loss/loss", "loss/standard_error", "loss/gradient_norm"} <= first.keys()
    one_by_one = [(step, name, value) for step, numbers in logs.seen for name, value in numbers.items()]
    assert board.seen == one_by_one
    assert called == [(dict(numbers), step) for step, numbers in logs.seen]
    with path.open() as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "name", "value"]
    assert [(int(step), name, float(value)) for step, name, value in rows] == one_by_one
    (told, *_) = (each.getMessage() for each in caplog.records if each.name == "of a test")
    assert told.startswith("step 0: loss/loss ")


def test_a_csv_file_without_its_folder_is_refused(tmp_path):
    with pytest.raises(landscape.InputError, match="there is no folder"):
        TRAINING.run(1, log_to=tmp_path / "none" / "numbers.csv")


def test_a_logger_that_fails_gets_no_more_numbers_and_the_training_goes_on(tmp_path, caplog):
    calls, others = [], []

    def full(numbers, step):
        calls.append(step)
        raise OSError("no space left")

    training = TRAININGS["dropout"]
    instruments = [landscape.live.every(1, "loss")]
    alone = training.run(5)
    watched = training.run(5, instruments=instruments, log_to=[full, lambda numbers, step: others.append(step)])
    assert watched.losses == alone.losses
    assert calls == [0]
    assert others == [0, 1, 2, 3, 4]
    assert [line for line in caplog.messages if "gets no more" in line] == [
        "step 0: a logger gets no more numbers: OSError: no space left"
    ]
    with pytest.raises(OSError, match="no space left"):
        training.run(5, instruments=instruments, log_to=full, on_error="raise")


def test_the_table_shows_the_latest_numbers():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    table = LiveTable(console)
    table({"loss/loss": 2.0, "trace/trace": 5.0}, 3)
    table({"loss/loss": 1.5}, 7)
    table.close()
    Console(file=(plain := io.StringIO()), width=80).print(table.table())
    lines = [line for line in plain.getvalue().splitlines() if "/" in line]
    assert [line.replace("│", " ").split() for line in lines] == [
        ["loss/loss", "7", "1.5", "2"],
        ["trace/trace", "3", "5"],
    ]
    assert "loss/loss" in console.file.getvalue()


def test_a_watch_with_a_table_draws_it(capfd):
    TRAINING.run(2, instruments=[landscape.live.every(1, "loss")], table=True).watch.close()
    assert "loss/gradient_norm" in capfd.readouterr().err
