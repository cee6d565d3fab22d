"""Programs of ``torch.export`` (.pt2) as checkpoints that bring their model: no class of the model is needed.

``torch.export.load`` trusts its file: it unpickles constants, evaluates sizes as Python expressions and looks up what a
node calls from ``torch`` on, ``torch.os.system`` included. So an archive is held to what plain models need before it is
loaded: tensors stored as bytes, operators of ATen, and sizes that are arithmetic.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram, unflatten

from landscape.checkpoint import Checkpoint
from landscape.errors import InputError
from landscape.wording import cause, listed, one_line

SUFFIX = ".pt2"
# aten.from_file maps, and may create, a file of any name.
_CALLED = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|cond)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(int|float|max|min|not|ite|sum)"
)
# As SymPy spells an expression out: symbols, whole numbers, and arithmetic of both.
_SIZE = re.compile(
    r"(?:Symbol\('[su]\d+'(?:, \w+=(?:True|False))*\)"
    r"|(?:Integer|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CeilDiv|PythonMod)(?=\()|[su]?\d+|[-+*/(), ])*"
)
_OWN_FUNCTION = "custom_obj_", "opaque_obj_"
_LARGEST_GRAPH = 2**28


def is_program(path: Path) -> bool:
    """Whether a file is called as ``torch.export.save`` has it."""
    return path.suffix == SUFFIX and os.path.isfile(path)  # false for a name too long


def read_program(path: Path) -> Checkpoint:
    """The model that an exported program is, with the modules of the model that was exported.

    Raises:
        InputError: the file is damaged, or does what isn't looked up in a file.
    """
    try:
        content = path.read_bytes()  # once: what was looked at is what is loaded
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({cause(error)}); check the path and its permissions") from error
    try:
        graph = _checked(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(content))
            model = _Program(program)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # damaged bytes raise nearly every type there is
        raise InputError(
            f"{path}: is no program of torch.export, or damaged, or of another version of torch ({cause(error)}); "
            "export it again"
        ) from error
    return Checkpoint(
        path=path,
        state={name: tensor.detach() for name, tensor in model.state_dict().items()},
        format="exported program",
        sha256=hashlib.sha256(content).hexdigest(),
        arguments={"described": graph},
        model=model,
    )


class _Program(nn.Module):
    """An exported program with the names of its inputs.

    Attributes:
        inputs: names of the inputs, in their order.
        by_name: whether they are keyword arguments.
        batch: the one number of samples that it takes; None for any.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = unflatten(program)
        signature = program.graph_signature
        positional, keywords = program.call_spec.in_spec.children()
        if positional.num_leaves and keywords.num_leaves:
            raise InputError("takes positional and keyword arguments: export it with one kind of these")
        self.by_name = keywords.num_leaves > 0
        self.inputs = tuple(keywords.context) if self.by_name else tuple(signature.user_inputs)
        sizes = [
            node.meta["val"].shape[0]
            for node in program.graph.nodes
            if node.op == "placeholder" and node.name in signature.user_inputs and node.meta["val"].ndim
        ]
        self.batch = next((int(size) for size in sizes if isinstance(size, int)), None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.program(*args, **kwargs)


def _checked(content: bytes) -> str:
    """Refuse an archive that does more than a plain model; a digest of its graph."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if packed := [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]:
            raise InputError(f"{listed(packed)} are compressed, as torch.export never writes them")
        if len({entry.filename for entry in entries}) < len(entries):
            raise InputError("has two entries of one name")
        graphs = [entry for entry in entries if re.search(r"(^|/)models/[^/]*\.json$", entry.filename)]
        if len(graphs) != 1:
            raise InputError(f"holds {len(graphs)} programs of torch.export, not one")
        for entry in entries:
            if entry.filename.endswith(".json"):
                if entry.file_size > _LARGEST_GRAPH:
                    raise InputError(f"{one_line(entry.filename, 80)} has {entry.file_size:,} bytes")
                _check_json(json.loads(archive.read(entry)))
            elif re.search(r"/(weights|constants)/[^/]*\.pt$", entry.filename):
                raise InputError("its tensors are pickled, as an older torch did; export it again")
            elif "/sample_inputs/" in entry.filename:
                # Where this fails, torch.export would unpickle it with all that it calls.
                torch.load(io.BytesIO(archive.read(entry)), weights_only=True)
        return hashlib.sha256(archive.read(graphs[0])).hexdigest()


def _check_json(content: Any) -> None:
    for key, value in _items(content):
        if key == "target" and isinstance(value, str) and not _CALLED.fullmatch(value):
            raise InputError(f"calls {one_line(repr(value), 80)}, and only ATen's operators are called from a file")
        if key == "expr_str" and not (isinstance(value, str) and _SIZE.fullmatch(value)):
            raise InputError(f"has the size {one_line(repr(value), 80)}, and only arithmetic is evaluated from a file")
        if key == "use_pickle" and value is not False:
            raise InputError("a tensor in it is pickled, and unpickling it could run code: export plain tensors")
        if key == "path_name" and (not isinstance(value, str) or value.startswith(_OWN_FUNCTION) or "/" in value):
            raise InputError(f"holds {one_line(repr(value), 80)}, which isn't a plain tensor")
        if isinstance(value, str) and "__enum__" in value:
            raise InputError("names an enumeration, which would import code of the file's choice")


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at every depth, without recursion: a file chooses the depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
