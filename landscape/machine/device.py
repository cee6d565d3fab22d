"""Device and floating-point type of a problem's computations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from landscape.errors import InputError


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain module under wrappers that distribute or compile it: only a plain module takes other parameters.

    Raises:
        InputError: the model isn't a module, or is a module of TorchScript.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        wrapper: Any = model
        model = wrapper._orig_mod if hasattr(wrapper, "_orig_mod") else wrapper.module  # _orig_mod is torch.compile's
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{type(model).__name__} can't be given other parameters; pass the model that was scripted")
    return model


def resolve_device_and_dtype(
    model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the computation: those given, else those of the first trainable parameter."""
    first = next((p for p in model.parameters() if p.requires_grad), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no trainable parameters; set requires_grad on those to probe")
    # Half-precision weights are upcast: rounding would swamp their products.
    return checked_device_and_dtype(
        device or first.device, dtype or (torch.float64 if first.dtype == torch.float64 else torch.float32)
    )


def checked_device_and_dtype(device: torch.device | str, dtype: torch.dtype) -> tuple[torch.device, torch.dtype]:
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"curvature is computed in float32 or float64, not {dtype}")
    return available_device(device), dtype


def available_device(device: torch.device | str) -> torch.device:
    """Find a device by name, check that it works, and give it with its index.

    Raises:
        InputError: the device isn't available.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device} isn't available here ({str(error).splitlines()[0]}); try cpu") from error
