"""One run at a time writes a record: a lock that ends with its process, and who has it."""

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
    """A locked file that says who writes in its folder.

    The operating system lets go of the lock when its process ends, however it does; what a kill leaves of the file
    keeps nobody out. Nor does anything where the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        """Look at nothing yet."""
        self.path = path
        self._mine: weakref.finalize[[TextIO, Path, int], Hold] | None = None

    @property
    def mine(self) -> bool:
        """Whether it was taken here, and not let go of since."""
        return self._mine is not None and self._mine.alive

    def other(self) -> str | None:
        """Who else writes at the moment; None if nobody does."""
        if self.mine:
            return None
        try:
            file = self.path.open("r+", encoding="utf-8")
        except OSError:
            return None
        with file:
            return None if _locked(file) else _told(file.read())

    def take(self) -> str | None:
        """Keep others out until `release`, making the folder where it isn't there; or say who keeps this run out.

        Raises:
            OSError: the disk doesn't take it.
        """
        while not self.mine:
            self.path.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # whoever held it has just removed the folder; a link is never followed
                file = os.fdopen(
                    os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8"
                )
                if not _locked(file):
                    with file:
                        return _told(file.read())
                if not _is(file, self.path):  # removed between opening and locking it
                    file.close()
                    continue
                self._mine = weakref.finalize(self, _let_go, file, self.path, os.getpid())
                who = {"process": os.getpid(), "host": socket.gethostname()}
                file.truncate()
                json.dump(who | {"since": datetime.now(UTC).isoformat(timespec="seconds")}, file)
                file.flush()
        return None

    def release(self) -> None:
        """Let others in, and remove the folder if there is nothing else in it."""
        if self._mine is not None:
            self._mine()


def _locked(file: TextIO) -> bool:
    """Lock a file, unless another run has; where there are no locks, everybody may have it."""
    for pause in (0, 0.05, 0.1):  # who only looks whether it is locked has it for a moment
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
    except (ValueError, KeyError, TypeError):  # it has only just begun
        return "another run"


def _let_go(file: TextIO, path: Path, process: int) -> None:
    if os.getpid() == process:  # a fork has the file too, but it isn't its own
        for remove in (path.unlink, path.parent.rmdir):
            with suppress(OSError):  # the folder is kept where parts are in it
                remove()
    with suppress(OSError):
        file.close()
