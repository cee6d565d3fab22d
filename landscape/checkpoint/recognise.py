"""Recognise the kind of a file by its first bytes, with a message of its own for each wrong kind."""

import zipfile
from pathlib import Path
from typing import Literal

from landscape.errors import InputError
from landscape.reporting.messages import amount

Kind = Literal["zip", "pickle", "safetensors"]

_AGAIN = "copy it again or take an earlier checkpoint"

# Times the file's size. torch.save does not compress. A file that somebody compressed passes, and a zip bomb does not.
_MOST_UNPACKED = 10

# In bytes: the format's own bound on its header, which keeps random bytes from passing as a header.
_SAFETENSORS_HEADER_LIMIT = 100_000_000

_WRONG_BEGINNINGS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<!doctype", "is a web page, not a checkpoint; download it again, with its direct address or after logging in"),
    (b"<html", "is a web page, not a checkpoint; download it again, with its direct address or after logging in"),
    (b"\x89hdf\r\n", "is an HDF5 file, not a checkpoint; give the file with the model's weights"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (
        b"gguf",
        "is a quantised model of llama.cpp (GGUF), whose weights have no gradients; give the model from before "
        "the quantisation",
    ),
    (b"\x93numpy", "is a NumPy array, not a checkpoint; save model.state_dict() with torch.save"),
)

_WRONG_SUFFIXES = {
    ".onnx": "is a program of ONNX, which can't be differentiated; give the PyTorch model's weights",
    ".distcp": "is a part of a distributed checkpoint; give its folder",
}


def recognise(path: Path) -> Kind:
    """The container format of the file at ``path``; files that cannot be checkpoints are refused.

    Args:
        path: Path of the file.

    Raises:
        InputError: There is no such file, or it is a folder, empty, cut short, or of another kind.
    """
    _check_file(path)
    if (answer := _WRONG_SUFFIXES.get(path.suffix.lower())) is not None:
        raise InputError(f"{path}: {answer}")
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _check_zip(path)
    start = head.lstrip().lower()
    for beginning, answer in _WRONG_BEGINNINGS:
        if start.startswith(beginning):
            raise InputError(f"{path}: {answer}")
    # Checked before pickles: the length of a 128-byte header begins with 0x80, as pickles do.
    if _is_safetensors(head) or path.suffix == ".safetensors":
        return "safetensors"
    if head.startswith(b"\x80"):
        return "pickle"
    if head.isascii() and not any(byte < 9 for byte in head):
        raise InputError(f"{path}: is a text file, not a checkpoint; give the file with the model's weights")
    raise InputError(
        f"{path}: is not a checkpoint that torch.save or safetensors wrote (unknown first bytes); copy it again"
    )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the checkpoint file in it")
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file; give the file with the model's weights")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty; the job that wrote it was probably cut off, take an earlier checkpoint")


def _check_zip(path: Path) -> Kind:
    """Refuse zip archives that ``torch.save`` did not write, whose pickle is not a state dict's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(record.file_size for record in archive.infolist())
    except Exception as error:  # zipfile raises many types on damaged bytes
        raise InputError(
            f"{path}: is cut short or damaged (a zip archive without a readable directory at its end); {_AGAIN}"
        ) from error
    if unpacked > _MOST_UNPACKED * path.stat().st_size:
        raise InputError(
            f"{path}: is a zip archive that would unpack to {amount(unpacked)}, more than {_MOST_UNPACKED} times its "
            "size; save model.state_dict() with torch.save, which packs nothing"
        )
    if len({name.lower() for name in names}) < len(names):
        raise InputError(f"{path}: is a zip archive with one name twice, which torch.save never writes; {_AGAIN}")
    if any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"{path}: is a TorchScript archive, whose compiled code cannot be differentiated as a model's; "
            "save model.state_dict() of the original model"
        )
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        raise InputError(
            f"{path}: is a zip archive that torch.save did not write; save model.state_dict() with torch.save"
        )
    return "zip"


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER_LIMIT
