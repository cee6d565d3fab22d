"""Evaluation in float64 throughout, for models that cast to float32 inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from landscape.errors import InputError
from landscape.machine.memory import ran_out
from landscape.reporting.messages import cause

_FEWER_DIGITS = (torch.float32, torch.float16, torch.bfloat16)


class NoFloat64Error(Exception):
    """An operator has no products in float64; the message gives the reason, as the end of a sentence."""


@contextmanager
def widened() -> Iterator[None]:
    """Evaluate in float64: casts of float64 tensors to float32 stay in float64.

    Layers such as RMSNorm, and softmax with a ``dtype``, cast to float32 to have more digits than half precision. In
    float32 such a cast does nothing. So the function without the cast is evaluated in float64 too.
    """
    with _Widening():
        yield


class _Widening(TorchFunctionMode):
    """Replaces float32 by float64 in the arguments of a function of a float64 tensor."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and _is_float64(args[0]):
            func = Tensor.double if func is Tensor.float else func
            args = tuple(map(_wider, args))
            kwargs = {name: _wider(each) for name, each in kwargs.items()}
        return func(*args, **kwargs)


class Rounds(TorchFunctionMode):
    """Records the first function of a float64 evaluation that rounds to fewer digits, if it depends on the parameters.

    Attributes:
        what: name of that function with the type it rounds to, or ``autocast``; None where none was seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.what: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.what is None and isinstance(result, Tensor) and result.requires_grad:
            if torch.is_autocast_enabled(result.device.type):
                self.what = "autocast"
            elif result.dtype in _FEWER_DIGITS and any(map(_is_float64, args)):
                self.what = f"{getattr(func, '__name__', func)} to {str(result.dtype).removeprefix('torch.')}"
        return result


@contextmanager
def only_float64() -> Iterator[None]:
    """Evaluate a model in float64, and refuse a model that can't be evaluated in float64.

    Raises:
        NoFloat64Error: the evaluation raises an error other than running out of memory, or rounds to fewer digits.
    """
    try:
        with Rounds() as rounds:
            yield
    except (InputError, RuntimeError, TypeError) as error:
        if ran_out(error):
            raise
        raise NoFloat64Error(f"the model can't be evaluated in float64 ({cause(error)})") from error
    if rounds.what is not None:
        raise NoFloat64Error(f"the model itself rounds to fewer digits ({rounds.what})")


def _is_float64(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float64


def _wider(value: Any) -> Any:
    """The type float64 for float32; any other value unchanged."""
    return torch.float64 if value is torch.float32 else value


def fast_float64(device: torch.device) -> bool:
    """Whether a device computes in float64 at no less than a quarter of its float32 rate.

    CPUs do. CUDA devices do if their compute capability is 6.0, 7.0, 8.0, 9.0 or 10.0. Other CUDA devices have 1/32 or
    1/64 of the float32 rate (NVIDIA, CUDA C++ Programming Guide, "Arithmetic instructions"). MPS has no float64.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return minor == 0 and major in (6, 7, 8, 9, 10)
    return device.type == "cpu"
