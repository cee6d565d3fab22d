"""What single, looped and staged training differ in: how often one layer is applied, and how far each pass goes."""

from collections.abc import Callable

import torch
from torch import Tensor


def apply_repeatedly(
    layer: Callable[[Tensor], Tensor], embedding: Tensor, loops: int, *, injection: bool = False, gain: float = 1.0
) -> Tensor:
    """Apply a layer ``loops`` times: E_1 = layer(E_0), then E_{t+1} = E_t + gain * (layer(E_t) - E_t).

    With a gain of 1, E_{t+1} = layer(E_t); with 0 the passes after the first do nothing, so that a gain that grows from
    0 to 1 leads from a single pass to all of them without a jump. With input injection (Fan et al. 2024,
    arXiv:2409.15647) each pass after the first sees E_t + E_0 in place of E_t.

    Args:
        layer: (batch, position, width) to the same shape.
        embedding: E_0.
        loops: how often, at least once.
        injection: whether E_0 is added to what each later pass sees.
        gain: how far each pass after the first goes.
    """
    state = layer(embedding)
    for _ in range(loops - 1):
        left = layer(state + embedding if injection else state)
        state = left if gain == 1 else torch.lerp(state, left, gain)
    return state
