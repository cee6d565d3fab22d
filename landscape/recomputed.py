"""Blocks that make their activations again in the backward pass (`torch.utils.checkpoint`), evaluated as plain ones.

A block is made again when the parameters that were put in for one evaluation are gone: from the model's own, silently,
so that a derivative at any other point would be of another function. Its activations are kept instead, which the
memory that is counted includes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch.utils import checkpoint


def _without_hooks(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what `checkpoint.checkpoint` runs before and after the block."""
    yield


class _Plain:
    @staticmethod
    def apply(block: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return block(*args)


@contextmanager
def kept() -> Iterator[None]:
    """Within, checkpointed blocks are plain ones, of both kinds."""
    with (
        patch.object(checkpoint, "_checkpoint_without_reentrant_generator", _without_hooks),
        patch.object(checkpoint, "CheckpointFunction", _Plain),
    ):
        yield
