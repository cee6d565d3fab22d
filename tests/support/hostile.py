"""Hostile and damaged files, each with the command that reads it.

All random numbers come from one seed, so a case can be made again by its name.
"""

from __future__ import annotations

import _codecs
import collections
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.torch
import torch
from torch._utils import _rebuild_tensor_v2

SEED = 20_240_601
CANARY = "canary"
ESCAPE = "\x1b]0;owned\x07\x1b[31m\x9bred"


@dataclass(frozen=True)
class Case:
    """One hostile or damaged input.

    Attributes:
        name: class of the input, and its fault.
        make: function that writes the input into a folder, and returns the command's arguments.
        damaged: whether the input may still be a good file. Then exit status 0 or 3 is right too.
        plot: whether the command is landscape-plot.
    """

    name: str
    make: Callable[[Path], Sequence[str]]
    damaged: bool = False
    plot: bool = False

    @property
    def slow(self) -> bool:
        """Whether the input takes seconds to make or to refuse."""
        return any(word in self.name for word in ("10^6 deep", "400 MB", "800 MB", "five million", "10^5 ", "65,000"))


def cases(good: Path, looped: Path) -> list[Case]:
    """All cases.

    Args:
        good: folder with a.pt, b.pt, bare.pt, legacy.pt, a.safetensors, and run.h5, a record of a.pt and b.pt.
        looped: file of a checkpoint of another project.
    """
    generator = random.Random(SEED)
    return [
        *_mutated_checkpoints(generator, good, looped),
        *_pickles_that_run_code(),
        *_pickles_that_do_not_end(),
        *_tensors(),
        *_archives(good),
        *_safetensors(),
        *_contents(),
        *_mutated_records(generator, good),
        *_records(good),
        *_unfinished(good),
        *_places(),
        *_projects(),
        *_values(),
    ]


def _written(name: str, content: bytes, *more: str) -> Callable[[Path], Sequence[str]]:
    """A function for `Case.make` that writes one file and passes the file's name to the command."""

    def make(folder: Path) -> Sequence[str]:
        (folder / name).write_bytes(content)
        return [name, *more]

    return make


def _saved(content: Any, zipped: bool = True) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        torch.save(content, folder / "x.pt", _use_new_zipfile_serialization=zipped)
        return ["x.pt"]

    return make


# --- damaged files


def _damage(generator: random.Random, whole: bytes, places: Sequence[int], other: bytes) -> tuple[str, bytes]:
    """Damage bytes: change bytes at one of ``places``, or cut, insert, leave out, repeat, zero or splice a part.

    Returns:
        The kind of damage, and the damaged bytes.
    """
    kind = generator.choice(["flip", "flip", "flip", "cut", "insert", "leave out", "repeat", "zero", "splice"])
    start, stop = sorted(generator.sample(range(len(whole)), 2))
    if kind == "flip":
        content = bytearray(whole)
        for _ in range(generator.choice([1, 1, 2, 8])):
            content[generator.choice(places)] = generator.choice(
                [0, 1, 0x2E, 0x7F, 0x80, 0xFF, generator.randrange(256)]
            )
        return kind, bytes(content)
    return kind, {
        "cut": whole[:stop],
        "insert": whole[:start] + generator.randbytes(generator.choice([1, 7, 300])) + whole[start:],
        "leave out": whole[:start] + whole[stop:],
        "repeat": whole[:stop] + whole[start:],
        "zero": whole[:start] + bytes(stop - start) + whole[stop:],
        "splice": whole[:start] + other[len(other) // 2 :],
    }[kind]


def _telling(whole: bytes) -> list[int]:
    """The places of a container's own structure: its first and last bytes, and the bytes near names and signatures."""
    found = {*range(min(200, len(whole))), *range(max(0, len(whole) - 200), len(whole))}
    for sign in (b"PK", b"data", b"torch", b"ctorch", b"storage", b"OHDR", b"TREE", b"HEAP", b"SNOD", b"GCOL"):
        place = whole.find(sign)
        while place >= 0:
            found.update(range(max(0, place - 4), min(len(whole), place + 48)))
            place = whole.find(sign, place + 1)
    return sorted(found)


def _mutated_checkpoints(generator: random.Random, good: Path, looped: Path) -> Iterator[Case]:
    sources = {
        "looped.pt": looped,
        **{name: good / name for name in ("a.pt", "bare.pt", "legacy.pt", "a.safetensors")},
    }
    other = (good / "legacy.pt").read_bytes()
    for name, path in sources.items():
        whole = path.read_bytes()
        places = _telling(whole)
        for number in range(16):
            kind, content = _damage(generator, whole, places, other)
            yield Case(f"damaged {name} {number}: {kind}", _written(f"x-{name}", content), damaged=True)


def _mutated_records(generator: random.Random, good: Path) -> Iterator[Case]:
    whole = (good / "run.h5").read_bytes()
    places = _telling(whole)
    for number in range(36):
        kind, content = _damage(generator, whole, places, (good / "a.pt").read_bytes())
        write = _written("x.h5", content)
        use = number % 3
        if use == 0:
            yield Case(f"damaged record {number}, resumed: {kind}", _resuming(write), damaged=True)
        elif use == 1:
            yield Case(f"damaged record {number}, merged: {kind}", _merging(write), damaged=True)
        else:
            yield Case(f"damaged record {number}, drawn: {kind}", _drawing(write), damaged=True, plot=True)


RUN = ("a.pt", "b.pt", "--hessian", "-k", "2", "--slice", "1d", "--points", "5")  # the command that makes run.h5


def _resuming(write: Callable[[Path], Any]) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        write(folder)
        return [*RUN, "-o", "x.h5"]

    return make


def _merging(write: Callable[[Path], Any]) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        write(folder)
        return ["--merge", "x.h5", "-o", "joined.h5"]

    return make


def _drawing(write: Callable[[Path], Any]) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        write(folder)
        return ["x.h5", "-o", "figures", "--figure", "eigenvalues"]

    return make


# --- pickles


class _Called:
    """An object that is pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class _Stored:
    """An object that is pickled as a reference to a storage."""

    def __init__(self, numel: int, kind: Any = torch.FloatStorage, key: str = "0") -> None:
        self.mention = "storage", kind, key, "cpu", numel


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]
    def persistent_id(self, obj: Any) -> Any:
        return obj.mention if isinstance(obj, _Stored) else None


def _pickled(content: Any, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol).dump(content)
    return file.getvalue()


def _zipped(content: bytes, records: dict[str, bytes] | None = None, compressed: bool = False) -> bytes:
    """A pickle in an archive of torch.save's format."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
        for name, record in (records or {}).items():
            archive.writestr(name, record)
    return file.getvalue()


def _legacy(content: bytes, keys: Sequence[str] = (), storages: bytes = b"") -> bytes:
    """A pickle in torch.save's older format."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    beginning = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, machine]
    return b"".join(pickle.dumps(each, 2) for each in beginning) + content + pickle.dumps(list(keys), 2) + storages


def _global(name: str, *arguments: Any) -> bytes:
    """A pickle that calls a function by name; the function needn't exist when the pickle is made."""
    module, _, attribute = name.rpartition(".")
    call = f"c{module}\n{attribute}\n".encode() + _pickled(arguments)[2:-1] + b"R"
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s."


_CALLS: dict[str, tuple[Any, ...]] = {
    "os.system": (f"touch {CANARY}",),
    "posix.system": (f"touch {CANARY}",),
    "nt.system": (f"touch {CANARY}",),
    "os.mkdir": (CANARY,),
    "os.execv": ("/usr/bin/touch", ["touch", CANARY]),
    "builtins.eval": (f"open({CANARY!r}, 'w')",),
    "builtins.exec": (f"open({CANARY!r}, 'w')",),
    "builtins.open": (CANARY, "w"),
    "__builtin__.eval": (f"open({CANARY!r}, 'w')",),
    "builtins.getattr": ("", "format"),
    "builtins.__import__": ("antigravity",),
    "subprocess.Popen": (["touch", CANARY],),
    "subprocess.check_output": (["touch", CANARY],),
    "runpy.run_path": ("problem.py",),
    "importlib.import_module": ("antigravity",),
    "pathlib.Path.touch": (CANARY,),
    "shutil.rmtree": (".",),
    "webbrowser.open": ("http://127.0.0.1:9",),
    "pickle.loads": (b"cos\nmkdir\n(V" + CANARY.encode() + b"\ntR.",),
    "numpy.save": (CANARY, 1),
    "numpy.fromfile": ("problem.py",),
    "torch.save": ({}, CANARY),
    "torch.load": ("a.pt",),
    "torch.hub.load": (".", "problem"),
    "torch.ops.load_library": ("./x.so",),
    "torch.classes.load_library": ("./x.so",),
    "torch.storage._load_from_bytes": (b"x",),
    "torch.jit.load": ("a.pt",),
    "torch.from_file": (CANARY, True, 1000),
    "torch.utils.cpp_extension.load_inline": (CANARY, "int main(){}"),
    "torch._inductor.codecache.PyCodeCache": (),
    "torch._dynamo.config": (),
    "torch.onnx": (),
    "torch.UntypedStorage.from_file": (CANARY, True, 1000),
    "torch.distributed.init_process_group": ("gloo",),
    "x" * 5000 + ".y": (),
    ESCAPE.replace("\n", "") + ".y": (),
}


def _pickles_that_run_code() -> Iterator[Case]:
    containers: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("zip", _zipped),
        ("legacy", _legacy),
        ("plain", lambda content: content),
    ]
    for place, (name, arguments) in enumerate(_CALLS.items()):
        for container, wrap in (containers[place % 3], containers[(place + 1) % 3]):
            content = wrap(_global(name, *arguments))
            yield Case(f"code {name[:30]!r} in {container}", _written("x.pt", content))


def _pairs(levels: int) -> bytes:
    """A pickle of nested tuples, each of which holds the next tuple twice: a small file with 2^levels leaves."""
    return b")q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(levels))


def _lists(levels: int) -> bytes:
    """A pickle of nested lists, each of which holds the next list twice; a list is filled after it was put in place."""
    steps = b"".join(b"h%c(]q%ch%ce0" % (i, i + 1, i + 1) for i in range(levels))
    return b"]q\x00" + steps


def _pickles_that_do_not_end() -> Iterator[Case]:
    deep = 10**6
    weight = _pickled(_tensor())[2:-1]
    dictionary = b"\x80\x02}X\x01\x00\x00\x00w" + weight + b"s"
    bodies = {
        "a key of tuples, 10^6 deep": b"\x80\x02})" + b"\x85" * deep + b"K\x01s.",
        "a value of tuples, 10^6 deep": dictionary + b"X\x01\x00\x00\x00x)" + b"\x85" * deep + b"s.",
        "lists, 10^6 deep": b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b".",
        "a key of 2^60 leaves": b"\x80\x02}" + _pairs(60) + b"K\x01s.",
        "a set of 2^60 leaves": b"\x80\x02cbuiltins\nset\n]" + _pairs(60) + b"a\x85R.",
        "a list of 2^60 leaves": b"\x80\x02" + _lists(60) + b".",
        "a step of 2^60 leaves": dictionary + b"X\x04\x00\x00\x00step" + _lists(60)[:-1] + b"s.",
        "marks": b"\x80\x02" + b"(" * deep + b".",
        "an unending stack": b"\x80\x02" + b"N" * deep + b".",
        "no end": b"\x80\x02}",
        "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
        "a number of -1 bytes": b"\x80\x02\x8b\xff\xff\xff\xff\x01.",
        "a string of 4 GB": b"\x80\x02X\xff\xff\xff\xffabc.",
        "a string of 2^63 bytes": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        "a frame of 2^63 bytes": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        "a memo of 2^32": b"\x80\x02}r\xff\xff\xff\xff.",
        "what was never kept": b"\x80\x02h\x07.",
        "a mention that is no storage": b"\x80\x02K\x05Q.",
        "a mention of nothing": b"\x80\x02)Q.",
        "a dict in itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
        "10 GB of zeros": _pickled({"w": _Called(bytearray, 10**10)}),
        "a slow codec": _pickled(
            {"w": _Called(_codecs.encode, "".join(map(chr, range(19968, 40704))) * 50, "punycode")}
        ),
        "a list that counts": _pickled({"w": _Called(collections.Counter, 5)}),
        "a tensor class of 10^12": _pickled({"w": _Called(torch.FloatTensor, 10**12)}),
        "a storage class of 10^12": _pickled({"w": _Called(torch.UntypedStorage, 10**12)}),
    }
    for name, body in bodies.items():
        yield Case(f"pickle in zip: {name}", _written("x.pt", _zipped(body, {"x/data/0": bytes(4)})))
    for name in list(bodies)[::2]:
        yield Case(f"pickle in legacy: {name}", _written("x.pt", _legacy(bodies[name], ["0"], bytes(12))))
    yield Case("pickle: five million operations", _written("x.pkl", b"\x80\x02" + b"N0" * 2_500_000 + b"."))
    yield Case(
        "pickle: a global after five million operations",
        _written("x.pkl", b"\x80\x02" + b"N0" * 2_500_000 + b"cos\nsystem\nX\x01\x00\x00\x00xR."),
    )


def _tensor(
    numel: int = 1, offset: int = 0, size: Any = (1,), stride: Any = (1,), kind: Any = torch.FloatStorage
) -> Any:
    return _Called(_rebuild_tensor_v2, _Stored(numel, kind), offset, size, stride, False, collections.OrderedDict())


def _tensors() -> Iterator[Case]:
    from torch import _utils

    order: Any = collections.OrderedDict()
    shadowed = _Called(_utils._rebuild_parameter_with_state, _tensor(), False, order, {"detach": 5, "numel": 5})
    absurd = {
        "10^12 numbers claimed": _tensor(10**12),
        "beyond its storage": _tensor(size=(10**8,)),
        "far beyond its storage": _tensor(size=(10**6, 10**6), stride=(10**6, 1)),
        "one number seen as 10^12": _tensor(size=(10**6, 10**6), stride=(0, 0)),
        "one number seen as 7^20": _tensor(size=(7,) * 20, stride=(0,) * 20),
        "an overflowing shape": _tensor(size=(2**40, 2**40), stride=(0, 0)),
        "a stride below zero": _tensor(4, 3, (4,), (-1,)),
        "a size below zero": _tensor(size=(-1,)),
        "an offset below zero": _tensor(offset=-(2**40)),
        "an offset of 2^62": _tensor(offset=2**62),
        "more strides than sizes": _tensor(size=(1,), stride=(1, 1)),
        "sizes that are text": _tensor(size=("1",)),
        "10^5 dimensions": _tensor(size=(1,) * 10**5, stride=(1,) * 10**5),
        "another kind of storage": _tensor(kind=torch.DoubleStorage),
        "a kind that is none": _tensor(kind="FloatStorage"),
        "methods of its own": shadowed,
        "none of its own, on meta": _Called(
            _utils._rebuild_meta_tensor_no_storage, torch.float32, (10**6, 10**6), (1, 1), False
        ),
        "sparse": _Called(
            _utils._rebuild_sparse_tensor,
            torch.sparse_coo,
            (_tensor(kind=torch.LongStorage, size=(1, 0), stride=(1, 1)), _tensor(size=(0,)), (10**9, 10**9)[:1], True),
        ),
        "quantised": _Called(
            _utils._rebuild_qtensor, _Stored(1, torch.QInt8Storage), 0, (10**6, 10**6), (10**6, 1),
            (torch.per_tensor_affine, 1.0, 0), False, order,
        ),
        "a wrapper": _Called(
            _utils._rebuild_wrapper_subclass, torch.Tensor, torch.float32, (10**6,), (1,), 0, torch.strided,
            torch.device("cpu"), False,
        ),
    }  # fmt: skip
    for name, tensor in absurd.items():
        content = _pickled({"0.weight": tensor})
        yield Case(f"tensor: {name}", _written("x.pt", _zipped(content, {"x/data/0": bytes(4)})))
    for name in list(absurd)[:8]:
        body = _pickled({"0.weight": absurd[name]})
        yield Case(f"tensor in legacy: {name}", _written("x.pt", _legacy(body, ["0"], struct.pack("<q", 1) + bytes(4))))
    claimed = struct.pack("<q", 10**12) + bytes(4)
    yield Case("tensor in legacy: storage", _written("x.pt", _legacy(_pickled({"w": _tensor(10**12)}), ["0"], claimed)))
    negative = struct.pack("<q", -1) + bytes(4)
    yield Case("tensor in legacy: below 0", _written("x.pt", _legacy(_pickled({"w": _tensor(-1)}), ["0"], negative)))
    yield Case("tensor: as a key", _written("x.pt", _zipped(
        _pickled({_tensor(size=(7,) * 20, stride=(0,) * 20): _tensor()}), {"x/data/0": bytes(4)})))  # fmt: skip
    meta = _Called(_utils._rebuild_meta_tensor_no_storage, torch.float32, (1,), (1,), False)
    for name, step in {
        "on meta": meta,
        "complex": _tensor(kind=torch.ComplexFloatStorage, numel=0, size=(0,)),
        "10^300": 1e300,
        "10^400": 10**400,
        "infinite": float("inf"),
    }.items():
        content = _pickled({"model": {"0.weight": _tensor()}, "step": step})
        yield Case(f"step of a training dict: {name}", _written("x.pt", _zipped(content, {"x/data/0": bytes(4)})))


# --- archives


def _archives(good: Path) -> Iterator[Case]:
    order = pickle.dumps(collections.OrderedDict(), 2)[2:-1]
    plain = _pickled({"w": _tensor()})
    zeros = bytes(400_000_000)
    bombs = {
        "a pickle of 400 MB": lambda: _zipped(
            b"\x80\x02X" + struct.pack("<I", len(zeros)) + zeros + b".", compressed=True
        ),
        "a storage of 400 MB": lambda: _zipped(
            _pickled({"w": _tensor(10**8, size=(10**8,))}), {"x/data/0": zeros}, compressed=True
        ),
        "a version of 400 MB": lambda: _recompressed({"x/data.pkl": plain, "x/version": zeros, "x/data/0": bytes(4)}),
        "a byte order of 400 MB": lambda: _recompressed({"x/data.pkl": plain, "x/byteorder": zeros}),
    }
    for name, made in bombs.items():
        yield Case(f"zip: {name}", lambda folder, made=made: _written("x.pt", made())(folder))

    whole = bytearray(_zipped(plain, {"x/data/0": bytes(4)}))
    directory = whole.find(b"PK\x01\x02")
    end = whole.rfind(b"PK\x05\x06")
    fields = {
        "a packed size of 4 GB": (directory + 20, b"\xff\xff\xff\xfe"),
        "a size of 4 GB": (directory + 24, b"\xff\xff\xff\xfe"),
        "a name of 65,535": (directory + 28, b"\xff\xff"),
        "an extra field of 65,535": (directory + 30, b"\xff\xff"),
        "an offset of 4 GB": (directory + 42, b"\xfe\xff\xff\xff"),
        "another method": (directory + 10, b"\x0e\x00"),
        "encrypted": (directory + 8, b"\x01\x00"),
        "65,534 entries": (end + 8, b"\xfe\xff\xfe\xff"),
        "a directory of 4 GB": (end + 12, b"\xfe\xff\xff\xff"),
        "a directory at 4 GB": (end + 16, b"\xfe\xff\xff\xff"),
        "a comment of 65,535": (end + 20, b"\xff\xff"),
    }
    for name, (place, value) in fields.items():
        content = bytes(whole[:place]) + value + bytes(whole[place + len(value) :])
        yield Case(f"zip: {name}", _written("x.pt", content), damaged=True)
    for name, records in {
        "names that climb out": {"../../x": b"x", "x/../../../canary": b"x"},
        "names from the root": {"/tmp/canary": b"x", "/x/data.pkl": b"x"},
        "names with escapes": {ESCAPE: b"x"},
        "names of 60,000 letters": {"x/" + "n" * 60_000: b"x"},
        "65,000 names": {f"x/{number}": b"" for number in range(65_000)},
    }.items():
        yield Case(f"zip: {name}", _written("x.pt", _zipped(plain, records)))
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        for content in (plain, _global("os.mkdir", CANARY), plain):
            archive.NameToInfo.clear()  # zipfile would warn of a duplicate name
            archive.writestr("x/data.pkl", content)
    yield Case("zip: one name thrice", _written("x.pt", twice.getvalue()))
    cased = _recompressed({"x/DATA.PKL": _global("os.mkdir", CANARY), "x/data.pkl": plain, "x/version": b"3\n"})
    yield Case("zip: one name in two cases", _written("x.pt", cased))
    yield Case("zip: within another", _written("x.pt", _zipped(plain, {"x/data/0": bytes(whole)})))
    yield Case("zip: a pickle after it", _written("x.pt", bytes(whole) + _global("os.mkdir", CANARY)), damaged=True)
    yield Case("zip: a script before it", _written("x.pt", b"PK\x03\x04" + b"#" * 100 + bytes(whole)), damaged=True)
    yield Case(
        "zip: an alignment that is none",
        _written("x.pt", _zipped(plain, {"x/.storage_alignment": b"-1", "x/data/0": bytes(4)})),
    )
    yield Case(
        "zip: an order that is none",
        _written("x.pt", _recompressed({"x/data.pkl": plain, "x/byteorder": b"middle", "x/version": b"3\n"})),
    )
    yield Case(
        "zip: a version of 10^400", _written("x.pt", _recompressed({"x/data.pkl": plain, "x/version": b"9" * 400}))
    )
    yield Case("zip: a pickle that is none", _written("x.pt", _zipped(order)))


def _recompressed(records: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return file.getvalue()


# --- safetensors


def _headed(header: bytes | Any, data: bytes = bytes(52), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _safetensors() -> Iterator[Case]:
    def entry(start: int = 0, stop: int = 4, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}

    contents = {
        "a header of 2^63": _headed(b"{}", length=2**63),
        "a header of 2^64 - 1": _headed(b"{}", length=2**64 - 1),
        "a header of 100 MB": _headed(b"{}", length=100_000_000),
        "a header longer than the file": _headed({"w": entry()}, length=10_000),
        "a header of nothing": _headed(b"", length=0),
        "a header of blanks": _headed(b"{" + b" " * 10_000_000),
        "overlapping ranges": _headed({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
        "one range twice": _headed({"a": entry(), "b": entry()}, bytes(4)),
        "a gap": _headed({"a": entry(), "b": entry(8, 12)}, bytes(12)),
        "a range beyond the file": _headed({"a": entry(0, 400, (100,))}, bytes(4)),
        "a range that runs backwards": _headed({"a": entry(4, 0)}, bytes(4)),
        "a range below zero": _headed({"a": entry(-4, 0)}, bytes(4)),
        "a range of 2^64": _headed({"a": entry(0, 2**64)}, bytes(4)),
        "a shape of 10^18": _headed({"a": entry(0, 4, (10**9, 10**9))}, bytes(4)),
        "a shape that overflows": _headed({"a": entry(0, 4, (2**40, 2**40))}, bytes(4)),
        "a shape below zero": _headed({"a": entry(0, 4, (-1,))}, bytes(4)),
        "a shape of text": _headed({"a": entry(0, 4, "1")}, bytes(4)),
        "another dtype": _headed({"a": entry(0, 4, dtype="F64")}, bytes(4)),
        "a dtype that is none": _headed({"a": entry(dtype="F33")}, bytes(4)),
        "a dtype with escapes": _headed({"a": entry(dtype=ESCAPE)}, bytes(4)),
        "a name of 10 MB": _headed({"n" * 10_000_000: entry()}, bytes(4)),
        "a name of 10 MB of wrappers": _headed({"module." * 1_400_000: entry()}, bytes(4)),
        "a name with escapes": _headed({ESCAPE: entry()}, bytes(4)),
        "a name with line ends": _headed({"a\nb\r\nc\u2028d\x85e": entry()}, bytes(4)),
        "10^5 names": _headed({f"n{i}": entry(4 * i, 4 * i + 4) for i in range(10**5)}, bytes(4 * 10**5)),
        "10^5 extra states": _headed(
            {f"n{i}._extra_state": entry(4 * i, 4 * i + 4) for i in range(10**5)}, bytes(4 * 10**5)
        ),
        "deep JSON": _headed(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        "a key twice": _headed(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                               b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
        "JSON that is cut": _headed(b'{"a":{"dtype":"F32"'),
        "JSON that is no object": _headed(b"{1:2}"),
        "no UTF-8": _headed(b'{"\xff\xfe":1}'),
        "metadata that is deep": _headed({"__metadata__": {"a": {"b": {}}}, "w": entry()}, bytes(4)),
        "metadata with 10^5 ties": _headed(
            {"__metadata__": {f"{ESCAPE}{i}": "w" for i in range(10**5)}, "w": entry()}, bytes(4)
        ),
        "nothing in it": _headed({}, b""),
    }  # fmt: skip
    for name, content in contents.items():
        yield Case(f"safetensors: {name}", _written("x.safetensors", content))
    for name, content in list(contents.items())[6:12]:
        yield Case(f"safetensors by content: {name}", _written("x.bin", content))


# --- contents of checkpoints


def _contents() -> Iterator[Case]:
    state = {name: torch.ones(shape) for name, shape in _SHAPES.items()}
    own = {"format": "landscape-checkpoint", "version": 1, "state": state, "step": 3, "optimizer": None,
           "problem": None, "arguments": {}, "metrics": {}}  # fmt: skip
    doubled: Any = []
    for _ in range(60):
        doubled = [doubled, doubled]
    shadowed = _Built({"w": torch.ones(1)}, {"items": 5, "keys": 5, "get": 5, "values": 5})
    changes: dict[str, dict[str, Any]] = {
        "step of 10^400": {"step": 10**400},
        "step of -10^400": {"step": -(10**400)},
        "step of 2^63": {"step": 2**63},
        "infinite step": {"step": float("inf")},
        "NaN step": {"step": float("nan")},
        "true step": {"step": "true"},
        "version of 10^400": {"version": 10**400},
        "version with escapes": {"version": ESCAPE},
        "problem of 10 MB": {"problem": "p" * 10_000_000},
        "problem of 10 MB and a path": {"problem": "p/" * 5_000_000},
        "problem up the tree": {"problem": "../../evil.py:run"},
        "problem from the root": {"problem": "/tmp/evil.py:run"},
        "problem of a module": {"problem": "os:system"},
        "problem with escapes": {"problem": ESCAPE},
        "problem of lines": {"problem": "a\nb\nTraceback (most recent call last):"},
        "problem of nothing": {"problem": ""},
        "problem with a zero": {"problem": "default\0"},
        "problem that isn't there": {"problem": "absent"},
        "arguments 300 deep": {"arguments": _Raw(b"}X\x05\x00\x00\x00scale" + b"]" * 300 + b"a" * 299 + b"s")},
        "arguments 10^5 deep": {"arguments": _Raw(b"}X\x05\x00\x00\x00scale" + b"]" * 10**5 + b"a" * 99_999 + b"s")},
        "arguments of 2^60": {"arguments": {"scale": doubled}},
        "arguments unknown": {"arguments": {"colour": 3}},
        "arguments with escapes": {"arguments": {ESCAPE: 3}},
        "arguments of 10 MB": {"arguments": {"a" * 10_000_000: 3}},
        "arguments of the checkpoint": {"arguments": {"checkpoint": 3}},
        "arguments by number": {"arguments": {3: 3}},
        "an argument of text": {"arguments": {"scale": ESCAPE}},
        "an argument of 10 MB": {"arguments": {"scale": "s" * 10_000_000}},
        "an argument of 10^400": {"arguments": {"scale": 10**400}},
        "an argument that is infinite": {"arguments": {"scale": float("inf")}},
        "an argument that is NaN": {"arguments": {"scale": float("nan")}},
        "an argument that is a tensor": {"arguments": {"scale": torch.ones(3, 7)}},
        "metrics of text": {"metrics": {"loss": ESCAPE}},
        "metrics 10^5 deep": {"metrics": _Raw(b"}X\x05\x00\x00\x00scale" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s")},
        "metrics that are a list": {"metrics": [1]},
        "state of lists": {"state": {"0.weight": [1.0]}},
        "state of numbers": {"state": {0: torch.ones(1)}},
        "state of nothing": {"state": {}},
        "state with escapes": {"state": state | {ESCAPE: torch.ones(1)}},
        "state with 10 MB of wrappers": {"state": {"module." * 1_400_000 + "w": torch.ones(1)}},
        "state with 3,000 names of wrappers": {"state": {"module." * i + "w": torch.ones(1) for i in range(3000)}},
        "state with 10^5 extra states": {"state": {f"{i}._extra_state": state["2.bias"] for i in range(100_000)}},
        "state with methods of its own": {"state": shadowed},
        "state with NaN": {"state": state | {"0.bias": torch.full((3,), float("nan"))}},
        "state that is complex": {"state": state | {"0.bias": torch.ones(3, dtype=torch.complex64)}},
        "optimizer of text": {"optimizer": ESCAPE},
    }  # fmt: skip
    for name, change in changes.items():
        yield Case(f"own: {name}", _own(own | change))
    tops: dict[str, Any] = {
        "keys with escapes": {ESCAPE: 1},
        "keys of 10 MB": {"k" * 10_000_000: 1},
        "a number": 5,
        "a text with escapes": ESCAPE,
        "a list": [torch.ones(1)] * 10,
        "a set": {1, 2},
        "methods of its own": shadowed,
        "weights with methods of their own": {"model": shadowed},
    }
    for name, content in tops.items():
        yield Case(f"top: {name}", _own(content))


_SHAPES = {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (1, 3), "2.bias": (1,)}


class _Raw:
    """An object that is pickled as these operations."""

    def __init__(self, operations: bytes) -> None:
        self.operations = operations


class _Built:
    """An object that is pickled as an ordered dictionary with attributes."""

    def __init__(self, items: dict[str, Any], attributes: dict[str, Any]) -> None:
        self.items, self.attributes = items, attributes

    def __reduce__(self) -> tuple[Any, ...]:
        return collections.OrderedDict, (), self.attributes, None, iter(self.items.items())


def _own(content: Any) -> Callable[[Path], Sequence[str]]:
    """A function for `Case.make` that saves content as torch.save does, but writes `_Raw` objects as they are."""

    def make(folder: Path) -> Sequence[str]:
        storages: dict[str, bytes] = {}

        class Pickler(pickle._Pickler):  # type: ignore[name-defined]
            def persistent_id(self, obj: Any) -> Any:
                if not isinstance(obj, torch.storage.TypedStorage):
                    return None
                kind, key = getattr(torch, obj._pickle_storage_type()), str(len(storages))
                storages[f"x/data/{key}"] = bytes(obj._untyped_storage.tolist())
                return "storage", kind, key, "cpu", obj._size()

            def save(self, obj: Any, save_persistent_id: bool = True) -> None:
                if isinstance(obj, _Raw):
                    self.write(obj.operations)
                else:
                    super().save(obj, save_persistent_id)

        file = io.BytesIO()
        Pickler(file, 2).dump(content)
        return _written("x.pt", _zipped(file.getvalue(), storages))(folder)

    return make


# --- records


def _changed(good: Path, change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copy(good / "run.h5", folder / "x.h5")
        with h5py.File(folder / "x.h5", "r+") as file:
            change(file)

    return write


def _replaced(file: h5py.File, name: str, **how: Any) -> None:
    """Replace a data set by another of equal name; units and long name are kept."""
    attrs = {key: value for key, value in file[name].attrs.items() if key in ("units", "long_name")}
    del file[name]
    file.create_dataset(name, **how).attrs.update(attrs)


def _records(good: Path) -> Iterator[Case]:
    text = h5py.string_dtype()
    request = json.loads(h5py.File(good / "run.h5").attrs["request"])

    def link(name: str, to: Any) -> Callable[[h5py.File], None]:
        def change(file: h5py.File) -> None:
            if name in file:
                del file[name]
            file[name] = to

        return change

    def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
        return lambda file: file.attrs.__setitem__(name, value)

    def without(name: str) -> Callable[[h5py.File], None]:
        return lambda file: file.attrs.__delitem__(name)

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(shape=(2,), dtype="f8")
        layout[:] = h5py.VirtualSource("other.h5", "loss/loss", shape=(2,))
        del file["loss/loss"]
        file["loss"].create_virtual_dataset("loss", layout)

    def raw(file: h5py.File) -> None:
        del file["loss/loss"]
        file["loss"].create_dataset("loss", (2,), "f8", external=[("problem.py", 0, 16)])

    def huge(name: str, dtype: Any) -> Callable[[h5py.File], None]:
        return lambda file: _replaced(file, name, shape=(2, 10**11), dtype=dtype, chunks=(1, 1000))

    def long(name: str, dtype: Any) -> Callable[[h5py.File], None]:
        return lambda file: _replaced(file, name, shape=(10**12,), dtype=dtype, chunks=(10**6,))

    def packed(file: h5py.File) -> None:
        _replaced(file, "loss/loss", data=np.zeros((2, 10**8), "f4"), chunks=(1, 10**7), compression="gzip")

    def loop(file: h5py.File) -> None:
        file["loss/again"] = file["loss"]

    def itself(file: h5py.File) -> None:
        file["again"] = file["/"]

    def deep(file: h5py.File) -> None:
        group = file["loss"]
        for _ in range(2000):
            group = group.create_group("g")

    def asked(change: dict[str, Any]) -> Callable[[h5py.File], None]:
        return attribute("request", json.dumps(request | change))

    measured = request["measurements"]
    unreal = {"checkpoints": ["0" * 64] * 10**5, "settings": {}}
    changes: dict[str, Callable[[h5py.File], None]] = {
        "an external link": link("loss", h5py.ExternalLink("other.h5", "/loss")),
        "an external link to a device": link("loss", h5py.ExternalLink("/dev/zero", "/loss")),
        "an external link to itself": link("loss", h5py.ExternalLink("x.h5", "/loss")),
        "an external link for a variable": link("loss/loss", h5py.ExternalLink("other.h5", "/loss/loss")),
        "a soft link to itself": link("loss", h5py.SoftLink("/loss")),
        "a soft link to nothing": link("loss", h5py.SoftLink("/nowhere")),
        "a soft link to another": link("loss/loss", h5py.SoftLink("/eigenpairs/products")),
        "a virtual variable": virtual,
        "a variable in another file": raw,
        "a group in itself": loop,
        "the root in itself": itself,
        "groups 2,000 deep": deep,
        "numbers of 1.6 TB": huge("loss/loss", "f8"),
        "hashes of 16 TB": long("loss/sha256", text),
        "provenance of 16 TB": long("loss/provenance", text),
        "steps of 8 TB": long("loss/step", "i8"),
        "800 MB of packed zeros": packed,
        "a variable that is a group": lambda file: (file.__delitem__("loss/sha256"), file.create_group("loss/sha256")),
        "a group that is a variable": lambda file: (file.__delitem__("loss"), file.create_dataset("loss", data=1.0)),
        "a named type for a group": link("loss", np.dtype("f8")),
        "no hashes": lambda file: file.__delitem__("loss/sha256"),
        "no loss": lambda file: file.__delitem__("loss/loss"),
        "no provenance": lambda file: file.__delitem__("loss/provenance"),
        "hashes of numbers": lambda file: _replaced(file, "loss/sha256", data=np.arange(2)),
        "hashes of nothing": lambda file: _replaced(file, "loss/sha256", data=h5py.Empty("f8")),
        "a loss of text": lambda file: _replaced(file, "loss/loss", data=[ESCAPE, "x"], dtype=text),
        "a loss of structures": lambda file: _replaced(file, "loss/loss", data=np.zeros(2, [("a", "f8"), ("b", "i4")])),
        "a loss of references": lambda file: _replaced(file, "loss/loss", data=[file.ref] * 2, dtype=h5py.ref_dtype),
        "a loss of three": lambda file: _replaced(file, "loss/loss", data=np.zeros(3)),
        "values of text": lambda file: _replaced(file, "eigenpairs/eigenvalues", data=[[ESCAPE] * 2] * 2, dtype=text),
        "provenance that is no JSON": lambda file: _replaced(file, "loss/provenance", data=[ESCAPE, "{"], dtype=text),
        "provenance that is deep": lambda file: _replaced(file, "loss/provenance", data=["[" * 10**5] * 2, dtype=text),
        "provenance of nothing": lambda file: _replaced(file, "loss/provenance", data=["{}"] * 2, dtype=text),
        "provenance of lists": lambda file: _replaced(file, "loss/provenance", data=["[]"] * 2, dtype=text),
        "no request": without("request"),
        "no format": without("format"),
        "a request that is no JSON": attribute("request", "{" + ESCAPE),
        "a request that is deep": attribute("request", "[" * 10**5),
        "a request of a number": attribute("request", 5),
        "a request of numbers": attribute("request", np.arange(5)),
        "a request of a list": attribute("request", "[1]"),
        "a request of nothing": asked({"measurements": {}}),
        "a request of names with paths": asked({"measurements": {"../../x": measured["loss"]}}),
        "a request of escapes": asked({"measurements": {ESCAPE: measured["loss"]}}),
        "a request of other hashes": asked({"measurements": {"loss": {"checkpoints": [ESCAPE], "settings": {}}}}),
        "a request of 10^5 rows": asked({"measurements": measured | {"trace": unreal}}),
        "a request with other settings": asked({"common": {ESCAPE: "x" * 10**6}}),
        "a request with deep settings": attribute(
            "request", '{"measurements":{},"common":' + '{"a":' * 900 + "1" + "}" * 901
        ),
        "a newer schema": attribute("schema_version", 10**9),
        "a schema of text": attribute("schema_version", ESCAPE),
        "a schema of numbers": attribute("schema_version", np.arange(7)),
        "an infinite schema": attribute("schema_version", float("inf")),
        "a format of numbers": attribute("format", np.arange(7)),
    }  # fmt: skip
    uses = (("resumed", _resuming), ("merged", _merging), ("drawn", _drawing))
    for place, (name, change) in enumerate(changes.items()):
        for use in ((place % 3), (place + 1) % 3):
            told, wrapped = uses[use]
            yield Case(f"record {told}: {name}", wrapped(_changed(good, change)), plot=told == "drawn", damaged=True)


def _unfinished(good: Path) -> Iterator[Case]:
    header = {"format": "landscape-record", "schema_version": 2, "fingerprint": "", "created": ""}
    request = json.loads(h5py.File(good / "run.h5").attrs["request"])

    def parts(fill: Callable[[Path], Any]) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            (folder / "x.h5.parts").mkdir()
            fill(folder / "x.h5.parts")

        return write

    def asked(content: str | bytes) -> Callable[[Path], Any]:
        return lambda folder: (folder / "request.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )

    def sparse(folder: Path) -> None:
        with (folder / "request.json").open("wb") as file:
            file.truncate(10**11)

    fills: dict[str, Callable[[Path], Any]] = {
        "a FIFO": lambda folder: os.mkfifo(folder / "request.json"),
        "a device": lambda folder: (folder / "request.json").symlink_to("/dev/zero"),
        "a link to itself": lambda folder: (folder / "request.json").symlink_to("request.json"),
        "a folder": lambda folder: (folder / "request.json").mkdir(),
        "100 GB of holes": sparse,
        "deep JSON": asked("[" * 10**5),
        "deep objects": asked(json.dumps(header | {"request": {}})[:-1] + ',"a":' + '{"a":' * 10**5),
        "no JSON": asked(ESCAPE),
        "no UTF-8": asked(b"\xff\xfe\xff"),
        "a list": asked("[]"),
        "a number": asked("9" * 5000),
        "an infinite schema": asked(json.dumps(header | {"schema_version": float("inf"), "request": request})),
        "a schema of text": asked(json.dumps(header | {"schema_version": ESCAPE, "request": request})),
        "another request": asked(json.dumps(header | {"request": request | {"common": {ESCAPE: ESCAPE * 1000}}})),
    }
    for name, fill in fills.items():
        yield Case(f"parts: {name}", _resuming(parts(fill)))
        if name != "another request":
            yield Case(f"parts drawn: {name}", _drawing(parts(fill)), plot=True)

    def climbing(folder: Path) -> None:
        asked(json.dumps(header | {"request": request}))(folder)
        (folder / "loss-1.h5").symlink_to("../../../../../../etc/passwd")
        (folder / "loss-2.h5").symlink_to("loss-2.h5")
        os.mkfifo(folder / "loss-3.h5")
        (folder / "loss-4.h5").symlink_to("/dev/zero")

    yield Case("parts drawn: links that climb out", _drawing(parts(climbing)), plot=True)

    def elsewhere(folder: Path) -> None:
        (folder / "x.h5.parts").symlink_to("..")

    yield Case("parts: a link to the folder above", _resuming(elsewhere))
    yield Case("parts: a file", _resuming(lambda folder: (folder / "x.h5.parts").write_text("x")))
    yield Case("parts: a FIFO in its place", _resuming(lambda folder: os.mkfifo(folder / "x.h5.parts")))


# --- places that aren't ordinary files


def _places() -> Iterator[Case]:
    def fifo(folder: Path) -> None:
        os.mkfifo(folder / "x")

    def made(make: Callable[[Path], Any], *arguments: str) -> Callable[[Path], Sequence[str]]:
        def run(folder: Path) -> Sequence[str]:
            make(folder)
            return arguments

        return run

    def circle(folder: Path) -> None:
        (folder / "x").symlink_to("y")
        (folder / "y").symlink_to("x")

    def holes(folder: Path, beginning: bytes, name: str = "x") -> None:
        with (folder / name).open("wb") as file:
            file.write(beginning)
            file.truncate(10**12)

    nothing = lambda folder: None  # noqa: E731
    yield Case("place: a FIFO", made(fifo, "x"))
    yield Case("place: a FIFO as the second", made(fifo, "a.pt", "x"))
    yield Case("place: a FIFO as the record", made(fifo, "a.pt", "-o", "x"))
    yield Case("place: a FIFO to be joined", made(fifo, "--merge", "x", "-o", "joined.h5"))
    yield Case("place: a FIFO to be drawn", made(fifo, "x"), plot=True)
    yield Case("place: a FIFO as the problem", made(lambda f: os.mkfifo(f / "x.py"), "a.pt", "--problem", "x.py:tiny"))
    yield Case(
        "place: a FIFO as a direction",
        made(lambda f: os.mkfifo(f / "x.npy"), "a.pt", "--slice", "1d", "--direction", "x.npy"),
    )
    yield Case(
        "place: a FIFO as a direction of a record",
        made(lambda f: os.mkfifo(f / "x.h5"), "a.pt", "--slice", "1d", "--direction", "x.h5"),
    )
    yield Case("place: a FIFO as a preconditioner", made(fifo, "a.pt", "--trace", "--precondition", "x"))
    yield Case("place: a device as a preconditioner", made(nothing, "a.pt", "--trace", "--precondition", "/dev/zero"))
    yield Case(
        "place: a device as a direction",
        made(lambda f: (f / "x.npy").symlink_to("/dev/zero"), "a.pt", "--slice", "1d", "--direction", "x.npy"),
    )
    for device in ("/dev/zero", "/dev/full", "/dev/tty", "/proc/self/mem", "/proc/self/environ"):
        yield Case(f"place: {device}", made(nothing, device))
    yield Case("place: /dev/zero to be joined", made(nothing, "--merge", "/dev/zero", "-o", "joined.h5"))
    yield Case("place: /dev/zero to be drawn", made(nothing, "/dev/zero"), plot=True)
    yield Case("place: /dev/full as the record", made(nothing, "a.pt", "-o", "/dev/full"))
    yield Case("place: a circle of links", made(circle, "x"))
    yield Case("place: a circle of links as the record", made(circle, "a.pt", "-o", "x"))
    yield Case("place: a circle of links to be joined", made(circle, "--merge", "x", "-o", "joined.h5"))
    yield Case("place: a circle of links to be drawn", made(circle, "x"), plot=True)
    yield Case("place: a circle of links as the project", made(circle, "a.pt", "--project", "x"))
    yield Case("place: a folder to be joined", made(lambda f: (f / "x").mkdir(), "--merge", "x", "-o", "joined.h5"))
    yield Case("place: a folder to be drawn", made(lambda f: (f / "x").mkdir(), "x"), plot=True)
    yield Case("place: 1 TB of holes as safetensors", made(lambda f: holes(f, b"", "x.safetensors"), "x.safetensors"))
    yield Case("place: 1 TB of holes as a pickle", made(lambda f: holes(f, b"\x80\x02"), "x"))
    yield Case("place: 1 TB of holes as a zip", made(lambda f: holes(f, b"PK\x03\x04"), "x"))
    yield Case(
        "place: 1 TB of holes as a record", made(lambda f: holes(f, b"\x89HDF\r\n\x1a\n"), "--merge", "x", "-o", "y.h5")
    )
    yield Case(
        "place: 1 TB of holes as a direction",
        made(lambda f: holes(f, b"\x93NUMPY", "x.npy"), "a.pt", "--slice", "1d", "--direction", "x.npy"),
    )
    claims = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    yield Case(
        "place: a direction of 8 TB",
        made(
            lambda f: (f / "x.npy").write_bytes(claims.ljust(128) + bytes(8)),
            "a.pt",
            "--slice",
            "1d",
            "--direction",
            "x.npy",
        ),
    )
    yield Case(
        "place: a direction of objects",
        made(
            lambda f: np.save(f / "x.npy", np.array([{}], object), allow_pickle=True),
            "a.pt",
            "--slice",
            "1d",
            "--direction",
            "x.npy",
        ),
    )
    names = {
        "line ends": "a\nb\rc\x0bd\x85e\u2028.pt",
        "escapes": f"{ESCAPE}.pt",
        "no UTF-8": "\udcff\udcfe.pt",
        "right to left": "\u202egpj.pt",
        "200 letters": "n" * 200,
    }
    for told, name in names.items():
        yield Case(f"name of {told}", made(lambda f, name=name: (f / name).write_bytes(b"\xff\x00"), name))
        yield Case(f"name of {told}, of nothing", made(nothing, name))
        yield Case(
            f"name of {told}, drawn", made(lambda f, name=name: (f / name).write_bytes(b"\xff\x00"), name), plot=True
        )
    yield Case("name of 5,000 letters", made(nothing, "n" * 5000))
    yield Case("name of 100,000 letters", made(nothing, "n/" * 50_000))


# --- pyproject.toml


def _projects() -> Iterator[Case]:
    def project(content: str | bytes, *more: str) -> Callable[[Path], Sequence[str]]:
        def make(folder: Path) -> Sequence[str]:
            (folder / "pyproject.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
            return ["a.pt", *more]

        return make

    def problem(value: str) -> str:
        return f"[tool.landscape.problems]\ndefault = {value}\n"

    contents: dict[str, str | bytes] = {
        "deep lists": problem("[" * 10**5),
        "deep tables": problem("{a=" * 10**4),
        "a deep name": "[" + "a." * 10**5 + "a]\n",
        "a deep key": "a." * 10**5 + "a = 1\n",
        "many deep names": "".join(f"[{'a.' * 500}x{number}]\n" for number in range(1000)),
        "2 MB": problem('"problem.py:tiny"') + "# \n" * 700_000,
        "2 MB of keys": problem('"problem.py:tiny"') + "".join(f"k{i} = 1\n" for i in range(150_000)),
        "no TOML": "\x1b[31m = = =",
        "no UTF-8": b"\xff\xfe",
        "a number for a name": problem("5"),
        "a table for a name": problem("{a = 1}"),
        "a list for a name": problem("[1]"),
        "a list for the table": "[tool.landscape]\nproblems = [1]\n",
        "a text for the table": "[tool]\nlandscape = 'x'\n",
        "10^5000": problem("9" * 5000),
        "a name of 1 MB": problem('"' + "n" * 10**6 + ':x"'),
        "a name with escapes": problem(json.dumps(ESCAPE + ":x")),
        "a module of dots": problem('"....:x"'),
        "a module of nothing": problem('":x"'),
        "a module with a zero": problem('"a\\u0000b:x"'),
        "a file with a zero": problem('"a\\u0000b.py:x"'),
        "a file of a device": problem('"/dev/zero.py:x"'),
        "a folder for a file": problem('"/:x"'),
    }
    for name, content in contents.items():
        yield Case(f"pyproject: {name}", project(content))

    def holes(folder: Path) -> Sequence[str]:
        with (folder / "pyproject.toml").open("r+b") as file:
            file.truncate(10**11)
        return ["a.pt"]

    yield Case("pyproject: 100 GB of holes", holes)
    yield Case("pyproject: named, deep", project(problem("[" * 10**5), "--project", "."))


# --- the command line

_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-0",
    "-1",
    "9" * 30,
    "9" * 5000,
    "",
    " ",
    "\u0663x",
    "0x10",
    "1e",
    "\x1b[31m",
)


def _values() -> Iterator[Case]:
    whole = {
        "-k": ["--hessian"], "--probes": ["--trace"], "--steps": ["--density"], "--max-products": ["--hessian"],
        "--points": ["--slice", "1d"], "--subset": ["--slice", "1d"], "--seed": ["--hessian"],
        "--at": ["--slice", "1d"],
        "--batch-size": [], "--fisher-samples": ["--trace", "--matrix", "fisher-mc"],
    }  # fmt: skip
    real = {
        "--tol": ["--hessian"], "--tol-value": ["--hessian"], "--tol-estimate": ["--trace"], "--log-det": [],
        "--effective-dimension": [], "--reach": ["--slice", "1d"], "--adaptive": ["--slice", "2d"],
    }  # fmt: skip
    texts = (
        "nan",
        "inf",
        "",
        "9" * 400 + "GB",
        "-1GB",
        "\u0663GB",
        "1e30GB",
        "0GB",
        "1" + "0" * 5000,
        "\x1b[31m",
        "1.1.1GB",
    )
    for option, more in (whole | real).items():
        for place, value in enumerate(_NUMBERS):
            if (place + len(option)) % 3 == 0:
                yield Case(
                    f"value {option} {value[:20]!r}",
                    lambda folder, option=option, value=value, more=more: ["a.pt", *more, f"{option}={value}"],
                    damaged=True,
                )
    for value in texts:
        yield Case(
            f"value --memory {value[:20]!r}", lambda folder, value=value: ["a.pt", "--trace", f"--memory={value}"]
        )
    others = {
        "--device": ["", "\x1b[31m", "cuda:" + "9" * 400, "cpu\n"],
        "--problem": [
            "",
            ":",
            "::",
            "a:b:c",
            "../x.py:y",
            "\x1b[31m:x",
            "x" * 100_000,
            "os:system.x",
            "problem.py:__class__",
        ],
        "--params": ["", "[", "\x1b[31m", "*" * 100],
        "--project": ["", "\x1b[31m", "x" * 5000],
        "-o": ["", "\x1b[31m/x", "x" * 5000, "/nowhere/x", "/dev/null/x"],
        "--\x1b[31m": ["x"],
    }
    for option, values in others.items():
        for value in values:
            yield Case(
                f"value {option!r} {value[:20]!r}", lambda folder, o=option, v=value: ["a.pt", f"{o}={v}"], damaged=True
            )
    plotted = {
        "--width": ["nan", "inf", "-1", "1e400", "", "\x1b[31m", "9" * 5000],
        "--step": ["9" * 30, "nan", "-5"],
        "--figure": ["", "\x1b[31m", "x" * 100_000],
        "--matrix": ["", "\x1b[31m", "../x"],
        "-o": ["a.pt", "a.pt/x", "x" * 300],
    }
    for option, values in plotted.items():
        for value in values:
            yield Case(
                f"value of the plot {option} {value[:20]!r}",
                lambda folder, o=option, v=value: ["run.h5", f"{o}={v}"], plot=True, damaged=True,
            )  # fmt: skip


def make_good(folder: Path, run: Callable[[list[str]], int]) -> None:
    """Write the good files that other files are made from.

    Args:
        folder: folder of a project of 13 parameters with a.pt and b.pt; the working directory.
        run: the command landscape-probe, as a function of its arguments.
    """
    state = torch.load(folder / "a.pt")["state"]
    torch.save(state, folder / "bare.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, folder / "a.safetensors")
    assert run([*RUN, "-o", "run.h5"]) == 0
