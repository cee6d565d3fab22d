"""Memory beyond that of a model and its data: limits, exhaustion, and measured growth."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from landscape.errors import InputError
from landscape.reporting.messages import amount

T = TypeVar("T")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


_NO_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

OVERHEAD = 30_000_000
"""Bytes that a process takes when it first computes: code, and buffers of libraries."""


def bytes_of(text: str) -> int:
    """Parse an amount of memory: ``8GB``, ``500 MB``, ``1.5 GiB`` or a number of bytes.

    Raises:
        InputError: the text is no amount of memory, or too little for a process to compute anything.
    """
    parts = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    try:
        number = float(parts[1]) * _UNITS[(parts[2] or "").lower()] if parts else 0.0
    except ValueError:
        number = 0.0
    if not parts or not 0 < number < math.inf:
        raise InputError(f"{text!r} is no amount of memory; write 8GB, 500MB or 1.5GiB")
    if number < 2 * OVERHEAD:
        raise InputError(f"{text} is too little: a process takes {amount(OVERHEAD)} for itself; allow more memory")
    return int(number)


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: torch's on a GPU, its allocator's on a CPU, or Python's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def in_room(function: Callable[[int], T], samples: int, otherwise: T) -> T:
    """Call a function with a number of samples, and halve the number whenever memory runs out.

    Args:
        function: function of the number of samples.
        samples: first number of samples.
        otherwise: result where memory doesn't suffice for one sample.
    """
    while samples:
        try:
            return function(samples)
        except Exception as error:
            if not ran_out(error):
                raise
            samples //= 2
    return otherwise


def half_of_memory(device: torch.device) -> int:
    """Half of the device's total memory in bytes.

    The total, unlike the free memory, doesn't depend on the moment. Processes that torchrun has started on one machine
    each have an equal part of its CPU memory.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2
    return psutil.virtual_memory().total // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class Growth:
    """Growth of memory since the object was made: of a GPU, or of the process on a CPU under Linux."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif _CLEAR.exists():
            _CLEAR.write_text("5")  # resets the peak VmHWM (proc(5))
            self._before = _resident("VmRSS")

    def now(self) -> float:
        """Bytes in use now, above those at the start; NaN where memory can't be measured."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device) - self._before
        return _resident("VmRSS") - self._before if _CLEAR.exists() else float("nan")

    def most(self) -> float:
        """Peak of the bytes in use since the start, above those at the start; NaN where memory can't be measured."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _resident("VmHWM") - self._before if _CLEAR.exists() else float("nan")


def _resident(field: str) -> int:
    """Resident bytes of the process: the present number (VmRSS) or the peak (VmHWM)."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
