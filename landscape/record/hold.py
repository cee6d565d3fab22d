"""A lock by which one run at a time writes a record; the lock ends with its process, and names this process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO


class Hold:
    """A locked file that names the process which writes in its folder.

    The operating system releases the lock when the process ends, in whatever way. The file that a killed process leaves
    keeps nobody out. On a file system without locks, everybody may write.
    """

    def __init__(self, path: Path) -> None:
        """Store the path; nothing is read or locked yet."""
        self.path = path
        self._mine: weakref.finalize[[TextIO, Path, int], Hold] | None = None

    @property
    def mine(self) -> bool:
        """Whether this object holds the lock."""
        return self._mine is not None and self._mine.alive

    def other(self) -> str | None:
        """Description of another process that holds the lock; None if there is none."""
        if self.mine:
            return None
        try:
            file = self.path.open("r+", encoding="utf-8")
        except OSError:
            return None
        with file:
            return None if _locked(file) else _told(file.read())

    def take(self) -> str | None:
        """Hold the lock until `release`; the folder is made if it is missing.

        Returns:
            None, or a description of another process that holds the lock.

        Raises:
            OSError: the file cannot be written.
        """
        while not self.mine:
            self.path.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # the last holder has just removed the folder; a link is never followed
                file = os.fdopen(
                    os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8"
                )
                if not _locked(file):
                    with file:
                        return _told(file.read())
                if not _is(file, self.path):  # the file was removed between opening and locking it
                    file.close()
                    continue
                self._mine = weakref.finalize(self, _let_go, file, self.path, os.getpid())
                who = {"process": os.getpid(), "host": socket.gethostname()}
                file.truncate()
                json.dump(who | {"since": datetime.now(UTC).isoformat(timespec="seconds")}, file)
                file.flush()
        return None

    def release(self) -> None:
        """Let others in, and remove the folder if it is empty otherwise."""
        if self._mine is not None:
            self._mine()


def _locked(file: TextIO) -> bool:
    """Lock a file unless another run has locked it; True also on a file system without locks."""
    for pause in (0, 0.05, 0.1):  # a run that only checks the lock holds it for a moment
        time.sleep(pause)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError:
            return True
        return True
    return False


def _is(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _told(text: str) -> str:
    try:
        who = json.loads(text)
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):  # the other run has only just begun
        return "another run"


def _let_go(file: TextIO, path: Path, process: int) -> None:
    if os.getpid() == process:  # a forked process has the file too, but doesn't own the lock
        for remove in (path.unlink, path.parent.rmdir):
            with suppress(OSError):  # a folder with parts in it is kept
                remove()
    with suppress(OSError):
        file.close()
