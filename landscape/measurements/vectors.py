"""Vectors that a user brings in a file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from landscape.errors import InputError


def read_bytes(path: str) -> bytes:
    """What is in a file.

    Raises:
        InputError: it can't be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error


def read_vector(path: str, content: bytes) -> Tensor:
    """The vector in a file of NumPy's (.npy) or torch's, given its content.

    Raises:
        InputError: there is none, or none that can be had without running code.
    """
    file, numpy = io.BytesIO(content), path.endswith(".npy")
    try:
        return torch.as_tensor(np.load(file) if numpy else torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # NumPy and torch raise all kinds for a file that isn't theirs
        raise InputError(
            f"{path} holds no vector that can be read without running code: it is to be one array (numpy.save to "
            f"NAME.npy) or one tensor (torch.save){'' if numpy else ', and a name without .npy is read as a tensor'}"
        ) from error
