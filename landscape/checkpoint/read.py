"""Read a checkpoint of any usual format."""

import os
from dataclasses import replace
from pathlib import Path

from landscape.checkpoint.contents import load_pickled, load_safetensors
from landscape.checkpoint.files import digest, identity, shards_of
from landscape.checkpoint.layout import AS_USUAL, Layout, Where, find_layout
from landscape.checkpoint.recognise import recognise
from landscape.checkpoint.sharded import Sharded, is_sharded
from landscape.checkpoint.store import Checkpoint
from landscape.errors import InputError
from landscape.reporting.messages import cause


def read_checkpoint(path: str | Path, *, allow_code_execution: bool = False, where: Where = AS_USUAL) -> Checkpoint:
    """Read a checkpoint onto the CPU: the weights, and the step, optimizer and other entries stored with them.

    The formats are this package's own, a bare state dict, a training script's dictionary and safetensors. A dictionary
    has its weights under one of ``landscape.checkpoint.layout.WEIGHT_KEYS``. State dicts and dictionaries may be in
    both formats of ``torch.save``, or in a folder of ``torch.distributed.checkpoint``. Safetensors may be one file or a
    folder of shards.

    Args:
        path: Path of the file or folder.
        allow_code_execution: Unpickle objects other than tensors and plain containers, which runs code that the file
            chooses. Only files that hold whole models need it. By default, other objects beside the weights are left
            out.
        where: Where in the file the weights and the step lie; by default under their usual names.

    Returns:
        The checkpoint; its ``notes`` list what was done to read the file.

    Raises:
        InputError: The file does not exist, is of another kind, is damaged, holds no weights, wants to run code that is
            not allowed, or changed while it was read.
    """
    path = Path(path).expanduser()
    try:
        files = shards_of(path) if os.path.isdir(path) else []
        sharded = Sharded(path) if is_sharded(path) and not files else None
        files = sharded.files if sharded else files or [path]
        before = identity(files) if path.exists() else None
        kinds = [] if sharded else [recognise(file) for file in files]
        content: object
        if sharded:
            content, notes = sharded.load()
            layout = _layout(content, path, where)
            layout = replace(layout, format=f"distributed {layout.format}", notes=notes + layout.notes)
        elif set(kinds) == {"safetensors"}:
            state, notes = load_safetensors(files)
            layout = _layout(state, path, where)
            layout = replace(layout, format="safetensors", notes=notes + layout.notes)
        else:
            content, notes = load_pickled(path, kinds[0], allow_code_execution)
            layout = _layout(content, path, where)
            layout = replace(layout, notes=notes + layout.notes)
        sha256 = where.identity(digest(files))  # computed last, because a file that cannot be read may be very long
        unchanged = identity(files) == before
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({cause(error)}); check the path and its permissions") from error
    if not unchanged:
        raise InputError(f"{path}: changed while it was read; wait until the job that writes it has finished")
    return Checkpoint(path=path, sha256=sha256, **vars(layout))


def _layout(content: object, path: Path, where: Where) -> Layout:
    try:
        return find_layout(content, path, where)
    except InputError:
        raise
    except Exception as error:  # an object in a file can have attributes in place of its methods
        raise InputError(
            f"{path}: holds something that cannot be used as a checkpoint ({cause(error)}); save model.state_dict()"
        ) from error
