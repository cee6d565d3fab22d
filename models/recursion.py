"""Repeated application of one layer. Single, looped and staged training differ in the number and gain of passes."""

from collections.abc import Callable

import torch
from torch import Tensor


def apply_repeatedly(
    layer: Callable[[Tensor], Tensor], embedding: Tensor, loops: int, *, injection: bool = False, gain: float = 1.0
) -> Tensor:
    """Apply a layer ``loops`` times: E_1 = layer(E_0), then E_{t+1} = E_t + gain * (layer(E_t) - E_t).

    With a gain of 1, E_{t+1} = layer(E_t). With a gain of 0 the passes after the first do nothing. So a gain that grows
    from 0 to 1 leads from a single pass to all passes without a jump. With input injection (Fan et al. 2024,
    arXiv:2409.15647) the layer is applied to E_t + E_0 instead of E_t in each pass after the first.

    Args:
        layer: map from (batch, position, width) to this shape.
        embedding: embedding E_0, (batch, position, width).
        loops: number of passes, at least 1.
        injection: whether E_0 is added to the layer's input in each pass after the first.
        gain: factor of the change by each pass after the first.
    """
    state = layer(embedding)
    for _ in range(loops - 1):
        left = layer(state + embedding if injection else state)
        state = left if gain == 1 else torch.lerp(state, left, gain)
    return state
