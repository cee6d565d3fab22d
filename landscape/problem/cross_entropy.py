"""Cross-entropy over a large vocabulary, twice differentiable, without the copies of the logits that torch keeps.

With p = softmax(z) the loss of row i is log sum exp z_i - z_i[t_i]. For a cotangent g the derivative of the loss is
r_i = g_i (p_i - e[t_i]). The derivative of v^T r is g_i p_i (v_i - p_i^T v_i) by z_i and p_i^T v_i - v_i[t_i] by g_i.
All derivatives are computed from z, one block of rows at a time. Beside z and the result, memory holds only one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import get_proxy_mode

CLASSES = 1024
"""Fewest classes for which the loss is computed in chunks, as for a vocabulary."""
_BLOCK_BYTES = {"cpu": 1 << 22}  # a block that stays in a cache
_LARGE_BLOCK = 1 << 28  # on other devices: large enough to be worth an operation


def large(loss: nn.Module, logits: Any, target: Any) -> bool:
    """Whether a loss is the plain cross-entropy of class indices into a large vocabulary.

    False while a program is traced: its compiler makes blocks of its own. False under transforms of `torch.func`: they
    would need other rules.
    """
    return (
        type(loss) is nn.CrossEntropyLoss
        and isinstance(logits, Tensor)
        and isinstance(target, Tensor)
        and loss.weight is None
        and not loss.label_smoothing
        and not target.is_floating_point()
        and logits.ndim > 1
        and logits.shape[1] >= CLASSES
        and get_proxy_mode() is None
        and not torch._C._are_functorch_transforms_active()
    )


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Losses (n, ...) of `torch.nn.functional.cross_entropy` for class indices, without reduction.

    Args:
        logits: logits z, (n, classes, ...).
        target: class indices t, (n, ...).
        ignore_index: the target whose loss is 0.
    """
    rows = logits.movedim(1, -1).flatten(0, -2)
    target = target.flatten().long()  # indices may be bytes
    kept = target != ignore_index
    losses: Tensor = _Losses.apply(rows, torch.where(kept, target, 0))
    return torch.where(kept, losses, 0).view(logits.shape[0], *logits.shape[2:])


def _blocks(rows: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK_BYTES.get(rows.device.type, _LARGE_BLOCK) // (rows.shape[1] * rows.element_size()))
    return (slice(start, start + size) for start in range(0, len(rows), size))


def _softmax(rows: Tensor, most: Tensor, logarithm: Tensor) -> Tensor:
    """Softmax of rows z, from each row's largest logit and the logarithm of sum exp(z - largest logit)."""
    return rows.sub(most[:, None]).sub_(logarithm[:, None]).exp_()


class _Losses(torch.autograd.Function):
    """Map logits (n, classes) and targets (n,) to losses (n,)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        largest = rows.amax(1)
        sums = [(rows[block] - largest[block, None]).exp_().sum(1) for block in _blocks(rows)]
        logarithm = torch.cat(sums).log_()
        ctx.save_for_backward(rows, places, largest, logarithm)
        return logarithm - (rows.gather(1, places[:, None])[:, 0] - largest)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return _Residuals.apply(*ctx.saved_tensors, *cotangents), None


class _Residuals(torch.autograd.Function):
    """Map logits, targets and a cotangent g (n,) to the derivative r (n, classes)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, most: Tensor, logarithm: Tensor, cotangent: Tensor) -> Tensor:
        ctx.save_for_backward(rows, places, most, logarithm, cotangent)
        residuals = torch.empty_like(rows)
        for block in _blocks(rows):
            softmax = _softmax(rows[block], most[block], logarithm[block])
            torch.mul(softmax, cotangent[block, None], out=residuals[block])
        return residuals.scatter_add_(1, places[:, None], -cotangent[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        rows, places, largest, logarithm, cotangent = ctx.saved_tensors
        mean = torch.empty_like(cotangent)
        by_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        for block in _blocks(rows):
            softmax = _softmax(rows[block], largest[block], logarithm[block])
            mean[block] = (softmax * v[block]).sum(1)
            if by_rows is not None:
                torch.sub(v[block], mean[block, None], out=by_rows[block])
                by_rows[block].mul_(softmax).mul_(cotangent[block, None])
        return by_rows, None, None, None, mean - v.gather(1, places[:, None])[:, 0]
