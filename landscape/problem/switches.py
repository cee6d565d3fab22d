"""Torch's switches that decide which function a model computes, and whether it can be differentiated twice.

The switches belong to the whole process. `switched` sets them all and restores them all, after exceptions too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.backends import cuda, cudnn, mha

from landscape.problem import activation_checkpointing

_Switch = tuple[Callable[[], Any], Callable[[Any], None]]  # getter and setter


def _stance() -> Any:
    """Torch's stance on compiled functions; None while nothing has been compiled and the compiler isn't imported."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return None if compiler is None else compiler._stance  # no public function reads it


def _set_stance(stance: Any) -> None:
    if stance is not None:
        sys.modules["torch._dynamo.eval_frame"]._set_stance(stance)


def _eager() -> Any:
    """The stance in which compiled functions run uncompiled: compiled functions have no second derivative."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return None if compiler is None else compiler.DynamoStance("force_eager")


def _of(owner: Any, name: str) -> _Switch:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


_SWITCHES: dict[str, _Switch] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "fast path": (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
    "stance": (_stance, _set_stance),
    "flash attention": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    "memory-efficient attention": (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    "cuDNN attention": (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    "math attention": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    "TF32 products": _of(cuda.matmul, "allow_tf32"),
    "TF32 convolutions": _of(cudnn, "allow_tf32"),
    "cuDNN": _of(cudnn, "enabled"),
    "recomputed blocks": (activation_checkpointing.implementation, activation_checkpointing.set_implementation),
}


@contextmanager
def differentiating() -> Iterator[None]:
    """The state in which operations build a graph, inside `torch.no_grad` and `torch.inference_mode` too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


_lock = threading.Lock()
_running: list[dict[str, Any]] = []  # for each running evaluation, in all threads: the switches to restore


def state() -> dict[str, Any]:
    """Present value of every switch, by name."""
    return {name: read() for name, (read, _) in _SWITCHES.items()}


def _set(values: dict[str, Any]) -> None:
    for name, value in values.items():
        _SWITCHES[name][1](value)


@contextmanager
def switched(dtype: torch.dtype, recurrent: bool) -> Iterator[None]:
    """The state in which a model is evaluated and differentiated twice; everything is restored at the end.

    - Attention runs on the math kernel, and recurrent layers without cuDNN: the fused kernels have no double backward.
    - Transformer layers run without their fast path, which computes another function without a graph than with one.
    - float32 products run without TF32, whose 10-bit mantissa would be the largest error of all.
    - Compiled parts run uncompiled, and checkpointed blocks keep their activations.

    Evaluations in several threads share the switches. The last evaluation to end restores the state before the first.

    Args:
        dtype: default type of tensors that the model makes.
        recurrent: whether the model has recurrent layers.
    """
    with _lock:
        before = state()
        _running.append(before)
        attention = {name: name == "math attention" for name in before if name.endswith("attention")}
        off = dict.fromkeys(("fast path", "TF32 products", "TF32 convolutions"), False)
        others = {"default dtype": dtype, "stance": _eager(), "recomputed blocks": activation_checkpointing.PLAIN}
        _set(attention | off | others | ({"cuDNN": False} if recurrent else {}))
    try:
        yield
    finally:
        with _lock:
            place = next(index for index, each in enumerate(_running) if each is before)
            del _running[place]
            if place < len(_running):  # a later evaluation of another thread still runs, and restores this state
                _running[place].update(before)
            else:
                _set(before)
