"""Read the user's own files. The sha256 of a file's content detects a change between two reads."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from landscape.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def digest_of(path: str) -> str:
    """The sha256 of a file's content.

    Raises:
        InputError: the file can't be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def read_vector(path: str, digest: str | None) -> Tensor:
    """The vector in a file of NumPy (.npy) or of torch.

    Args:
        path: path of the file.
        digest: expected sha256 of the content; None for any content.

    Raises:
        InputError: the file can't be read, its content has changed, or it holds no vector that can be read without
            running code.
    """
    import torch

    content = _read(path)
    refuse_changed(path, digest, hashlib.sha256(content).hexdigest())
    file, numpy = io.BytesIO(content), path.endswith(".npy")
    try:
        return torch.as_tensor(np.load(file) if numpy else torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # NumPy and torch raise many types for a file of another format
        raise InputError(
            f"{path} holds no vector that can be read without running code: save one array (numpy.save to NAME.npy) "
            f"or one tensor (torch.save){'' if numpy else ', and a name without .npy is read as a tensor'}"
        ) from error


def refuse_changed(path: str, before: str | None, now: str) -> None:
    """Raise InputError if a file's digest differs from an earlier one; an earlier digest of None matches any."""
    if before not in (None, now):
        raise InputError(f"{path} changed while it was in use; run again")


def _read(path: str) -> bytes:
    if Path(path).exists() and not Path(path).is_file():  # reading a pipe or a device may never end
        raise InputError(f"{path} is not a regular file; name a regular file")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
