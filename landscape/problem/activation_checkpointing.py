"""Blocks that make their activations again in the backward pass (`torch.utils.checkpoint`), evaluated as plain ones.

A block is made again when the parameters that were put in for one evaluation are gone: from the model's own, silently,
so that a derivative at any other point would be of another function. Its activations are kept instead, which the
memory that is counted includes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import checkpoint

from landscape.errors import InputError

_PATCHED = ("_checkpoint_without_reentrant_generator", "CheckpointFunction")
if not all(hasattr(checkpoint, name) for name in _PATCHED):  # derivatives would be wrong without a word
    raise InputError(
        f"torch {torch.__version__} runs checkpointed blocks in another way than landscape-probe knows "
        f"(torch.utils.checkpoint has not both of {', '.join(_PATCHED)}): use the torch of constraints.txt"
    )


def _without_hooks(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In place of what `checkpoint.checkpoint` runs before and after the block."""
    yield


class _Plain:
    @staticmethod
    def apply(block: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return block(*args)


PLAIN = _without_hooks, _Plain
"""The implementation that runs a block as if it weren't checkpointed, for both kinds of checkpointing."""


def implementation() -> tuple[Any, Any]:
    """How torch runs checkpointed blocks now, a part for each of the two kinds."""
    return checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction


def set_implementation(parts: tuple[Any, Any]) -> None:
    """Have torch run checkpointed blocks in another way, in all threads."""
    torchs: Any = checkpoint
    torchs._checkpoint_without_reentrant_generator, torchs.CheckpointFunction = parts
