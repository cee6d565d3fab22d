"""What both commands do around their work: exit statuses, one line for an error, signals."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, Token
from rich.console import Console

from landscape.errors import InputError, PeerError
from landscape.wording import one_line

_TURN = 3.0  # seconds within which torchrun ends the others of a process that failed
_LONGEST = 1500  # letters of a message

EXIT_DONE, EXIT_INTERNAL, EXIT_INPUT, EXIT_NOT_CONVERGED, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 3, 130, 143


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
    return App(
        name=name,
        help=text,
        usage=f"Usage: {name} {usage}",
        help_format="plaintext",
        help_epilogue=epilogue,
        version_flags=["--version"],
        version=lambda: version("landscape-probe"),
        help_on_error=False,
    )


def run_command(
    app: App,
    name: str,
    arguments: Sequence[str] | None,
    prepare: Callable[[dict[str, Any], list[str]], dict[str, Any]] = lambda given, parsed: {},
) -> int:
    """Run a command and return its exit status; nothing but an internal error shows a traceback.

    Args:
        app: the command.
        name: of it, in front of messages.
        arguments: of the command line; None takes those of the process.
        prepare: refuses arguments that don't go together, and gives those that are not the user's own; called with what
            was given by name, and the arguments as they stand.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name can hold what the terminal has no letter for
    before = signal.signal(signal.SIGTERM, _terminate)

    def say(line: str, status: int, turn: int | None = None) -> int:
        """Print a line, unless another process has said why it ended before this one's turn comes."""
        if _outlives(_TURN * (bool(rank_of_process()) if turn is None else turn)):
            print(f"{name}: {line}", file=sys.stderr)
        return status

    try:
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
    except KeyboardInterrupt:
        return say("interrupted; what was finished is kept, the same command goes on from there", EXIT_INTERRUPTED)
    except _Terminated:
        if rank_of_process():
            return EXIT_TERMINATED
        return say("terminated; what was finished is kept, the same command goes on from there", EXIT_TERMINATED)
    finally:
        signal.signal(signal.SIGTERM, before)


def rank_of_process() -> int | None:
    """The number of this process among those that torchrun started; None if it was started by itself."""
    rank = os.environ.get("RANK")
    return None if rank is None or os.environ.get("WORLD_SIZE") == "1" else int(rank)


def _outlives(seconds: float) -> bool:
    """Whether nobody ends this process within some seconds, as torchrun does when another one has failed."""
    try:
        time.sleep(seconds)
    except _Terminated:
        return False
    return True


class _Terminated(BaseException):
    """SIGTERM, as an exception that no handler of ordinary errors catches."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated
