"""Modes that see every operation, without torch's compiler."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A dispatch mode for code that nobody compiles.

    Torch keeps its compiler from compiling what a mode does, and imports the compiler for that, which takes longer than
    importing torch. Inside `landscape.Problem.evaluating` compiled parts run as they were written.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
