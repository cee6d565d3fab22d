"""What both commands do around their work: exit statuses, one line for an error, signals."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TextIO

import psutil
from cyclopts import App, CycloptsError, Parameter, Token
from rich.console import Console

from landscape.errors import InputError, PeerError
from landscape.reporting.deprecation import with_new_names
from landscape.reporting.messages import one_line

_TURN = 3.0  # seconds within which torchrun ends the others of a process that failed
_STARTING = 60.0  # seconds of a process's life in which the others may not have come as far
_LONGEST = 1500  # letters of a message

EXIT_DONE, EXIT_INTERNAL, EXIT_INPUT, EXIT_NOT_CONVERGED = 0, 1, 2, 3

# What ends a command in good order; its exit status is 128 and the signal's number, as shells have it.
_STOPS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal is gone"}


def whole(_: type, tokens: Sequence[Token]) -> int:
    """An integer and nothing else: 2.5 eigenpairs are not 2."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a whole number") from error


Whole = Annotated[int, Parameter(converter=whole)]


def command_app(name: str, usage: str, text: str, epilogue: str) -> App:
    """A command with one default function, its help in plain text.

    Args:
        name: of the command.
        usage: its arguments.
        text: what it is for.
        epilogue: what comes below the options.
    """
    app = App(
        name=name,
        help=text,
        usage=f"Usage: {name} {usage}",
        help_format="plaintext",
        help_epilogue=epilogue,
        version_flags=["--version"],
        version=lambda: version("landscape-probe"),
        help_on_error=False,
    )
    app.register_install_completion_command(name="--install-completion", help="Make the shell complete options.")
    return app


def let_threads_sleep() -> None:
    """Have the threads of OpenMP sleep while they wait, in a process that hasn't loaded torch yet.

    Threads that spin while they wait for one whose core another process has take the time of that core too
    (docs/performance.md, "Beside other processes").
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_command(
    app: App,
    name: str,
    arguments: Sequence[str] | None,
    prepare: Callable[[dict[str, Any], list[str]], dict[str, Any]] = lambda given, parsed: {},
    renamed: Mapping[str, str] = MappingProxyType({}),
    superfluous: Mapping[str, str] = MappingProxyType({}),
    expand: Callable[[Sequence[str]], list[str]] = list,
) -> int:
    """Run a command and return its exit status; nothing but an internal error shows a traceback.

    Args:
        app: the command.
        name: of it, in front of messages.
        arguments: of the command line; None takes those of the process.
        prepare: refuses arguments that don't go together, and gives those that are not the user's own; called with what
            was given by name, and the arguments as they stand.
        renamed: old options with their new names.
        superfluous: switches that do nothing any more, and why.
        expand: makes the arguments that are parsed of those that are given.
    """
    own_process = arguments is None
    arguments, old_names = with_new_names(sys.argv[1:] if arguments is None else arguments, renamed, superfluous)
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # it was closed, and the next file would take its place
            setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name can hold what the terminal has no letter for
    # What is ignored stays so, as nohup wants it; and the interrupt is Python's own.
    handled = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, _stop) for each in handled}

    def say(line: str, status: int, turn: int | None = None) -> int:
        """Print a line, unless another process has said why it ended before this one's turn comes."""
        if _outlives(_turn_length() * (bool(rank_of_process()) if turn is None else turn)):
            try:
                print(f"{name}: {line}", file=sys.stderr)
            except OSError:  # nobody is there to read it, and the status tells
                _discard(sys.stderr)
        return status

    sys.stderr.write("".join(f"{name}: {line}\n" for line in old_names))
    try:
        arguments = expand(arguments)
        function, bound, unparsed = app.parse_args(arguments, exit_on_error=False, print_error=False)
        more = {key: value for key, value in prepare(bound.arguments, arguments).items() if key in unparsed}
        return int(function(*bound.args, **bound.kwargs, **more) or EXIT_DONE)  # --help and --version return nothing
    except (InputError, CycloptsError) as error:
        if "--debug" in arguments:
            Console(stderr=True).print_exception()
        return say(one_line(error, _LONGEST), EXIT_INPUT)
    except PeerError as error:
        if "--debug" in arguments:
            Console(stderr=True).print_exception()
        return say(str(error), EXIT_INTERNAL, 3)  # after the one that it is about
    except (KeyboardInterrupt, _Stopped) as stop:
        number = stop.number if isinstance(stop, _Stopped) else signal.SIGINT
        if (
            own_process
        ):  # an object that the signal cut short in the making may fail when it goes, and Python tell of it
            sys.unraisablehook = lambda _: None
        if isinstance(stop, _Stopped) and rank_of_process():
            return 128 + number
        return say(
            f"{_STOPS[number]}; finished results are kept, and the same command continues from them", 128 + number
        )
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def printing() -> Iterator[None]:
    """Print within this block, where the reader may be gone or the disk full. Stored results are kept in either case.

    Raises:
        InputError: the output was to be stored, and its disk is full.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough; the exit status is as it would be
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        if error.errno == errno.EIO:  # so is a terminal that is gone
            return
        raise InputError(f"the output cannot be written ({error.strerror}); stored results are kept") from error


def _discard(stream: TextIO) -> None:
    """Send to nowhere what a stream still holds, or Python fails at the end once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def rank_of_process() -> int | None:
    """The number of this process among those that torchrun started; None if it was started by itself."""
    rank = os.environ.get("RANK")
    return None if rank is None or os.environ.get("WORLD_SIZE") == "1" else int(rank)


def _turn_length() -> float:
    """The seconds that others get to say something first: as long as this process took to come so far, on a start."""
    age = time.time() - psutil.Process().create_time()
    return age if _TURN < age < _STARTING else _TURN


def _outlives(seconds: float) -> bool:
    """Whether nobody ends this process within some seconds, as torchrun does when another one has failed."""
    try:
        time.sleep(seconds)
    except _Stopped:
        return False
    return True


class _Stopped(BaseException):
    """A signal that ends the command, as an exception that no handler of ordinary errors catches."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: object) -> None:
    raise _Stopped(signal.Signals(number))
