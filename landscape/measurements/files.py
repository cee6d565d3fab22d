"""Files that a user brings along, known by their content: read again they must be the same."""

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
        InputError: it can't be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def read_vector(path: str, digest: str | None) -> Tensor:
    """The vector in a file of NumPy's (.npy) or torch's.

    Args:
        path: the file.
        digest: what its content has to be; None where that isn't settled yet.

    Raises:
        InputError: it can't be read or is another one than it was; there is no vector in it, or none that can be had
            without running code.
    """
    import torch

    content = _read(path)
    refuse_changed(path, digest, hashlib.sha256(content).hexdigest())
    file, numpy = io.BytesIO(content), path.endswith(".npy")
    try:
        return torch.as_tensor(np.load(file) if numpy else torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # NumPy and torch raise all kinds for a file that isn't theirs
        raise InputError(
            f"{path} holds no vector that can be read without running code: it is to be one array (numpy.save to "
            f"NAME.npy) or one tensor (torch.save){'' if numpy else ', and a name without .npy is read as a tensor'}"
        ) from error


def refuse_changed(path: str, before: str | None, now: str) -> None:
    """Raise InputError where a file's digest was settled and is another one now."""
    if before not in (None, now):
        raise InputError(f"{path} changed while it was in use; run again")


def _read(path: str) -> bytes:
    if Path(path).exists() and not Path(path).is_file():  # a pipe or a device may never come to an end
        raise InputError(f"{path} is not a regular file; name one")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
