"""Checkpoints: every format is read, no code in a file is run, and every wrong file gives an error of one line."""

import argparse
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import pathlib
import pickle
import struct
import sys
import tempfile
import types
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from landscape.checkpoint import fit_state, read_checkpoint, save_checkpoint
from landscape.checkpoint.contents import _globals
from landscape.checkpoint.layout import WEIGHT_KEYS, Where
from landscape.checkpoint.optimizer import Entry, _orders
from landscape.checkpoint.scan import refuse_bombs
from landscape.checkpoint.stand_ins import LeftOut, stand_ins
from landscape.errors import InputError


class Tied(nn.Module):
    """A model whose embedding and output projection share one matrix, as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


class Marker:
    """An object that writes a file when a reader that runs code unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refusal(path, **options):
    """The message that reading ``path`` ends with, which must be one line that names the file."""
    with pytest.raises(InputError) as caught:
        read_checkpoint(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def misfit(state, model):
    with pytest.raises(InputError) as caught:
        fit_state(state, model, "run/step7.pt")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("run/step7.pt: ")
    return message


# --- the package's own format


def test_own_format_comes_back_as_it_was_written(tmp_path):
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(6, 3)).sum().backward()
    optimizer.step()
    arguments = {"vocab": 8, "rates": (0.1, [1, None]), "name": "näme", "deep": {"flag": True}}
    path = save_checkpoint(
        tmp_path / "new" / "folder" / "a.pt",
        model.state_dict(),
        step=12,
        optimizer=optimizer.state_dict(),
        problem="markov",
        arguments=arguments,
        metrics={"loss": np.float32(0.5), "accuracy": 1},
    )
    checkpoint = read_checkpoint(path)
    assert same(checkpoint.state, model.state_dict())
    assert (checkpoint.format, checkpoint.step, checkpoint.problem) == ("landscape", 12, "markov")
    assert checkpoint.arguments == arguments
    assert checkpoint.metrics == {"loss": 0.5, "accuracy": 1.0}
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    restored = torch.optim.Adam(small_model().parameters())
    restored.load_state_dict(checkpoint.optimizer)
    first = model[0].weight
    assert torch.equal(
        restored.state[restored.param_groups[0]["params"][0]]["exp_avg"], optimizer.state[first]["exp_avg"]
    )


def test_what_was_left_out_is_none_or_empty(tmp_path):
    checkpoint = read_checkpoint(save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(2)}))
    assert (checkpoint.step, checkpoint.problem, checkpoint.optimizer) == (None, None, None)
    assert (checkpoint.arguments, checkpoint.metrics, checkpoint.notes) == ({}, {}, ())


def test_numpy_scalars_of_a_schedule_are_stored_as_numbers(tmp_path):
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(0.1), "steps": np.int64(3), "params": [0]}]}
    checkpoint = read_checkpoint(save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(1)}, optimizer=optimizer))
    assert checkpoint.optimizer == optimizer


def test_saving_leaves_nothing_but_the_file(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(2)})
    save_checkpoint(tmp_path / "a.pt", {"w": torch.zeros(2)})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]
    assert torch.equal(read_checkpoint(tmp_path / "a.pt").state["w"], torch.zeros(2))


def test_a_failed_write_keeps_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(2)})
    before = path.read_bytes()

    def full_disk(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        save_checkpoint(path, {"w": torch.zeros(2)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    ("state", "options", "says"),
    [
        ({"w": [1.0]}, {}, "not a tensor"),
        ({3: torch.ones(1)}, {}, "keys must be strings"),
        ({}, {"problem": "code.py:run"}, "not a name"),
        ({}, {"problem": "../x"}, "not a name"),
        ({}, {"arguments": {"path": pathlib.Path("x")}}, r"arguments\['path'\] is a .*Path"),
        ({}, {"arguments": {"t": torch.ones(1)}}, "is a Tensor"),
        ({}, {"arguments": {(1, 2): 3}}, "keys must be strings"),
        ({}, {"optimizer": {"state": {0: object()}}}, r"optimizer\['state'\]\[0\] is a object"),
    ],
)
def test_saving_refuses_what_could_not_be_read_back(tmp_path, state, options, says):
    with pytest.raises(InputError, match=says) as caught:
        save_checkpoint(tmp_path / "a.pt", state, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_saving_below_a_file_is_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"kept")
    with pytest.raises(InputError, match="cannot be written") as caught:
        save_checkpoint(tmp_path / "a.pt" / "b.pt", {"w": torch.ones(1)})
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.pt").read_bytes() == b"kept"


def test_reading_below_a_file_is_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    refusal(tmp_path / "a.pt" / "b.pt")


def test_tied_tensors_are_stored_once(tmp_path):
    state = Tied().state_dict()
    loaded = read_checkpoint(save_checkpoint(tmp_path / "a.pt", state)).state
    assert loaded["embedding.weight"].data_ptr() == loaded["head.weight"].data_ptr()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2.*upgrade"),
        ({"step": "x"}, "step is missing or of the wrong type"),
        ({"state": {}}, "is empty"),
    ],
)
def test_own_format_of_another_version_or_shape(tmp_path, change, says):
    path = save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(1)})
    torch.save(torch.load(path) | change, path)
    with pytest.raises(InputError, match=says):
        read_checkpoint(path)


@pytest.mark.parametrize("lacking", ["state", "step", "problem", "arguments", "optimizer", "metrics"])
def test_own_format_with_an_entry_missing(tmp_path, lacking):
    path = save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(1)})
    torch.save({key: value for key, value in torch.load(path).items() if key != lacking}, path)
    assert f"its {lacking} is missing" in refusal(path)


# --- other people's formats


@pytest.mark.parametrize("zipped", [True, False])
def test_bare_state_dict(tmp_path, zipped):
    state = small_model().state_dict()
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert same(checkpoint.state, dict(state))
    assert checkpoint.format == "state_dict"
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in checkpoint.state.values())


@pytest.mark.parametrize("key", WEIGHT_KEYS)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_in_a_training_dict(tmp_path, key, zipped):
    state = small_model().state_dict()
    torch.save({"config": {"lr": 0.1}, key: state}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert same(checkpoint.state, dict(state))
    assert checkpoint.format == f"dict['{key}']"
    assert checkpoint.notes == ()


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise(WEIGHT_KEYS)))
def test_of_several_weights_the_first_is_taken_and_said(tmp_path, first, second):
    torch.save({second: {"w": torch.zeros(1)}, first: {"w": torch.ones(1)}}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.state["w"].item() == 1
    assert any(repr(first) in note and repr(second) in note for note in checkpoint.notes)


def test_a_parameter_named_like_a_container_is_a_parameter(tmp_path):
    torch.save({"weights": torch.ones(2), "model": torch.ones(3)}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert (checkpoint.format, set(checkpoint.state)) == ("state_dict", {"weights", "model"})


@pytest.mark.parametrize(
    ("entries", "step"),
    [
        ({"step": 5}, 5),
        ({"global_step": torch.tensor(6)}, 6),
        ({"iteration": 7.0}, 7),
        ({"iter_num": 8, "epoch": 2}, 8),
        ({"iter": 9}, 9),
        ({"global_step": 2, "step": 1}, 1),
        ({"epoch": 3}, None),
        ({"step": True}, None),
        ({"step": float("nan")}, None),
        ({"step": 1.5}, None),
        ({}, None),
    ],
)
def test_step(tmp_path, entries, step):
    torch.save({"model": {"w": torch.ones(1)}} | entries, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.step == step
    assert any("step" in note for note in checkpoint.notes) == (step is not None or "epoch" in entries)


@pytest.mark.parametrize(
    ("key", "wrap"), [("optimizer", False), ("optimizer_state_dict", False), ("optimizer_states", True)]
)
def test_optimizer(tmp_path, key, wrap):
    state = torch.optim.SGD(small_model().parameters(), momentum=0.9).state_dict()
    torch.save({"state_dict": {"w": torch.ones(1)}, key: [state] if wrap else state}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").optimizer == state


def test_extra_state_of_modules_is_left_aside_and_said(tmp_path):
    torch.save({"a.w": torch.ones(1), "a._extra_state": {"scale": 1}}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert set(checkpoint.state) == {"a.w"}
    assert "a._extra_state" in checkpoint.notes[0]


def test_safetensors(tmp_path):
    state = dict(small_model().state_dict())
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert same(checkpoint.state, state)
    assert checkpoint.format == "safetensors"
    assert checkpoint.sha256 == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()


def test_safetensors_under_another_name(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "a.bin")
    assert read_checkpoint(tmp_path / "a.bin").format == "safetensors"


def test_safetensors_brings_back_the_tied_name_it_left_out(tmp_path):
    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "a.safetensors"))
    assert len(safetensors.torch.load_file(tmp_path / "a.safetensors")) == 1  # else this test would be empty
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert same(checkpoint.state, dict(model.state_dict()))
    assert "restored" in checkpoint.notes[0]


def test_safetensors_does_not_change_when_the_file_is_overwritten(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"w": torch.ones(4096)}, path)
    state = read_checkpoint(path).state
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(b"\0" * 20000)
    assert torch.equal(state["w"], torch.ones(4096))


# --- code in files


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_code_is_run(tmp_path, zipped, protocol):
    torch.save(
        {"model": small_model().state_dict(), "x": Marker(tmp_path / "marker")},
        tmp_path / "a.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    message = refusal(tmp_path / "a.pt")
    assert not (tmp_path / "marker").exists()
    assert "posix.mkdir" in message
    assert "--allow-code-execution" in message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_code_is_run_from_a_plain_pickle(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"x": Marker(tmp_path / "marker"), "y": [Marker(tmp_path / "m2")]}, protocol))
    message = refusal(path)
    assert not (tmp_path / "marker").exists()
    assert protocol < 2 or "posix.mkdir" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_run_when_allowed(tmp_path, zipped):
    content = {"model": {"w": torch.ones(1)}, "x": Marker(tmp_path / "marker")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "a.pt", allow_code_execution=True)
    assert (tmp_path / "marker").exists()
    assert checkpoint.state["w"].item() == 1


class Settings:
    """Settings of a training script."""

    def __init__(self, **named):
        self.__dict__.update(named)

    def __setstate__(self, state):
        raise AssertionError


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_the_weights_are_left_out(tmp_path, zipped):
    content = {
        "model": {"w": torch.ones(1)},
        "args": argparse.Namespace(lr=1, out=Path("runs")),
        "settings": Settings(inner=Settings(), dtype=torch.bfloat16),
        "scores": np.ones(3),
        "when": datetime.now(UTC),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert same(checkpoint.state, content["model"])
    assert "argparse.Namespace" in checkpoint.notes[0]
    with pytest.raises(AssertionError):
        torch.load(tmp_path / "a.pt", weights_only=False)


@pytest.mark.parametrize("scalar", [np.float64(7), np.float32(7), np.int64(7), np.uint8(7), np.dtype(">i4").type(7)])
def test_numpy_scalars_are_numbers(tmp_path, scalar):
    state = {"w": torch.ones(1)}
    groups = [{"params": [0], "lr": scalar}]
    torch.save({"model": state, "step": scalar, "optimizer": {"state": {}, "param_groups": groups}}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.step == 7
    assert checkpoint.optimizer["param_groups"][0]["lr"] == 7


@pytest.mark.parametrize("code", ["f8", ">f8", "<i4"])
def test_scalars_in_any_order_of_bytes(code):
    (make, _), (dtype, _) = stand_ins(["numpy._core.multiarray.scalar", "numpy.dtype"])
    known = dtype(code[-2:], False, True)
    known.__setstate__((3, code[0], None, None, None, -1, -1, 0))
    assert make(known, np.array(-5, code).tobytes()) == -5
    for damaged in ((), (known,), (known, b"1"), (known, "12345678"), (dtype("O8"), b"12345678"), (dtype(8), b"1")):
        assert isinstance(make(*damaged), LeftOut)


def test_counters_with_defaults_are_read(tmp_path):
    scores = defaultdict(list, {"loss": [1.0]})
    torch.save({"model": {"w": torch.ones(1)}, "scores": scores, "by": np.ones(1)}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").state["w"].item() == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_never_left_out(tmp_path, zipped):
    content = {"model": {"w": torch.ones(1), "v": Settings()}, "args": argparse.Namespace()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert "not named tensors: 'v' (Settings)" in refusal(tmp_path / "a.pt")
    torch.save(Settings(w=torch.ones(1)), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert "holds a Settings, not a state dict" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "name", ["builtins.eval", "os.system", "__builtin__.exec", "subprocess.Popen", "runpy.run_path"]
)
def test_functions_are_refused(name):
    assert stand_ins(["argparse.Namespace", name]) is None


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_whole_model(tmp_path, zipped, inside):
    model = small_model()
    torch.save({"model": model} if inside else model, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "a.pt")
    assert "whole pickled model" in message
    assert "torch.nn.modules.linear.Linear" in message
    assert "save model.state_dict()" in message
    allowed = read_checkpoint(tmp_path / "a.pt", allow_code_execution=True)
    assert same(allowed.state, dict(model.state_dict()))


def test_plain_pickle_of_tensors(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"w": torch.ones(2)}))
    assert "torch.save did not write" in refusal(path)
    assert torch.equal(read_checkpoint(path, allow_code_execution=True).state["w"], torch.ones(2))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_protocol_that_the_safe_loader_does_not_read(tmp_path, zipped):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(2)}, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    assert "pickle_protocol" in refusal(path)
    assert torch.equal(read_checkpoint(path, allow_code_execution=True).state["w"], torch.ones(2))


@pytest.mark.parametrize("size", range(1, 130))
def test_safetensors_headers_of_every_length(tmp_path, size):
    """Some lengths begin with the byte that a pickle begins with."""
    safetensors.torch.save_file({"w" * size: torch.ones(1)}, tmp_path / "a.bin")
    assert read_checkpoint(tmp_path / "a.bin").format == "safetensors"


def test_allowed_code_that_cannot_be_found(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04cno_such_module\nThing\n.")
    assert "no_such_module.Thing" in refusal(path)
    assert "ModuleNotFoundError" in refusal(path, allow_code_execution=True)


# --- files that are no checkpoint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
        (b"\n <!DOCTYPE html>\n<html></html>", "web page"),
        (b"<html><body>Sign in</body></html>", "web page"),
        (b"loss: 0.5\nstep: 3\n", "text file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(64), "gzip"),
        (b"\x93NUMPY\x01\x00" + bytes(64), "NumPy"),
        (b"GGUF\x03" + bytes(64), "GGUF"),
        (b"\xde\xad\xbe\xef" * 40, "unknown first bytes"),
        (b"\x80", "cut short or damaged"),
        (b"PK\x03\x04", "cut short or damaged"),
        ((1 << 20).to_bytes(8, "little") + b'{"w":', "as a safetensors file"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_of_other_kinds(tmp_path, content, says, name):
    (tmp_path / name).write_bytes(content)
    if (says in ("text file", "unknown first bytes") or content == b"\x80") and name == "a.safetensors":
        says = "as a safetensors file"
    assert says in refusal(tmp_path / name)


def test_no_such_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.pt")


def test_folders(tmp_path):
    assert "is a folder" in refusal(tmp_path)


def test_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(1)})
    path.chmod(0)
    assert "PermissionError" in refusal(path)


def test_torchscript(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting itself is deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "a.pt"))
    assert "TorchScript" in refusal(tmp_path / "a.pt")
    assert "TorchScript" in refusal(tmp_path / "a.pt", allow_code_execution=True)


def test_a_zip_archive_of_a_version_to_come(tmp_path):
    content = bytearray(example_bytes("zip"))
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 6] = 64  # "version needed to extract" of its last entry
    (tmp_path / "a.pt").write_bytes(content)
    assert "cut short or damaged" in refusal(tmp_path / "a.pt")


def test_other_zip_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "zip archive that torch.save did not write" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(1)], "holds a list"),
        (torch.ones(3), "holds a Tensor"),
        (7, "holds a int"),
        ({}, "empty dict"),
        ({"epoch": 3, "lr": 0.1}, "its keys are 'epoch', 'lr'"),
        ({"model": {}}, f" and {len(WEIGHT_KEYS) - 3} more usual keys"),
        ({"w": torch.ones(1), "step": 3}, "'step' (int)"),
        ({"model": {"w": torch.ones(1), 3: torch.ones(1)}}, "3 (Tensor)"),
        ({"w": torch.ones(2, device="meta")}, "on meta"),
        ({"w": torch.eye(2).to_sparse()}, "sparse"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_content_without_a_state_dict(tmp_path, content, says, zipped):
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert says in refusal(tmp_path / "a.pt")


@functools.cache  # the older format holds memory addresses, so every writing gives other bytes
def example_bytes(kind):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "whole"
        state = dict(small_model().state_dict())
        if kind == "own":
            save_checkpoint(path, state, step=1)
        elif kind == "safetensors":
            safetensors.torch.save_file(state, path)
        else:
            torch.save({"model": state}, path, _use_new_zipfile_serialization=kind == "zip")
        return path.read_bytes()


@pytest.mark.parametrize("kind", ["own", "zip", "legacy", "safetensors"])
def test_every_truncation_is_refused(tmp_path, kind):
    whole = example_bytes(kind)
    path = tmp_path / "cut"
    for length in sorted({*range(1, len(whole), 37), *range(len(whole) - 40, len(whole))}):
        path.write_bytes(whole[:length])
        refusal(path)


# One file is overwritten for each example, which the health check doesn't know.
FILES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FILES
@given(
    content=st.binary(min_size=1, max_size=400), head=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"])
)
def test_random_bytes_are_refused(tmp_path, content, head):
    path = tmp_path / "random"
    path.write_bytes(head + content)
    refusal(path)


@FILES
@pytest.mark.parametrize("kind", ["own", "zip", "legacy", "safetensors"])
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_in_one_line(tmp_path, kind, data):
    content = bytearray(example_bytes(kind))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    message, checkpoint = "", None
    try:
        checkpoint = read_checkpoint(path)
    except InputError as error:
        message = str(error)
    if checkpoint is None:
        assert "\n" not in message
        assert str(path) in message
    else:  # the damage was to a number, a name or padding, which the formats do not protect
        assert all(isinstance(value, torch.Tensor) for value in checkpoint.state.values())


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(1)})
    load = torch.load

    def slow_load(*arguments, **options):
        content = load(*arguments, **options)
        os.utime(path, ns=(1, 1))
        return content

    monkeypatch.setattr(torch, "load", slow_load)
    assert "changed while it was read" in refusal(path)


# --- fitting to a model


def test_names_that_fit_stay():
    model = small_model()
    state, notes = fit_state(model.state_dict(), model, "a.pt")
    assert same(state, dict(model.state_dict()))
    assert notes == ()


WRAPPERS = st.lists(st.sampled_from(["module.", "_orig_mod.", "model."]), max_size=5).map("".join)


@given(wrappers=WRAPPERS)
def test_any_wrapping_is_undone(wrappers):
    model = small_model()
    expected = dict(model.state_dict())
    state, notes = fit_state({wrappers + name: value for name, value in expected.items()}, model, "a.pt")
    assert list(state) == list(expected)
    assert same(state, expected)
    assert notes == ((f"removed the prefix {wrappers!r} from the names of the weights",) if wrappers else ())


@given(of_file=WRAPPERS, of_model=st.lists(st.sampled_from(["module", "model"]), max_size=3))
def test_any_wrapping_becomes_any_other(of_file, of_model):
    model, state = small_model(), dict(small_model().state_dict())
    for name in of_model:
        model = nn.ModuleDict({name: model})
    fitted, notes = fit_state({of_file + name: value for name, value in state.items()}, model, "a.pt")
    prefix = "".join(f"{name}." for name in reversed(of_model))
    assert same(fitted, {prefix + name: value for name, value in state.items()})
    assert bool(notes) == (of_file != prefix)


def test_a_compiled_model_takes_the_plain_names():
    model = small_model()
    fitted, notes = fit_state(model.state_dict(), torch.compile(model, backend="eager"), "a.pt")
    assert set(fitted) == {f"_orig_mod.{name}" for name in model.state_dict()}
    assert notes == ("added the prefix '_orig_mod.' to the names of the weights",)


def test_a_submodule_called_model_keeps_its_name():
    model = nn.ModuleDict({"model": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    state, notes = fit_state({f"module.{k}": v for k, v in model.state_dict().items()}, model, "a.pt")
    assert same(state, dict(model.state_dict()))
    assert notes == ("removed the prefix 'module.' from the names of the weights",)


def test_a_prefix_whose_removal_would_merge_two_names_stays():
    message = misfit({"model.weight": torch.ones(1, 1), "weight": torch.zeros(1, 1)}, nn.Linear(1, 1, bias=False))
    assert "1 unknown to the model (model.weight)" in message


def test_names_that_do_not_fit_are_counted_and_listed():
    state = {f"extra{i}": torch.ones(1) for i in range(9)} | {"0.bias": torch.ones(4)}
    message = misfit(state, nn.Sequential(nn.Linear(3, 4)))
    assert "1 missing from the file (0.weight)" in message
    assert "9 unknown to the model (extra0, extra1, extra2, extra3 and 5 more)" in message


def test_wrong_shapes_are_listed_with_both():
    message = misfit(nn.Linear(3, 4).state_dict(), nn.Linear(2, 4))
    assert "1 shapes differ: weight is (4, 3), in the model (4, 2)" in message


def test_names_from_a_file_cannot_break_the_line():
    assert "a b" in misfit({"a\nb": torch.ones(1)}, nn.Linear(1, 1))


NAME = "a\nb\x1b[31m\u2028c"
OWN = {"format": "landscape-checkpoint", "version": 1, "state": {"w": torch.ones(1)}, "problem": None, "step": 1}


@pytest.mark.parametrize(
    "content",
    [
        {NAME: {NAME: {"w": torch.ones(1)}}},
        {NAME: 1},
        {"state_dict": {NAME: 1}},
        {"state_dict": {NAME: torch.ones(1), "w": torch.ones(1)}, NAME: 1},
        {NAME: torch.ones(2).to_sparse()},
        {NAME: torch.ones(1, device="meta")},
        {f"{NAME}._extra_state": torch.ones(1), "w": torch.ones(1)},
        {"model": {"w": torch.ones(1)}, "step": NAME},
        {**OWN, "metrics": {}, "arguments": {NAME: torch.ones(1)}, "optimizer": None},
        {**OWN, "version": NAME},
        {**OWN, "metrics": {NAME: NAME}, "arguments": {}, "optimizer": None},
    ],
)
@pytest.mark.parametrize("weights", [None, NAME, f"state_dict.{NAME}"])
def test_no_name_anywhere_in_a_file_breaks_the_line(tmp_path, content, weights):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    try:
        said = read_checkpoint(path, where=Where(weights=weights)).notes
    except InputError as error:
        said = (str(error),)
    assert all(each.isprintable() for each in said), said


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(1, 2, dtype=torch.int8),
        torch.ones(1, 2, dtype=torch.complex64),
        torch.ones(1, 2, dtype=torch.bool),
    ],
)
def test_other_kinds_of_number_are_refused(weight):
    message = misfit({"weight": weight}, nn.Linear(2, 1, bias=False))
    assert str(weight.dtype) in message
    assert "torch.float32" in message


def test_quantised_weights_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its quantised tensors
        weight = torch.quantize_per_tensor(torch.ones(1, 2), 0.1, 0, torch.qint8)
    assert "qint8" in misfit({"weight": weight}, nn.Linear(2, 1, bias=False))


def test_a_narrower_float_is_kept_as_it_is():
    half = torch.ones(1, 2, dtype=torch.bfloat16)
    state, _ = fit_state({"weight": half}, nn.Linear(2, 1, bias=False), "a.pt")
    assert state["weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_counted(dtype, bad):
    weight = torch.ones(2, 3)
    weight[0, 1] = weight[1, 2] = bad
    message = misfit({"weight": weight.to(dtype), "bias": torch.ones(2)}, nn.Linear(3, 2))
    assert "weight (2 of 6 entries)" in message
    assert "bias" not in message


def test_large_finite_numbers_pass():
    weight = torch.full((1, 1), 1e300, dtype=torch.float64)  # infinite in float32
    state, _ = fit_state({"weight": weight}, nn.Linear(1, 1, bias=False), "a.pt")
    assert state["weight"].item() == 1e300


def test_a_buffer_may_be_infinite_but_not_nan():
    model = nn.Module()
    model.register_buffer("mask", torch.zeros(2))
    state, _ = fit_state({"mask": torch.tensor([0.0, -torch.inf])}, model, "a.pt")
    assert state["mask"][1] == -torch.inf
    assert "mask (1 of 2 entries)" in misfit({"mask": torch.tensor([0.0, torch.nan])}, model)


def test_a_missing_batch_counter_is_kept_from_the_model():
    model = small_model()
    old = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    state, notes = fit_state(old, model, "a.pt")
    assert state["1.num_batches_tracked"].item() == 0
    assert "1.num_batches_tracked" in notes[0]


@pytest.mark.parametrize("lacking", ["embedding.weight", "head.weight"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_missing_tied_name_is_filled(lacking, prefix):
    model = Tied()
    full = dict(model.state_dict())
    state, notes = fit_state({prefix + k: v for k, v in full.items() if k != lacking}, model, "a.pt")
    assert same(state, full)
    assert any(note.startswith(f"re-tied {lacking}") for note in notes)


def test_tied_names_with_equal_values_share_one_tensor():
    state, notes = fit_state({k: v.clone() for k, v in Tied().state_dict().items()}, Tied(), "a.pt")
    assert state["embedding.weight"] is state["head.weight"]
    assert notes == ()


def test_tied_names_with_different_values_are_refused():
    state = {k: v.clone() for k, v in Tied().state_dict().items()}
    state["head.weight"][0, 0] += 1
    message = misfit(state, Tied())
    assert "embedding.weight and head.weight have different values" in message


def test_ties_are_seen_on_a_meta_model():
    with torch.device("meta"):
        model = Tied()
        untied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    one = {"embedding.weight": torch.ones(5, 3)}
    assert set(fit_state(one, model, "a.pt")[0]) == {"embedding.weight", "head.weight"}
    state = small = dict(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict())
    assert same(fit_state(state, untied, "a.pt")[0], small)


def test_empty_parameters_are_not_tied():
    model = nn.ParameterDict({"a": nn.Parameter(torch.empty(0)), "b": nn.Parameter(torch.empty(0))})
    assert "1 missing from the file (b)" in misfit({"a": torch.empty(0)}, model)


def test_tied_model_from_safetensors_and_back(tmp_path):
    model = Tied()
    safetensors.torch.save_model(model, str(tmp_path / "a.safetensors"))
    state, _ = fit_state(read_checkpoint(tmp_path / "a.safetensors").state, Tied(), "a.safetensors")
    assert same(state, dict(model.state_dict()))


def test_nothing_of_the_model_is_changed():
    model = small_model()
    before = OrderedDict((name, value.clone()) for name, value in model.state_dict().items())
    other = {name: value + 1 for name, value in before.items()}
    state, _ = fit_state(other, model, "a.pt")
    assert same(dict(model.state_dict()), dict(before))
    assert same(state, other)


def test_a_lazy_model_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that lazy modules may change
        model = nn.LazyLinear(3)
    assert "run it once on a batch" in misfit({"weight": torch.ones(3, 2)}, model)


def test_shards_that_hold_a_tensor_twice_are_refused(tmp_path):
    for number in (1, 2):
        safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / f"model-{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}))
    with pytest.raises(InputError, match="holds w, as another file of the same folder does"):
        read_checkpoint(tmp_path)


def test_an_index_that_is_none_is_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    with index.open("wb") as file:
        file.truncate(2**30)  # a hole, of which nothing is read
    with pytest.raises(InputError, match="too many for an index"):
        read_checkpoint(tmp_path)


def test_safetensors_without_tensors_are_refused(tmp_path):
    safetensors.torch.save_file({}, tmp_path / "a.safetensors")
    assert "holds no tensors" in refusal(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("names", "size", "said"), [(["x", "X"], 1, "with one name twice"), (["x"], 10**7, "times its size")]
)
def test_archives_that_torch_never_writes_are_refused(tmp_path, names, size, said):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(size))
    assert said in refusal(tmp_path / "a.pt")


def test_an_averaged_model_is_read_with_its_count(tmp_path):
    model = small_model()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    averaged.update_parameters(model)
    torch.save(averaged.state_dict(), tmp_path / "swa.pt")
    found = read_checkpoint(tmp_path / "swa.pt")
    assert any("average over 2 models" in note for note in found.notes)
    assert same(fit_state(found.state, model, "swa.pt")[0], model.state_dict())


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits_become_float32_and_this_is_told(tmp_path, kind):
    weight = torch.randn(3, 2)
    torch.save({"weight": weight.to(kind), "bias": torch.zeros(3)}, tmp_path / "f8.pt")
    found = read_checkpoint(tmp_path / "f8.pt")
    assert torch.equal(found.state["weight"], weight.to(kind).float())
    assert any("1 tensor" in note and str(kind) in note for note in found.notes)


@pytest.mark.parametrize("kind", ["f4", ">f8", "i8", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_tensors(tmp_path, kind, order):
    array = np.arange(6).reshape(2, 3).astype(kind, order=order)
    for key in (None, "model"):
        torch.save({"w": array} if key is None else {key: {"w": array}}, tmp_path / "np.pt")
        found = read_checkpoint(tmp_path / "np.pt")
        assert found.state["w"].tolist() == array.tolist()
        assert not any("left out" in note for note in found.notes)


def test_settings_that_know_their_types_are_left_out(tmp_path, monkeypatch):
    """Such settings are OmegaConf's, which name typing.Any and plain types beside classes of OmegaConf."""
    module = types.ModuleType("omegaconf")
    module.DictConfig = type("DictConfig", (), {"__module__": "omegaconf"})
    monkeypatch.setitem(sys.modules, "omegaconf", module)
    config = module.DictConfig()
    vars(config).update(kind=Any, element=dict, content={"lr": 0.1})
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": config}, tmp_path / "hydra.ckpt")
    found = read_checkpoint(tmp_path / "hydra.ckpt")
    assert list(found.state) == ["w"]
    assert any("omegaconf" in note for note in found.notes)


def nested(tmp_path):
    model = small_model()
    other = {name: value + 1 for name, value in model.state_dict().items()}
    torch.save({"model": model.state_dict(), "ema": other, "run": {"net.v2": other, "at": {"step": 7}}, "epoch": 3},
               tmp_path / "run-12.pt")  # fmt: skip
    return tmp_path / "run-12.pt", model.state_dict(), other


def test_weights_are_taken_from_where_a_user_says(tmp_path):
    path, usual, other = nested(tmp_path)
    plain = read_checkpoint(path)
    assert same(plain.state, usual)
    assert any("--weights" in note for note in plain.notes)
    digests = {plain.sha256}
    for keys in ("ema", "run.net.v2"):
        found = read_checkpoint(path, where=Where(weights=keys))
        assert same(found.state, other)
        digests.add(found.sha256)
    assert len(digests) == 3, "two sets of weights count as one"
    stripped = read_checkpoint(path, where=Where(strip_prefix="0."))
    assert set(stripped.state) == {"weight", "bias"}
    assert any("left out" in note for note in stripped.notes)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Where(weights="nothing"), "nothing under 'nothing'"),
        (Where(weights="model.0.weight"), "is a Tensor, not a state dict"),
        (Where(weights="run"), "aren't named tensors|not named tensors"),
        (Where(strip_prefix="backbone."), "no name of its weights begins with"),
        (Where(step_from="run.at"), "leads to no whole number"),
        (Where(step_from="run.at.steps"), "nothing under"),
    ],
)
def test_a_wrong_place_is_one_line(tmp_path, where, said):
    path, _, _ = nested(tmp_path)
    with pytest.raises(InputError, match=said) as refused:
        read_checkpoint(path, where=where)
    assert len(str(refused.value).splitlines()) == 1


def test_weights_that_lie_deep_are_named(tmp_path):
    torch.save({"state": {"model": small_model().state_dict()}}, tmp_path / "deep.pt")
    with pytest.raises(InputError, match=r"--weights state\.model"):
        read_checkpoint(tmp_path / "deep.pt")
    assert same(read_checkpoint(tmp_path / "deep.pt", where=Where("state.model")).state, small_model().state_dict())


@pytest.mark.parametrize(("step_from", "step"), [("name", 12), ("epoch", 3), ("run.at.step", 7)])
def test_steps_are_taken_from_where_a_user_says(tmp_path, step_from, step):
    path, _, _ = nested(tmp_path)
    assert read_checkpoint(path).step is None
    assert read_checkpoint(path, where=Where(step_from=step_from)).step == step


@pytest.mark.parametrize(("name", "said"), [("model.onnx", "ONNX"), ("__0_0.distcp", "distributed checkpoint")])
def test_formats_of_others_are_named(tmp_path, name, said):
    torch.save(small_model().state_dict(), tmp_path / name)
    with pytest.raises(InputError, match=said):
        read_checkpoint(tmp_path / name)


def test_the_notes_of_every_shard_are_kept(tmp_path):
    """Each of two shards leaves out a tied name, which its metadata restores."""
    for number in "12":
        tensors = {f"w{number}": torch.full((2,), float(number))}
        safetensors.torch.save_file(tensors, tmp_path / f"model-{number}.safetensors", {f"tied{number}": f"w{number}"})
    index = {"weight_map": {f"w{number}": f"model-{number}.safetensors" for number in "12"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    read = read_checkpoint(tmp_path)
    assert {name: float(value[0]) for name, value in read.state.items()} == {"w1": 1, "tied1": 1, "w2": 2, "tied2": 2}
    assert [sum(f"tied{number}" in note for note in read.notes) for number in "12"] == [1, 1]


@pytest.mark.parametrize("names", [1, 300])
def test_globals_are_found_however_many_texts_come_before(names):
    """A text that a pickle repeats is a number in the memo, of one byte or of four."""
    content = [*map(str, range(names)), OrderedDict, Counter]
    found = list(_globals(io.BytesIO(pickle.dumps(content, protocol=4))))
    assert found == ["collections.OrderedDict", "collections.Counter"]


def test_two_ways_to_match_an_optimiser_are_enough():
    """Two groups of 12 entries that fit everywhere can be merged in 2.7 million ways."""
    entries = [Entry({}, {}, None) for _ in range(24)]
    assert len(_orders([entries[:12], entries[12:]], [torch.Size([2])] * 24)) == 2
    assert _orders([entries[:3]], [torch.Size([2])] * 3) == [entries[:3]]


def test_a_text_far_back_in_the_memo_is_found():
    """Number 300 of the memo, which takes an operation with four bytes to put and one to get."""
    number = struct.pack("<I", 300)
    content = b"\x80\x04\x8c\x0bcollections" + b"r" + number + b"0" + b"j" + number + b"\x8c\x07Counter\x93."
    assert list(_globals(io.BytesIO(content))) == ["collections.Counter"]


@pytest.mark.parametrize(("levels", "bomb"), [(3, False), (40, True)])
def test_a_tuple_that_holds_one_tuple_twice_again_and_again(levels, bomb):
    """A key of a dictionary; each level duplicates what is on the stack."""
    content = io.BytesIO(b"\x80\x02}(" + b"N" + b"2\x86" * levels + b"N" + b"u.")
    with pytest.raises(InputError, match="tuples in tuples") if bomb else nullcontext():
        refuse_bombs(content)


def test_metrics_that_are_no_numbers_are_refused(tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", {"w": torch.ones(1)})
    torch.save(torch.load(path) | {"metrics": {"loss": "low"}}, path)
    assert "its metrics are not all numbers" in refusal(path)
