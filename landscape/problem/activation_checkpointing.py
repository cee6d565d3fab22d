"""Evaluation of checkpointed blocks (`torch.utils.checkpoint`) as plain blocks, which keep their activations.

A checkpointed block recomputes its activations in the backward pass. By then the parameters that were put in for one
evaluation are gone, and the block would silently recompute with the model's own parameters. A derivative at any other
point would then be that of another function. So each block keeps its activations instead. The memory that is counted
includes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import checkpoint

from landscape.errors import InputError

_PATCHED = ("_checkpoint_without_reentrant_generator", "CheckpointFunction")
if not all(hasattr(checkpoint, name) for name in _PATCHED):  # or derivatives would silently be wrong
    raise InputError(
        f"torch {torch.__version__} runs checkpointed blocks in a way that landscape-probe doesn't know "
        f"(torch.utils.checkpoint lacks {' or '.join(_PATCHED)}): use the torch of constraints.txt"
    )


def _without_hooks(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Do nothing before and after the block, where `checkpoint.checkpoint` would save and recompute."""
    yield


class _Plain:
    @staticmethod
    def apply(block: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return block(*args)


PLAIN = _without_hooks, _Plain
"""The implementation that runs a block as if it weren't checkpointed, for both kinds of checkpointing."""


def implementation() -> tuple[Any, Any]:
    """Torch's present implementation of checkpointed blocks: the non-reentrant and the reentrant part."""
    return checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction


def set_implementation(parts: tuple[Any, Any]) -> None:
    """Replace torch's implementation of checkpointed blocks (both parts), in all threads."""
    module: Any = checkpoint
    module._checkpoint_without_reentrant_generator, module.CheckpointFunction = parts
