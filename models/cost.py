"""A counter of floating-point operations."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count the floating-point operations of all matrix products in a block; a multiply-add counts as two.

    Other operations (softmax, normalisation, the optimiser) aren't counted. Attention is computed by plain matrix
    products, since fused kernels aren't counted on every device.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
