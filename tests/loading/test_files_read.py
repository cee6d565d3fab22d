"""Files of a checkpoint: every file that is read is in the digest, and no file outside of its folders is read."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

import landscape
from landscape.checkpoint.files import digest
from landscape.loading.pretrained import read_with_model
from landscape.loading.pretrained.files import folder_at, tokenizer_files, tokenizer_place
from tests.conftest import ROOT
from tests.support.kinds import FOLDERS, GPT2, LM, folder
from tests.support.opened import opened_below, opened_by_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


def edited(path: Path, **changes: object) -> None:
    """A configuration with other settings."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def plain(path: Path) -> Path:
    folder("GPT2LMHeadModel", GPT2, LM)(path)
    return path / "model"


def with_everything_else(path: Path) -> Path:
    """A folder with all files that libraries look for beside a model."""
    model = plain(path)
    for name in ("generation_config", "preprocessor_config", "processor_config", "quantize_config", "config.5.0.0"):
        (model / f"{name}.json").write_text('{"max_new_tokens": 3}')
    for name in ("custom_generate/generate.py", "modeling_gpt2.py", "chat_template.jinja", "adapter_model.bin"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("raise SystemExit")
    (model / "training_args.bin").write_bytes(b"x")
    return model


def named(path: Path) -> Path:
    """A folder whose configuration names the file of its weights."""
    model = plain(path)
    (model / "other").mkdir()
    (model / "model.safetensors").rename(model / "other" / "weights.safetensors")
    edited(model / "config.json", transformers_weights="other/weights.safetensors")
    return model


def named_index(path: Path) -> Path:
    """A folder with an index and its files under unusual names, beside files of the usual names."""
    FOLDERS["gpt2, in two files"](path)
    model, index = path / "model", "mine.safetensors.index.json"
    (model / "model.safetensors.index.json").rename(model / index)
    (model / "parts").mkdir()
    for shard in model.glob("model-*.safetensors"):
        shard.rename(model / "parts" / shard.name)
    (model / index).write_text((model / index).read_text().replace('"model-0', '"parts/model-0'))
    shutil.copy(model / "parts" / "model-00001-of-00002.safetensors", model / "model.safetensors")
    edited(model / "config.json", transformers_weights=index)
    return model


def pickled(path: Path) -> Path:
    model = plain(path)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    return model


def pickled_in_two(path: Path) -> Path:
    model = pickled(path)
    state = torch.load(model / "pytorch_model.bin")
    (model / "pytorch_model.bin").unlink()
    parts = {"pytorch_model-1.bin": list(state)[::2], "pytorch_model-2.bin": list(state)[1::2]}
    for name, keys in parts.items():
        torch.save({key: state[key].clone() for key in keys}, model / name)
    index = {"metadata": {}, "weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return model


def cached(path: Path) -> Path:
    """A folder as in the cache of Hugging Face: links to files that are named by their content."""
    FOLDERS["gpt2, in two files"](path)
    (path / "blobs").mkdir()
    for count, file in enumerate((path / "model").iterdir()):
        file.rename(path / "blobs" / str(count))
        file.symlink_to(Path("..") / "blobs" / str(count))
    return path / "model"


def adapter(path: Path) -> Path:
    FOLDERS["lora on gpt2"](path)
    return path / "adapter"


def pickled_adapter(path: Path) -> Path:
    folder = adapter(path)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    return folder


def adapter_in_its_model(path: Path) -> Path:
    """An adapter and its model in one folder; the adapter names a model that doesn't exist."""
    shutil.copytree(adapter(path), path / "model", dirs_exist_ok=True)
    edited(path / "model" / "adapter_config.json", base_model_name_or_path="somewhere/else")
    return path / "model"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "one file": plain,
    "beside all that libraries look for": with_everything_else,
    "named by the configuration": named,
    "an index named by the configuration": named_index,
    "a pickle": pickled,
    "two pickles": pickled_in_two,
    "links into a cache": cached,
    "an adapter": adapter,
    "a pickled adapter": pickled_adapter,
    "an adapter in its model's folder": adapter_in_its_model,
}


def installed(file: Path) -> bool:
    """Whether a file belongs to Python, its packages, this package or the system."""
    roots = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/proc", "/sys", "/dev", "/usr", "/etc"}
    roots.add(str(ROOT / "landscape"))
    return any(Path(root) in file.parents for root in roots)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_opened_is_in_the_digest(name, tmp_path):
    path = LAYOUTS[name](tmp_path)
    found = folder_at(path)
    known = {file.resolve() for file in (*found.files, *tokenizer_files(tokenizer_place(found)))}
    with opened_below(tmp_path) as below, opened_by_python() as anywhere:
        checkpoint = read_with_model(path)
    assert below <= known
    assert checkpoint.sha256 == digest(found.files)
    assert {file for file in anywhere if not installed(file) and file.resolve() not in known} == set()
    assert {file.resolve() for file in found.weights} <= below, "the test doesn't hear how weights are opened"


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_byte_of_any_file_changes_the_digest(name, tmp_path):
    path = LAYOUTS[name](tmp_path)
    before = digest(folder_at(path).files)
    for file in folder_at(path).files:
        content = file.read_bytes()
        # A blank at the end of JSON changes the file but not its meaning.
        file.write_bytes(content + b" " if file.suffix == ".json" else content[:-1] + bytes([content[-1] ^ 1]))
        assert digest(folder_at(path).files) != before, file
        file.write_bytes(content)
    assert digest(folder_at(path).files) == before


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_weights_are_those_that_transformers_reads(name, tmp_path):
    """The right weights come from transformers' and peft's own functions."""
    import peft
    import transformers

    path = LAYOUTS[name](tmp_path)
    adapted = (path / "adapter_config.json").is_file()
    under = tmp_path / "model"
    if name == "an adapter in its model's folder":  # transformers would put the adapter on by itself
        (path / "adapter_config.json").rename(tmp_path / "adapter_config.json")
    expected = transformers.GPT2LMHeadModel.from_pretrained(under)
    if name == "an adapter in its model's folder":
        (tmp_path / "adapter_config.json").rename(path / "adapter_config.json")
    if adapted:
        expected = peft.PeftModel.from_pretrained(expected, path)
    found = read_with_model(path).state
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in expected.state_dict().items())


def test_digests_are_those_of_version_0_1(tmp_path):
    """SHA-256 of the names and digests of the files in their order, training_args.bin included."""
    model = with_everything_else(tmp_path)
    names = ("adapter_model.bin", "config.json", "model.safetensors", "training_args.bin")
    lines = [f"{name}:{hashlib.sha256((model / name).read_bytes()).hexdigest()}\n" for name in names]
    assert read_with_model(model).sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_two_models_under_one_configuration_are_two(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(named(tmp_path), "second")
    weights = load_file("second/other/weights.safetensors")
    save_file(
        {key: 1.1 * value for key, value in weights.items()}, "second/other/weights.safetensors", {"format": "pt"}
    )
    ran = command("model", "second", "--data", "data.safetensors", "-o", "both.h5")
    assert ran.status == 0
    with landscape.open_record("both.h5") as record:
        losses = record["loss"].dataset["loss"].values
    assert len(set(losses)) == 2


OUTSIDE = {
    "weights": {"transformers_weights": "../elsewhere/model.safetensors"},
    "weights by an absolute path": {"transformers_weights": "{root}/elsewhere/model.safetensors"},
    "an index": {"transformers_weights": "../elsewhere/model.safetensors.index.json"},
    "weights that aren't there": {"transformers_weights": "other.safetensors"},
    "weights that are no name": {"transformers_weights": 3},
    "another configuration": {"configuration_files": ["../elsewhere/config.5.0.0.json"]},
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_of_a_folder_is_read(name, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(plain(tmp_path), "elsewhere")
    changes = {k: v.format(root=tmp_path) if isinstance(v, str) else v for k, v in OUTSIDE[name].items()}
    edited(Path("model/config.json"), **changes)
    with opened_below(tmp_path / "elsewhere") as opened:
        ran = command("model", "--data", "data.safetensors")
    assert (ran.status, len(ran.err.splitlines()), opened) == (2, 1, set()), ran.err
    assert "names" in ran.err


def test_an_index_leads_into_its_folder_alone(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(named_index(tmp_path), "elsewhere")
    index = Path("model/mine.safetensors.index.json")
    index.write_text(index.read_text().replace("parts/model-00002", "../elsewhere/parts/model-00002"))
    with opened_below(tmp_path / "elsewhere") as opened:
        ran = command("model", "--data", "data.safetensors")
    assert (ran.status, opened) == (2, set())
    assert "names '../elsewhere/parts/model-00002-of-00002.safetensors', not in model" in ran.err


def test_an_adapter_without_its_weights_is_not_sought_in_a_cache(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (adapter(tmp_path) / "adapter_model.safetensors").unlink()
    ran = command("adapter", "--data", "data.safetensors")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "adapter: has no weights of an adapter (adapter_model.safetensors, adapter_model.bin)" in ran.err


def test_an_adapter_with_a_part_of_its_weights_is_refused(tmp_path, monkeypatch, command):
    """The missing weights would be drawn at random by peft."""
    monkeypatch.chdir(tmp_path)
    file = adapter(tmp_path) / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[1:]), file)
    ran = command("adapter", "--data", "data.safetensors")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "the adapter has 1 tensors that aren't in adapter_model.safetensors" in ran.err


def test_an_adapter_on_an_adapter_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    adapter_in_its_model(tmp_path)
    ran = command("adapter", "--data", "data.safetensors")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "has an adapter of its own: merge" in ran.err


def test_every_file_of_a_tokenizer_is_known(tmp_path):
    """All names of files in the classes of transformers are known."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    names = set()
    for kind in {tokenizer_class_from_name(name) for name in TOKENIZER_MAPPING_NAMES.values() if name} - {None}:
        with suppress(ImportError, AttributeError):  # a library is missing; it consists of two others
            names |= set(kind.vocab_files_names.values())
    names |= {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.4.0.0.json"}
    for name in names:
        (tmp_path / name).touch()
    assert len(names) >= 20
    assert names - {file.name for file in tokenizer_files(tmp_path)} == set()


@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "PreTrainedTokenizerFast"}], ids=["by class", "by file"])
def test_text_is_read_by_the_files_of_the_tokenizer(settings, tmp_path, monkeypatch):
    """Settings that name files elsewhere have no effect."""
    monkeypatch.chdir(tmp_path)
    model, elsewhere = plain(tmp_path), tmp_path / "elsewhere"
    vocabulary = {"a": 0, "b": 1, "ab": 2}
    for place, order in ((model, 1), (elsewhere, -1)):
        place.mkdir(exist_ok=True)
        words = {word: i for i, word in enumerate(list(vocabulary)[::order])}
        (place / "vocab.json").write_text(json.dumps(words))
        (place / "merges.txt").write_text("#version: 0.2\na b\n")
        if settings:
            Tokenizer(models.BPE(words, [("a", "b")])).save(str(place / "tokenizer.json"))
        (place / "chat_template.jinja").write_text("")
    names = {"vocab_file": "vocab.json", "merges_file": "merges.txt", "tokenizer_file": "tokenizer.json"}
    leading = {key: str(elsewhere / name) for key, name in names.items()}
    (model / "tokenizer_config.json").write_text(json.dumps(settings | leading))
    Path("temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    Path("text.txt").write_text("ab" * 8 + "b" * 4 + "a" * 4)
    known = {file.resolve() for file in (*folder_at(model).files, *tokenizer_files(model), Path("text.txt"))}
    with opened_below(tmp_path) as below, opened_by_python() as anywhere:
        (batch,) = landscape.load_problem(model, data="text.txt", length=16).batches
    assert batch[0]["input_ids"].tolist() == [[2] * 8 + [1] * 4 + [0] * 4]
    assert below <= known
    assert model / ("tokenizer.json" if settings else "vocab.json") in below
    others = {file for file in anywhere if not installed(file) and file.resolve() not in known}
    assert {file for file in others if tmp_path / "temporary" not in file.parents} == set()
