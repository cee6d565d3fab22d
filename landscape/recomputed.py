"""Blocks that make their activations again in the backward pass (`torch.utils.checkpoint`), evaluated as plain ones.

A block is made again when the parameters that were put in for one evaluation are gone: from the model's own, silently,
so that a derivative at any other point would be of another function. Its activations are kept instead, which the
memory that is counted includes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint


def _without_hooks(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what `checkpoint.checkpoint` runs before and after the block."""
    yield


class _Plain:
    @staticmethod
    def apply(block: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return block(*args)


_lock = threading.Lock()
_within = 0  # how many evaluations there are, in all threads
_originals = checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction


def _count(change: int) -> None:
    """Put in the plain ones with the first evaluation, and torch's own back after the last."""
    global _within  # noqa: PLW0603 - what is changed is torch's, of which there is one
    with _lock:
        _within += change
        torchs: Any = checkpoint
        now = (_without_hooks, _Plain) if _within else _originals
        torchs._checkpoint_without_reentrant_generator, torchs.CheckpointFunction = now


@contextmanager
def kept() -> Iterator[None]:
    """Within, checkpointed blocks are plain ones, of both kinds; in all threads."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)
