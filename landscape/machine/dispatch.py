"""A dispatch mode that sees every operation, without importing torch's compiler."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A dispatch mode for code that isn't compiled.

    By default torch keeps its compiler from compiling the code of a mode. For that torch imports the compiler, which
    takes longer than importing torch. Inside `landscape.Problem.evaluating` this isn't needed: compiled parts run
    uncompiled there.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
