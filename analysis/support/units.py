"""Units of work for several processes. Their results are kept, so a stopped study resumes where it stopped."""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.settings import replace_text


@dataclass(frozen=True)
class Unit:
    """A unit of work: a function and its arguments.

    A kept result is used if the arguments and the code are unchanged. The code is the source of the function and of all
    that it uses of its module, with docstrings and comments.

    Attributes:
        name: name of the kept result; letters, digits, dots and dashes.
        work: function at the top of its module that returns plain values.
        arguments: arguments of the function; their ``repr`` must determine them.
    """

    name: str
    work: Callable[..., Any]
    arguments: dict[str, Any]

    @property
    def request(self) -> str:
        """The function, its arguments and a digest of its code, as text."""
        digest = hashlib.sha256(code_of(self.work).encode()).hexdigest()[:12]
        return f"{self.work.__module__}.{self.work.__qualname__}({self.arguments!r}) as of {digest}"


def code_of(work: Callable[..., Any]) -> str:
    """The source of a function, and of the functions and classes of its module that it names, directly or not."""
    found: dict[str, str] = {}
    waiting: list[Any] = [work]
    while waiting:
        each = waiting.pop()
        if each.__qualname__ in found:
            continue
        found[each.__qualname__] = source = inspect.getsource(each)
        named = (work.__globals__.get(name) for name in re.findall(r"\w+", source))
        waiting += [
            other for other in named if inspect.isroutine(other) or inspect.isclass(other)
            if other.__module__ == work.__module__
        ]  # fmt: skip
    return "".join(source for _, source in sorted(found.items()))


def results_of(units: Sequence[Unit], folder: Path, workers: int, title: str) -> dict[str, Any]:
    """Do the units that aren't done yet, and return all results by the units' names.

    Args:
        units: units with different names, none of which needs the result of another.
        folder: folder of the kept results, a JSON file for each unit.
        workers: number of processes at a time, each with one thread of torch.
        title: title of the progress bar.
    """
    found = {unit.name: kept for unit in units if (kept := _kept(folder, unit)) is not None}
    missing = [unit for unit in units if unit.name not in found]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(title, total=len(units), completed=len(found))
        for unit, result in _worked(missing, workers):
            replace_text(folder / f"{unit.name}.json", json.dumps({"request": unit.request, **result}) + "\n")
            found[unit.name] = result
            progress.advance(bar)
    return {unit.name: found[unit.name]["result"] for unit in units}


def seconds_of(units: Sequence[Unit], folder: Path) -> float:
    """The processor time of all these units, in seconds.

    A training unit counts its whole run, even if another study had trained this run.
    """
    return sum(_seconds(kept) for unit in units if (kept := _kept(folder, unit)) is not None)


def _seconds(kept: dict[str, Any]) -> float:
    training = kept["result"].get("seconds", [])  # for each epoch; see `analysis.support.runs.train_run`
    return max(kept["seconds"], float(sum(training)))


def _worked(units: Sequence[Unit], workers: int) -> Any:
    """Do the units, and yield each unit with its result in the order in which they finish."""
    if workers == 1:
        for unit in units:
            yield unit, _work(unit)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    with ProcessPoolExecutor(workers, context, _end_with_parent, (os.getpid(),)) as pool:
        running = {pool.submit(_work, unit): unit for unit in units}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent(parent: int) -> None:
    """Make a worker process end within seconds if the command is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(unit: Unit) -> dict[str, Any]:
    """Do a unit on one thread, and return its result and its seconds of processor time."""
    import torch

    torch.set_num_threads(1)  # a run's numbers depend on the number of threads, and each process has one core
    started = time.process_time()
    result = unit.work(**unit.arguments)
    return {"result": result, "seconds": time.process_time() - started}


def _kept(folder: Path, unit: Unit) -> dict[str, Any] | None:
    """The kept result of a unit with its seconds; None if there is none, or if its arguments or code have changed."""
    file = folder / f"{unit.name}.json"
    if not file.exists():
        return None
    kept = json.loads(file.read_text())
    return kept if kept["request"] == unit.request else None
