"""Reduce the archive of an exported program to what a plain model needs, in a new archive.

``torch.export.load`` trusts its file. It unpickles constants and sample inputs, loads compiled libraries, and evaluates
sizes as Python expressions. It looks up what a node calls from ``torch`` on (``torch.os.system`` included), and imports
the types that a structure of arguments names. It writes names and traces into Python code that it runs.

The new archive therefore holds only tensors stored as bytes, tuples, lists and dictionaries, and plain names. Its graph
only calls ATen's operators and a few functions for sizes and control flow. Its sizes are arithmetic.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from landscape.errors import InputError
from landscape.reporting.messages import listed, one_line

_MODEL, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_CONFIGS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
# Names of the parts as torch writes them. torch's reader ignores case, so no other spelling may pass.
_PARTS = re.compile(
    r"models/model\.json|data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_CALLED = re.compile(
    r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|cond)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(int|float|max|min|not|ite|sum)"
)
# Sizes as SymPy spells them out: symbols, whole numbers, and arithmetic without powers, whose values explode.
_SIZE = re.compile(
    r"(?:Symbol\('[su]\d{1,6}'(?:, \w+=(?:True|False))*\)"
    r"|(?:Integer|Add|Mul|Max|Min|Mod|FloorDiv|CeilDiv|PythonMod)(?=\()|[su]?\d{1,12}|\*(?!\*)|[-+/(), ])*"
)
_LONGEST_SIZE = 500  # characters
_NAME, _STACK = re.compile(r"[\w.:+-]*"), re.compile(r"[\w.,;@<>]*")
_LARGEST_GRAPH = 2**28  # bytes
_STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def plain_archive(content: bytes) -> tuple[bytes, str]:
    """A new archive with what a plain model needs of the archive in ``content``, and the SHA-256 of its graph.

    Raises:
        InputError: the program does more than a plain model.
        Exception: the archive is damaged; many types of exception are possible.
    """
    parts = _parts(content)
    graph = _graph(json.loads(parts[_MODEL]))
    kept = {name: part for name, part in parts.items() if name not in (_MODEL, _SAMPLES)}
    for folder, config in _CONFIGS.items():
        tensors = json.loads(kept[folder + config])
        _check(tensors)
        for name, payload in tensors["config"].items():
            if (place := f"{folder}{payload['path_name']}") not in kept:
                raise InputError(f"has no tensor {one_line(repr(payload['path_name']), 80)}, or it isn't a plain one")
            _check_tensor(name, payload, len(kept[place]))
        kept[folder + config] = json.dumps(tensors).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, part in (kept | {_MODEL: graph, _SAMPLES: b""}).items():  # empty, because samples would be unpickled
            archive.writestr(f"archive/{name}", part)
    return buffer.getvalue(), hashlib.sha256(graph).hexdigest()


def _parts(content: bytes) -> dict[str, bytes]:
    """Contents of the parts of an archive, by their names in its single folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename.partition("/")[2] for entry in entries]
        if len({entry.filename.partition("/")[0] for entry in entries}) > 1 or len(set(names)) < len(names):
            raise InputError("has several folders, or one name twice, as torch.export writes none")
        if _MODEL not in names:
            raise InputError("holds no program of torch.export")
        if unknown := [name for name in names if not _PARTS.fullmatch(name)]:
            raise InputError(f"holds {listed(map(repr, unknown))}, which a plain model hasn't; export plain tensors")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError("is compressed, as torch.export never writes it")
        if archive.getinfo(next(e.filename for e in entries if e.filename.endswith(_MODEL))).file_size > _LARGEST_GRAPH:
            raise InputError("has a graph of more than 256 MB")
        return {name: archive.read(entry) for name, entry in zip(names, entries, strict=True)}


def _graph(program: dict[str, Any]) -> bytes:
    """The graph as JSON, without the guards and code traces that torch would write into Python code."""
    program["guards_code"] = []
    for value in _values(program):
        if "target" in value and "metadata" in value:
            stack = value["metadata"].get("nn_module_stack")
            value["metadata"] = {} if stack is None else {"nn_module_stack": stack}
    _check(program)
    return json.dumps(program).encode()


def _check(content: Any) -> None:
    """Refuse entries that torch could import, unpickle or run as code."""
    for value in _values(content):
        for key, item in value.items():
            if not _NAME.fullmatch(key):
                raise InputError(f"has the name {one_line(repr(key), 80)}, which could be code")
            if key == "as_operator":
                raise InputError("hands an operator on to another, to be called there")
            if key == "use_pickle" and item is not False:
                raise InputError("a tensor in it is pickled, and unpickling it could run code: export plain tensors")
            if key == "treespec_namedtuple_fields" and item:
                raise InputError("takes or returns named tuples, which torch would import: return tuples")
            for text in item if isinstance(item, list) else [item]:
                if isinstance(text, str):
                    _check_text(key, text)


def _check_text(key: str, text: str) -> None:
    if key == "target":
        if not (_CALLED.fullmatch(text) or _computes(text)):
            raise InputError(f"calls {one_line(repr(text), 80)}, and only ATen's operators are called from a file")
    elif key == "expr_str":
        if len(text) > _LONGEST_SIZE or not _SIZE.fullmatch(text):
            raise InputError(f"has the size {one_line(repr(text), 80)}, and only arithmetic is evaluated from a file")
    elif key in ("in_spec", "out_spec"):
        if text:
            _check_structure(json.loads(text)[1])
    elif key not in ("as_string", "as_strings") and not (_STACK if key == "nn_module_stack" else _NAME).fullmatch(text):
        raise InputError(f"has the {one_line(key, 40)} {one_line(repr(text), 80)}, which could be code")


def _computes(target: str) -> bool:
    """Whether ``target`` is an ATen operator that returns a value and takes no file name.

    ATen also has operators that save to or map any file. Operators that print, warn or set seeds return nothing.
    """
    named = _ATEN.fullmatch(target)
    operator = named and getattr(getattr(torch.ops.aten, named[1], None), named[2], None)
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    schema = operator._schema
    return bool(schema.returns) and all(argument.name != "filename" for argument in schema.arguments)


def _check_structure(spec: Mapping[str, Any]) -> None:
    """Refuse arguments and outputs other than tuples, lists and dictionaries with plain names."""
    for value in _values(spec):
        context = json.loads(value["context"] or "null")
        names = context if isinstance(context, list) else [] if context is None else [None]
        if value["type"] not in _STRUCTURES or not all(isinstance(n, str) and _NAME.fullmatch(n) for n in names):
            raise InputError(
                f"takes or returns a {one_line(repr(value['type']), 80)}, and only tuples, lists and dictionaries "
                "are made from a file"
            )


def _check_tensor(name: str, payload: Mapping[str, Any], size: int) -> None:
    """Refuse a tensor with more entries than stored bytes: torch would fill it with zeros, or repeat it."""
    meta = payload["tensor_meta"]
    shape: list[int] = [int(each["as_int"]) for each in meta["sizes"]]
    strides: list[int] = [int(each["as_int"]) for each in meta["strides"]]
    last_index = int(meta["storage_offset"]["as_int"]) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min(shape + strides, default=0) < 0 or (
        min(shape, default=1) and max(int(np.prod(shape, dtype=object)), last_index + 1) > size
    ):
        raise InputError(f"the tensor {one_line(name, 80)} of shape {tuple(shape)} has {size} bytes in it")


def _values(content: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary at every depth, found without recursion, because the file chooses the depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
