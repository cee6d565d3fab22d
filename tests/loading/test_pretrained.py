"""Models and checkpoints of many kinds by the command, and refusals of checkpoints that bring their own model."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import types
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import landscape
from landscape.checkpoint.optimizer import entries_by_name
from landscape.errors import InputError
from landscape.loading.pretrained import arrays, bounds, hugging_face, read_with_model
from landscape.loading.pretrained.arrays import read_arrays
from tests.conftest import ROOT
from tests.support.kinds import (
    BERT,
    FOLDERS,
    GPT2,
    KINDS,
    LENGTH,
    LLAMA,
    LM,
    PADDED,
    QUICK,
    SAMPLES,
    VOCABULARY,
    Kind,
    classes,
    folder,
    tokens,
)


def plain_eigenvalues(kind: Kind, k: int) -> np.ndarray:
    """The k eigenvalues of largest magnitude by SciPy, with products by plain double backward in float64."""
    parameters = [each for each in kind.model.parameters() if each.requires_grad]
    gradient = torch.autograd.grad(kind.objective(kind.model), parameters, create_graph=True)
    flat = torch.cat([each.flatten() for each in gradient])

    def product(vector: np.ndarray) -> np.ndarray:
        found = torch.autograd.grad(flat @ torch.from_numpy(vector.ravel()), parameters, retain_graph=True)
        return torch.cat([each.flatten() for each in found]).numpy()

    operator = LinearOperator((len(flat), len(flat)), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(len(flat))
    values = eigsh(operator, k, which="LM", v0=start, tol=1e-10, return_eigenvectors=False)
    return values[np.argsort(-abs(values))]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in KINDS]
)
def test_a_kind_of_model_end_to_end(name, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    kind = KINDS[name](tmp_path)
    with sdpa_kernel(SDPBackend.MATH):
        expected = plain_eigenvalues(kind, 3)
    ran = command(*kind.arguments, "--hessian", "-k", 3, "--tol", 1e-6, "-o", "record.h5")
    assert (ran.status, ran.err) == (0, "")
    with h5py.File("record.h5") as file:
        values = file["eigenpairs/eigenvalues"][0]
        # The command's errors, and the rounding of single precision, in which transformers computes its losses.
        error = file["eigenpairs/residuals"][0] + file["eigenpairs/rounding"][0] + 1e-6 * abs(values[0])
    assert (abs(values - expected) <= error).all(), (values, expected)


# ---------------------------------------------------------------------- what comes with a folder, and what doesn't


@pytest.fixture
def gpt2(tmp_path, monkeypatch):
    """A folder of GPT-2 with a tokenizer of words w0, w1, ...; its parent is the working directory."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    monkeypatch.chdir(tmp_path)
    FOLDERS["gpt2, in two files"](tmp_path)
    words = ["[UNK]", "[PAD]", "[MASK]", *(f"w{i}" for i in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def shared_loss(folder, **given):
    return landscape.load_problem(folder, dtype="float64", **given).loss()


def test_tokens_are_read_alike_from_every_kind_of_file(gpt2):
    ids = tokens()
    np.save("rows.npy", ids.numpy())
    np.save("row.npy", ids.flatten().numpy())
    ids.flatten().numpy().astype("<u2").tofile("row.bin")
    np.savez("named.npz", input_ids=ids.numpy())
    torch.save({"input_ids": ids}, "named.pt")
    lines = [json.dumps({"input_ids": row}) for row in ids.tolist()]
    Path("rows.jsonl").write_text("\n".join(lines))
    text = [" ".join(f"w{i - 3}" for i in row) for row in ids.tolist()]
    Path("text.txt").write_text("\n".join(text))
    Path("text.jsonl").write_text("\n".join(json.dumps({"text": each}) for each in text))
    expected = shared_loss(gpt2, data="data.safetensors")
    for name in ("rows.npy", "named.npz", "named.pt", "rows.jsonl", "text.jsonl"):
        assert shared_loss(gpt2, data=name) == pytest.approx(expected, rel=1e-14), name
    for name in ("row.npy", "row.bin", "text.txt"):
        assert shared_loss(gpt2, data=name, length=LENGTH) == pytest.approx(expected, rel=1e-14), name


def test_what_is_filled_up_does_not_count(gpt2):
    rows = [row[:n] for row, n in zip(tokens().tolist(), (9, 4, 7, 2, 9), strict=True)]
    Path("ragged.jsonl").write_text("\n".join(json.dumps({"input_ids": row}) for row in rows))
    model = FOLDERS["gpt2, in two files"](gpt2.parent).model
    sums, terms = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        sums += (len(row) - 1) * model(input_ids=ids, labels=ids).loss.item()
        terms += len(row) - 1
    # transformers makes its loss in single precision, whatever the model's.
    assert shared_loss(gpt2, data="ragged.jsonl") == pytest.approx(sums / terms, rel=1e-6)


def test_the_batch_size_changes_nothing_but_memory(gpt2):
    whole = landscape.load_problem(gpt2, data="data.safetensors", dtype="float64")
    parts = landscape.load_problem(gpt2, data="data.safetensors", dtype="float64", batch_size=2)
    assert ([len(target) for _, target in parts.batches], len(whole.batches)) == ([2, 2, 1], 1)
    assert torch.allclose(parts.gradient(), whole.gradient(), rtol=1e-10, atol=1e-12)


def test_masked_tokens_are_drawn_once_and_told(tmp_path, gpt2):
    for file in gpt2.glob("model*"):
        file.unlink()
    FOLDERS["bert, masked"](tmp_path)  # into the same folder, beside the tokenizer
    Path("text.jsonl").write_text("\n".join(json.dumps({"text": "w1 w2 w3 w4 w5 w6 w7 w8 w9"}) for _ in range(9)))
    problem = landscape.load_problem(gpt2, data="text.jsonl")
    again = landscape.load_problem(gpt2, data="text.jsonl")
    inputs, target = problem.batches[0]
    masked = inputs["input_ids"] == 2
    assert problem.data_sha256 == again.data_sha256
    assert torch.equal(masked, target != -100)
    assert f"{int(masked.sum())} of 81 tokens were drawn once, masked, and are predicted" in problem.notes
    assert 0.05 < float(masked.float().mean()) < 0.3


def test_checkpoints_of_a_run_are_measured_together(gpt2, command):
    trainer = {"0": 10, "1": 20}
    for name, step in trainer.items():
        shutil.copytree(gpt2, name)
        (Path(name) / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    shard = "1/model-00001-of-00002.safetensors"
    save_file({key: 1.1 * value for key, value in load_file(shard).items()}, shard, {"format": "pt"})
    ran = command("1", "0", "--data", "data.safetensors", "-o", "run.h5")
    assert ran.status == 0
    with h5py.File("run.h5") as file:
        assert file["loss/step"][:].tolist() == [10, 20]
        assert file["loss/loss"][0] != file["loss/loss"][1]


def test_the_folder_of_a_run_stands_for_its_checkpoints(gpt2, command):
    for step in (10, 20):
        shutil.copytree(gpt2, f"run/checkpoint-{step}")
        Path(f"run/checkpoint-{step}/trainer_state.json").write_text(json.dumps({"global_step": step}))
    shard = "run/checkpoint-20/model-00001-of-00002.safetensors"
    save_file({key: 1.1 * value for key, value in load_file(shard).items()}, shard, {"format": "pt"})
    Path("run/runs").mkdir()
    assert command("run", "--data", "data.safetensors", "-o", "run.h5").status == 0
    with h5py.File("run.h5") as file:
        assert file["loss/step"][:].tolist() == [10, 20]
    Path("nothing/checkpoint-1").mkdir(parents=True)
    refused = command("nothing", "--data", "data.safetensors")
    assert (refused.status, len(refused.err.splitlines())) == (2, 1)


def test_another_model_is_no_checkpoint_of_the_same_run(gpt2, command):
    shutil.copytree(gpt2, "other")
    config = json.loads((gpt2 / "config.json").read_text())
    Path("other/config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    ran = command("model", "other", "--data", "data.safetensors")
    assert ran.status == 2
    assert "other belongs to another problem or model than model" in ran.err


def test_a_factory_of_ones_own_gets_the_weights_of_a_folder(gpt2, command):
    Path("own.py").write_text(
        "import torch\nfrom transformers import GPT2Config, GPT2LMHeadModel\nfrom landscape import Problem\n"
        "def problem(checkpoint):\n"
        "    ids = torch.arange(18).view(2, 9)\n"
        "    model = GPT2LMHeadModel(GPT2Config.from_pretrained('model'))\n"
        "    return Problem(model, torch.nn.CrossEntropyLoss(), [(ids, ids[:, :, None].flatten(1))],\n"
        "                   read=lambda output: output.logits.transpose(1, 2))\n"
    )
    assert command("model", "--problem", "own.py:problem").status == 0


REFUSED = {
    "no data": ("model", "brings its model but no data: add --data FILE"),
    "no such data": ("model --data none.npy", "none.npy: no such file"),
    "data of an unknown kind": ("model --data data.csv", "data.csv has an unknown format"),
    "damaged data": ("model --data damaged.npz", "damaged.npz can't be read"),
    "data that are a pickle": ("model --data pickle.npy", "pickle.npy can't be read (ValueError: Object arrays"),
    "no samples": ("model --data empty.txt", "empty.txt holds no samples"),
    "uneven arrays": ("model --data uneven.npz", "has 5 input_ids, 4 attention_mask: give one of each for each sample"),
    "an input that the model hasn't": ("model --data pixels.npz", "doesn't take pixels: it takes input_ids"),
    "no tokens": ("model --data mask.npz", "there are no tokens"),
    "a text that is too short": ("model --data short.txt", "has 2 tokens, fewer than one sequence of 16"),
    "a sequence that is too long": ("model --data short.txt --length 99", "16 positions, fewer than the 99 tokens"),
    "a sequence of one token": ("model --data short.txt --length 1", "at least 2 tokens, not 1"),
    "another loss": ("model --data data.safetensors --loss mse", "whose loss is cross-entropy: leave out --loss mse"),
    "a model without a head": ("headless --data data.safetensors", "the loss of GPT2Model isn't known"),
    "a head that was never trained": ("untrained --data data.safetensors", "aren't in its files"),
    "quantised weights": ("quantised --data data.safetensors", "its weights are quantised"),
    "code in the folder": ("code --data data.safetensors", "has no architecture 'Evil' (code in the folder isn't run)"),
    "a function in place of a class": ("function --data data.safetensors", "has no architecture 'pipeline'"),
    "no architecture": ("nameless --data data.safetensors", "names no architecture"),
    "a configuration that isn't one": ("list --data data.safetensors", "holds a list, not a configuration"),
    "a file that is missing": ("missing --data data.safetensors", "names 'model-00002-of-00002.safetensors', not in"),
    "files from elsewhere": ("climbing --data data.safetensors", "names '../model/model-00002-of-00002.safetensors'"),
    "a pickle that runs code": ("pickled --data data.safetensors", "unpickling it would run code: io.open"),
    "an adapter without its model": ("adapter --data data.safetensors", "'somewhere/else' isn't a folder here"),
    "an adapter that brings others": ("mixture --data data.safetensors", "adapters of the kind 'XLORA' aren't read"),
    "pickles from elsewhere": ("outside --data data.safetensors", "names '../pytorch_model.bin', not in outside"),
    "data that are a pickle of ours": ("model --data runs.pt", "is a pickle that torch.save did not write"),
    "data for a checkpoint without a model": ("plain.pt --data data.safetensors", "brings no model for --data"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_says_what_is_wrong(name, gpt2, command):
    arguments, expected = REFUSED[name]
    config = json.loads((gpt2 / "config.json").read_text())
    folders = {
        "headless": {"architectures": ["GPT2Model"]},
        "untrained": {"architectures": ["GPT2ForSequenceClassification"]},
        "quantised": {"quantization_config": {"quant_method": "bitsandbytes"}},
        "code": {"architectures": ["Evil"], "auto_map": {"AutoModelForCausalLM": "evil.Evil"}},
        "function": {"architectures": ["pipeline"]},
        "nameless": {"architectures": []},
    }
    for name_of_folder, change in folders.items():
        shutil.copytree(gpt2, name_of_folder)
        (Path(name_of_folder) / "config.json").write_text(json.dumps(config | change))
    Path("code/evil.py").write_text(f"open({str(gpt2.parent / 'ran')!r}, 'w')")
    for copy in ("list", "missing", "climbing", "pickled", "outside"):
        shutil.copytree(gpt2, copy)
    Path("list/config.json").write_text("[]")
    Path("missing/model-00002-of-00002.safetensors").unlink()
    index = Path("climbing/model.safetensors.index.json")
    index.write_text(index.read_text().replace("model-00002", "../model/model-00002"))
    for file in (*Path("pickled").glob("model*"), *Path("outside").glob("model*")):
        file.unlink()
    Path("pickled/pytorch_model.bin").write_bytes(pickle.dumps(Runs(str(gpt2.parent / "ran"))))
    for adapter, kind in (("adapter", "LORA"), ("mixture", "XLORA")):
        Path(adapter).mkdir()
        settings = {"peft_type": kind, "base_model_name_or_path": "somewhere/else"}
        (Path(adapter) / "adapter_config.json").write_text(json.dumps(settings))
    landscape.save_checkpoint("plain.pt", {"weight": torch.ones(1)})
    np.savez("uneven.npz", input_ids=tokens().numpy(), attention_mask=np.ones((4, 9)))
    np.savez("pixels.npz", pixels=np.ones((5, 3)))
    np.savez("mask.npz", attention_mask=np.ones((5, 3)))
    np.save("pickle.npy", np.array([Runs(str(gpt2.parent / "ran"))]), allow_pickle=True)
    Path("outside/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": "../pytorch_model.bin"}}))
    Path("runs.pt").write_bytes(pickle.dumps(Runs(str(gpt2.parent / "ran"))))
    Path("data.csv").write_text("1,2")
    Path("damaged.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    Path("empty.txt").write_text(" \n")
    Path("short.txt").write_text("w1 w2")
    ran = command(*arguments.split())
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (2, "", 1), ran.err
    assert expected in ran.err
    assert not (gpt2.parent / "ran").exists(), "code in a file was run"


class Runs:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("part", ["", "GPT2LMHeadModel"])
def test_a_broken_library_is_one_line(gpt2, command, monkeypatch, part):
    """Any error may come from the import of transformers or of a part, as beside a torchvision of another torch."""
    import transformers

    def broken(name):
        raise RuntimeError(f"operator torchvision::nms does not exist, for {name}")

    class Broken(types.ModuleType):
        def __getattr__(self, name):
            return broken(name) if name == part else getattr(transformers, name)

    if part:
        monkeypatch.setitem(sys.modules, "transformers", Broken("transformers"))
    else:
        monkeypatch.setattr(hugging_face, "importlib", types.SimpleNamespace(import_module=broken))
    refused = command("model", "--data", "data.safetensors")
    assert (refused.status, len(refused.err.splitlines())) == (2, 1), refused.err
    assert "torchvision::nms" in refused.err
    assert "again" in refused.err


def test_a_missing_library_is_named(gpt2, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    ran = command("model", "--data", "data.safetensors")
    assert ran.status == 2
    assert "model: needs transformers to be read" in ran.err
    assert "pip install 'landscape-probe[hugging-face]'" in ran.err


# ---------------------------------------------------------------------- the loss that the library has


def written(path, name, settings, arrays):
    """Write a folder of an architecture and its data, and return the library's own loss."""
    kind = folder(name, settings, arrays)(path)
    with torch.no_grad():
        return kind.objective(kind.model).item()


def test_the_end_of_a_text_is_where_the_model_looks_for_it(tmp_path, monkeypatch):
    """Classifiers on top of GPT find the end of a text by the padding token, not by a mask."""
    monkeypatch.chdir(tmp_path)
    rows, filling = tokens().tolist(), 2
    full = torch.tensor([row[:n] + [filling] * (LENGTH - n) for row, n in zip(rows, (9, 4, 7, 2, 9), strict=True)])
    mask = (full != filling).long()
    expected = written(
        tmp_path,
        "GPT2ForSequenceClassification",
        GPT2 | {"pad_token_id": filling, "num_labels": 4},
        {"input_ids": full, "attention_mask": mask, "labels": classes()},
    )
    lines = [
        {"input_ids": row[:n], "label": int(c)} for row, n, c in zip(rows, (9, 4, 7, 2, 9), classes(), strict=True)
    ]
    Path("ragged.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert shared_loss("model", data="ragged.jsonl") == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_the_library_makes_otherwise_is_refused(tmp_path, monkeypatch, command):
    """A mixture of experts may be trained with the additional loss of its router."""
    monkeypatch.chdir(tmp_path)
    routed = LLAMA | {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 1.0}
    written(tmp_path, "MixtralForCausalLM", routed, LM)
    ran = command("model", "--data", "data.safetensors")
    assert ran.status == 2
    assert "by the plain loss here: name a loss (--loss)" in ran.err
    assert command("model", "--data", "data.safetensors", "--loss", "cross-entropy").status == 0


def test_targets_that_would_be_broadcast_are_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "BertForSequenceClassification", BERT, PADDED)
    ran = command("model", "--data", "data.safetensors", "--loss", "mse")
    assert ran.status == 2
    assert "BertForSequenceClassification gives 4 numbers a sample" in ran.err


def test_texts_that_are_cut_are_counted(gpt2):
    Path("long.jsonl").write_text("\n".join(json.dumps({"text": "w1 " * n}) for n in (20, 3, 30)))
    problem = landscape.load_problem(gpt2, data="long.jsonl")
    assert "2 of 3 texts are cut to 16 tokens (--length)" in problem.notes


def test_an_adapter_is_known_by_the_model_under_it_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    KINDS["lora on gpt2"](tmp_path)
    before = read_with_model(Path("adapter")).sha256
    weights = load_file("model/model.safetensors")
    save_file({name: 1.1 * value for name, value in weights.items()}, "model/model.safetensors", {"format": "pt"})
    assert read_with_model(Path("adapter")).sha256 != before


# ---------------------------------------------------------------------- programs


def rewritten(path, change):
    """An exported program with its parts changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(parts).items():
            archive.writestr(name, content)


def replacing(old, new):
    """A change that replaces text in the graph, or in the lists of tensors."""
    return lambda parts: {
        name: content.replace(old.encode(), new.encode()) if name.endswith(".json") else content
        for name, content in parts.items()
    }


def other_spelling(parts):
    """Torch's reader takes a file with this spelling for the sample inputs, and would unpickle it."""
    return {name.replace("sample_inputs", "Sample_inputs"): content for name, content in parts.items()}


def with_library(parts):
    return parts | {f"{next(iter(parts)).partition('/')[0]}/data/aotinductor/m/m.so": b""}


def handing_on(parts):
    """A change by which a node calls another operator."""
    return replacing('"arg": {"as_tensor"', '"arg": {"as_operator"')(parts)


IN_A_LIST = '\\"context\\": \\"[\\\\\\"'  # the names of arguments, as a text in a text
HOSTILE = {
    "a function of the system": (replacing("torch.ops.aten.linear.default", "torch.os.system"), "'torch.os.system'"),
    "a file that is mapped": (replacing("aten.linear.default", "aten.from_file.default"), "aten.from_file.default'"),
    "a size that is code": (replacing("Symbol('s", "__import__('os').system('touch ran')+Symbol('s"), "has the size"),
    "a tensor that is a pickle": (replacing('"use_pickle": false', '"use_pickle": true'), "a tensor in it is pickled"),
    "an object that is a pickle": (replacing('"weight_0"', '"opaque_obj_0"'), "'opaque_obj_0'"),
    "an operator that is handed on": (handing_on, "hands an operator on to another"),
    "a file that is saved": (replacing("aten.linear.default", "aten.save.default"), "'torch.ops.aten.save.default'"),
    "a size that explodes": (replacing("Symbol('s", "9**9**9+Symbol('s"), "has the size"),
    "a compiled library": (with_library, "which a plain model hasn't"),
    "another spelling": (other_spelling, "which a plain model hasn't"),
    "two programs, one of an older kind": (lambda parts: parts | {"serialized_state_dict.pt": b""}, "several folders"),
    "a module that is imported": (replacing("builtins.dict", "collections.defaultdict"), "takes or returns a"),
    "an enumeration": (replacing(IN_A_LIST, IN_A_LIST.replace("[", "[1, ")), "takes or returns a"),
    "a name that is code": (replacing('"name": "left"', '"name": "left\\n    import os"'), "which could be code"),
    "a tensor larger than its bytes": (replacing('{"as_int": 3}', '{"as_int": 3000000}'), "bytes in it"),
    "named tuples": (replacing('namedtuple_fields": {}', 'namedtuple_fields": {"a": 1}'), "named tuples"),
    "no program": (lambda parts: {n: c for n, c in parts.items() if "models/" not in n}, "holds no program"),
    "nothing": (lambda parts: {}, "holds no program"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_runs_no_code(name, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["program: two inputs"](tmp_path)
    change, expected = HOSTILE[name]
    rewritten("model.pt2", change)
    ran = command(*kind.arguments)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran.err
    assert expected in ran.err
    assert not Path("ran").exists(), "code in a file was run"


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.pt", lambda path: torch.save({"x": [1]}, path), "x aren't arrays of numbers"),
        ("a.pt", lambda path: torch.save([torch.ones(1)], path), "holds a list"),
        ("a.npy", lambda path: np.save(path, np.ones((2, 3))), "tokens are whole numbers"),
        (
            "a.jsonl",
            lambda path: path.write_text('{"x": [1]}\n{"y": [1]}\n'),
            "aren't objects that all have the same names",
        ),
        ("a.jsonl", lambda path: path.write_text('{"text": 1}\n'), "a 'text' isn't a string"),
        ("a.csv", lambda path: path.write_text("1, 2"), "has an unknown format"),
    ],
)
def test_data_of_another_kind(name, write, said, tmp_path):
    write(tmp_path / name)
    with pytest.raises(InputError, match=said):
        read_arrays(tmp_path / name)


def holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**13)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".npy", ".bin", ".jsonl", ".txt"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path.name), "no such file|can't be read"),
        (Path.mkdir, "not a regular file"),
        (holes, "more than half of this machine's memory"),
    ],
)
def test_data_that_never_end_or_fit_are_refused(make, said, suffix, tmp_path):
    make(tmp_path / f"a{suffix}")
    with pytest.raises(InputError, match=said):
        read_arrays(tmp_path / f"a{suffix}")


def test_small_files_of_large_data_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_LARGE", 10**6)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((10**6, 4)))
    (tmp_path / "a.jsonl").write_text("\n".join(['{"x": [1]}'] * 5000 + [json.dumps({"x": [1] * 5000})]))
    for name in ("a.npz", "a.jsonl"):
        with pytest.raises(InputError, match="more than 20 times its size"):
            read_arrays(tmp_path / name)


def test_a_compressed_program(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["program: two inputs"](tmp_path)
    with zipfile.ZipFile("model.pt2") as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile("model.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    ran = command(*kind.arguments)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "compress" in ran.err or "unpack" in ran.err


def test_a_program_has_the_names_and_constants_of_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
            self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]), persistent=False)
            self.shift = torch.tensor([0.5, 0.25, 0.125])

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x)) * self.scale + self.shift + torch.tensor([1.0, 0.0, 2.0])
            return {"logits": x}

    model, x, target = Model(), torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    sizes = ({0: torch.export.Dim.AUTO},)
    np.savez("data.npz", x=x.numpy(), target=target.numpy())
    for strict in (False, True):
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=sizes, strict=strict), "model.pt2")
        problem = landscape.load_problem("model.pt2", data="data.npz", loss="cross-entropy")
        expected = torch.nn.functional.cross_entropy(model(x)["logits"], target).item()
        assert problem.loss() == pytest.approx(expected, rel=1e-6)
        assert problem.restricted(["layers.1"]).layout.names == ("layers.1.weight", "layers.1.bias")


def test_the_sample_inputs_of_a_program_are_left_out(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["program: two inputs"](tmp_path)
    rewritten(
        "model.pt2", lambda parts: {n: pickle.dumps(Runs("ran")) if "sample" in n else c for n, c in parts.items()}
    )
    assert command(*kind.arguments).status == 0
    assert not Path("ran").exists(), "code in a file was run"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"--loss": None}, "doesn't say what it was trained on: add --loss cross-entropy, mse, bce"),
        ({"--data": "untold.npz"}, "a program needs arrays, and a target"),
        ({"--data": "other.npz"}, "the program takes left, right, and there are left"),
    ],
)
def test_what_a_program_lacks(changed, expected, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    kind = KINDS["program: two inputs"](tmp_path)
    np.savez("untold.npz", left=np.ones((5, 3)), right=np.ones((5, 2)))
    np.savez("other.npz", left=np.ones((5, 3)), target=np.ones((5, 2)))
    asked = {"--data": "data.npz", "--loss": "mse"} | changed
    ran = command(kind.arguments[0], *(each for pair in asked.items() if pair[1] for each in pair))
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert expected in ran.err


def test_a_program_of_one_batch_size_takes_multiples_of_it(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    KINDS["program: convolutions, of one batch size"](tmp_path)
    images = np.random.default_rng(0).standard_normal((2 * SAMPLES, 3, 8, 8)).astype(np.float32)
    np.savez("twice.npz", x=images, target=np.zeros(2 * SAMPLES, int))
    np.savez("more.npz", x=images[:-1], target=np.zeros(2 * SAMPLES - 1, int))
    assert len(landscape.load_problem("model.pt2", data="twice.npz", loss="cross-entropy").batches) == 2
    ran = command("model.pt2", "--data", "more.npz", "--loss", "cross-entropy")
    assert ran.status == 2
    assert "exported for batches of 5 samples, and 9 aren't a multiple" in ran.err


# ---------------------------------------------------------------------- blocks that are made again


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_block_that_is_made_again_has_the_parameters_of_the_point(reentrant):
    """Without this package's care the block would be recomputed with the model's own parameters."""

    class Blocks(torch.nn.Module):
        def __init__(self, again):
            super().__init__()
            self.block, self.head, self.again = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2), again

        def forward(self, x):
            block = lambda y: torch.tanh(self.block(y))  # noqa: E731
            return self.head(checkpoint(block, x, use_reentrant=reentrant) if self.again else block(x))

    torch.manual_seed(0)
    plain, again = Blocks(False).double(), Blocks(True).double()
    again.load_state_dict(plain.state_dict())
    data = [(torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0]))]
    expected, found = (landscape.Problem(each, torch.nn.CrossEntropyLoss(), data) for each in (plain, again))
    point = torch.randn(expected.layout.dim, dtype=torch.float64)
    v = torch.randn_like(point)
    assert torch.equal(found.at(point).gradient(), expected.at(point).gradient())
    assert torch.equal(found.at(point).hessian().matvec(v), expected.at(point).hessian().matvec(v))


def test_the_documentation_lists_the_kinds_that_are_tried():
    text = (ROOT / "docs" / "models.md").read_text()
    assert len(KINDS) >= 25
    assert [name for name in KINDS if f"| {name.removeprefix('program: ')} |" not in text] == []


def test_an_optimiser_that_would_fill_the_memory_is_left_aside_with_a_note(gpt2, monkeypatch):
    np.save("tokens.npy", tokens().numpy())
    model = landscape.load_problem(gpt2, data="tokens.npy").model
    torch.save(torch.optim.Adam(model.parameters()).state_dict(), gpt2 / "optimizer.pt")
    assert landscape.load_problem(gpt2, data="tokens.npy").optimizer is not None
    monkeypatch.setattr(hugging_face, "half_of_memory", lambda _: 10)
    problem = landscape.load_problem(gpt2, data="tokens.npy")
    assert problem.optimizer is None
    assert any("more than half of the memory" in note for note in problem.notes)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The Trainer of transformers after two steps, with which it has written run/checkpoint-2."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    monkeypatch.chdir(tmp_path)
    np.save("tokens.npy", tokens().numpy())
    torch.manual_seed(0)
    rows = [{"input_ids": row, "labels": row} for row in tokens()]
    told = {"report_to": [], "disable_tqdm": True, "use_cpu": True}
    settings = TrainingArguments("run", max_steps=2, save_steps=2, per_device_train_batch_size=2, **told)
    trainer = Trainer(GPT2LMHeadModel(GPT2Config(**GPT2)), settings, train_dataset=rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return trainer


def test_the_optimiser_of_a_trainers_checkpoint_is_read(trained, command):
    ran = command("run", "--data", "tokens.npy", "--hessian", "-k", 1, "--precondition", "adam")
    assert (ran.status, ran.err) == (0, "")
    problem = landscape.load_problem("run/checkpoint-2", data="tokens.npy")
    found = entries_by_name(problem.optimizer, problem.model)
    kept = trained.optimizer.optimizer.state
    named = dict(trained.model.named_parameters())
    assert named.keys() == found.keys()
    for name, parameter in named.items():
        assert torch.equal(found[name].state["exp_avg_sq"], kept[parameter]["exp_avg_sq"]), name
    before = read_with_model(Path("run/checkpoint-2")).sha256
    other = torch.load("run/checkpoint-2/optimizer.pt", weights_only=True)
    other["state"][0]["exp_avg_sq"] += 1
    torch.save(other, "run/checkpoint-2/optimizer.pt")
    assert read_with_model(Path("run/checkpoint-2")).sha256 != before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no file of torch.save", "the optimiser is left out: "),
        (pickle.dumps(os.system), "would run code"),
        ({"step": 2}, "holds no state_dict of a torch optimiser"),
    ],
    ids=["damaged", "code", "another dictionary"],
)
def test_an_optimiser_that_cannot_be_read_is_left_aside_with_a_note(gpt2, content, told):
    np.save("tokens.npy", tokens().numpy())
    if isinstance(content, bytes):
        (gpt2 / "optimizer.pt").write_bytes(content)
    else:
        torch.save(content, gpt2 / "optimizer.pt")
    problem = landscape.load_problem(gpt2, data="tokens.npy")
    assert problem.optimizer is None
    assert any(told in note and "optimizer.pt" in note for note in problem.notes), problem.notes


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("gpt2, in two files", {"n_layer": 10**6}, "config.json: has n_layer 1,000,000, and its files hold"),
        ("llama", {"num_hidden_layers": 10**12}, "config.json: has num_hidden_layers 1,000,000,000,000, and"),
        ("resnet", {"depths": [1, 10**6], "hidden_sizes": [4, 4]}, "config.json: describes a model of more than"),
    ],
)
def test_a_configuration_of_more_layers_than_there_are_is_refused_at_once(kind, change, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FOLDERS[kind](tmp_path)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=told):
        read_with_model(tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": r"([a-z_.0-9]+)+!"},
        {"target_modules": ["c_attn"], "modules_to_save": [r"([a-z_.0-9]+)+!"]},
        {"rank_pattern": {r"([a-z_.0-9]+)+!": 2}},
    ],
    ids=lambda change: next(reversed(change)),
)
def test_a_regular_expression_without_end_in_an_adapter_is_refused(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bounds, "_SECONDS", 1.0)
    KINDS["lora on gpt2"](tmp_path)
    (path,) = tmp_path.rglob("adapter_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"adapter_config.json: the regular expression .* takes more than 1 s"):
        read_with_model(path.parent)
