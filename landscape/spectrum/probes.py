"""Random probes of stochastic estimators, each of which depends on its seed and its number alone.

Probe i of a seed is the same vector whatever the number of probes, the size of the blocks they are used in and the
device. Two checkpoints of one run measured with one seed are therefore measured with the same probes ("common random
numbers"), and what differs between them is the checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.operator import SymmetricOperator

Kind = Literal["rademacher", "gaussian"]


def probe(dim: int, seed: int, index: int, kind: Kind = "rademacher") -> Tensor:
    """Probe number ``index`` of a seed: independent entries of mean 0 and variance 1.

    The stream is the counter-based generator Philox keyed with (seed, index) (Salmon, Moraes, Dror and Shaw 2011), so
    no two probes share any of it. Krylov sequences start from torch's Mersenne Twister: with the same seed they are
    independent of the probes.

    Args:
        dim: length n.
        seed: 0 to 2^63 - 1.
        index: 0, 1, 2, ...
        kind: ``rademacher``, +1 or -1 with equal chance, or ``gaussian``.

    Returns:
        (n,) float64, on the CPU.

    Raises:
        InputError: an argument is out of range.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2^63 - 1, not {seed}")
    if index < 0:
        raise InputError(f"probes are numbered from 0, there is none with number {index}")
    if kind not in get_args(Kind):
        raise InputError(f"probes are {' or '.join(get_args(Kind))}, not {kind!r}")
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    if kind == "gaussian":
        return torch.from_numpy(generator.standard_normal(dim))
    return torch.from_numpy(2 * generator.integers(0, 2, dim, dtype=np.int8) - 1).to(torch.float64)


def probe_block(operator: SymmetricOperator, seed: int, indices: Iterable[int], kind: Kind = "rademacher") -> Tensor:
    """Probes as the columns of an (n, m) block on the operator's device and of its dtype; see `probe`."""
    return torch.stack([probe(operator.dim, seed, i, kind).to(operator.device, operator.dtype) for i in indices], dim=1)
