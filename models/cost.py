"""Floating-point operations, counted while they are made."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count the operations of all matrix products within, a multiplication and an addition each.

    What isn't a product (softmax, normalisation, the optimiser) isn't counted. Attention is computed as the products it
    stands for, since fused kernels aren't counted on every device.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
