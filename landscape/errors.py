"""The one exception a user of landscape-probe is meant to see."""


class InputError(ValueError):
    """What was given cannot be used.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints it and
    exits with status 2; in Python it is an ordinary ``ValueError``.
    """
