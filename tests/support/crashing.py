"""Runs of the command that can be killed: a process that imports everything once and forks a child for each run.

The process reads one JSON object a line. ``folder`` and ``arguments`` describe the run. With ``watched`` the writer's
calls are counted, and their number is written into the file ``calls`` beside the folder. Then ``signal`` is the signal
that ends the child at the writer's call number ``at``, before this call or, with ``after``, after it. ``full`` is the
number of the call from which on the disk is full. The process answers with the child's process id and, when the child
has ended, with the child's exit status.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import torch

import landscape
from landscape import measurements
from landscape.cli.probe import main

IMPORTED = (h5netcdf, landscape, measurements)

# All calls by which the writer uses the disk. A child can be ended before or after any of them.
CALLS = [
    (os, name) for name in ("mkdir", "replace", "unlink", "rmdir", "fsync", "posix_fallocate", "truncate", "open")
] + [(h5py.File, "close"), (h5py.Group, "create_group"), (h5py.Group, "create_dataset"), (h5py.Dataset, "__setitem__")]

TAKES_SPACE = {"mkdir", "replace", "fsync", "posix_fallocate", "create_group", "create_dataset", "__setitem__"}


def watched(job: dict[str, Any], calls: Path) -> None:
    """Count the writer's calls, and end the process or fail with a full disk at the job's call."""
    number = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal number
            number += 1
            here, before = number == job.get("at"), not job.get("after")
            if number >= job.get("full", math.inf) and function.__name__ in TAKES_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if here and before:
                os.kill(os.getpid(), job["signal"])
            result = function(*given, **named)
            if here and not before:
                os.kill(os.getpid(), job["signal"])
            calls.write_bytes(str(number).encode())
            return result

        return call

    for owner, name in CALLS:
        setattr(owner, name, wrap(getattr(owner, name)))


def child(job: dict[str, Any]) -> int:
    """Run the job's command in a forked process, and return its exit status."""
    os.chdir(job["folder"])
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    if job.get("watched"):
        watched(job, Path("../calls").resolve())
    sys.argv[1:] = job["arguments"]
    status = main()
    sys.stdout.flush()
    return status


def serve() -> None:
    """Read and do jobs until the input ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore SIGINT in background processes
    print("ready", flush=True)
    for line in sys.stdin:
        if (process := os.fork()) == 0:
            status = 1
            try:
                status = child(json.loads(line))
            finally:
                os._exit(status)
        print(process, flush=True)
        _, ended = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    serve()
